"""Text and faces in pixels: which instances are at risk, and how rectangles of them are blanked.

Nothing is guessed. An instance at risk is refused unless a rule knows its device, it has ultrasound regions, or
somebody who has seen such pixels allows them.
"""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from node.dicom.reading import stored_bytes
from node.dicom.values import items, text, texts, value, whole
from node.errors import ConversionRefused
from node.extensions.deidentify.deidentification import NotDeidentified, PixelRule, Rectangle, RefusalReason
from node.extensions.deidentify.hidden import CHUNK_BYTES, clear_spare_bits, make_native, padding_value
from node.volume.read.pixel_layout import HALF_SAMPLED, PIXELS, PixelLayout, pixel_layout
from node.volume.read.transfer_syntaxes import NATIVE

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SECONDARY_CAPTURE = re.compile(re.escape(_STORAGE) + r"7(\.\d+)?")
_ULTRASOUND = re.compile(re.escape(_STORAGE) + r"(3|3\.1|6|6\.1|6\.2|6\.3)")
_VISIBLE_LIGHT = re.compile(re.escape(_STORAGE) + r"77\.1\.\d+(\.\d+)?")
_WHOLE_SLIDE = f"{_STORAGE}77.1.6"
_ULTRASOUND_MODALITIES = frozenset(("US", "IVUS"))
_CAPTURED = frozenset(("DF", "DRW", "DV", "SD", "SI", "WSD"))
"""Conversion Types (0008,0064) of digitized films, drawings, videos, scanned documents and workstations."""


def risks_of(ds: Dataset) -> Iterator[tuple[RefusalReason, str]]:
    """Yield why the pixels of an instance may show who it is; nothing if its kind of instance usually does not."""
    sop_class, modality = text(ds, "SOPClassUID"), text(ds, "Modality")
    image_type = [each.upper() for each in texts(ds, "ImageType")]
    if text(ds, "BurnedInAnnotation").upper() == "YES":
        yield RefusalReason.BURNED_IN, "(0028,0301) Burned In Annotation is YES"
    if text(ds, "RecognizableVisualFeatures").upper() == "YES":
        yield RefusalReason.RECOGNIZABLE, "(0028,0302) Recognizable Visual Features is YES"
    if _ULTRASOUND.fullmatch(sop_class) or modality in _ULTRASOUND_MODALITIES:
        yield RefusalReason.ULTRASOUND, "ultrasound devices draw patient data into their images"
    screen = any(each.startswith("SCREEN") for each in image_type)
    if _SECONDARY_CAPTURE.fullmatch(sop_class) or screen or text(ds, "ConversionType") in _CAPTURED:
        yield RefusalReason.SECONDARY_CAPTURE, "secondary captures, screenshots and scans may show patient data"
    if sop_class == _WHOLE_SLIDE:
        if {"LABEL", "OVERVIEW"} & set(image_type):
            yield RefusalReason.PHOTOGRAPH, "the image shows the label of a slide"
    elif _VISIBLE_LIGHT.fullmatch(sop_class):
        yield RefusalReason.PHOTOGRAPH, "photographs and videos may show faces and labels"


def regions(ds: Dataset, rules: Sequence[PixelRule]) -> NDArray[np.bool_] | None:
    """Return which pixels of each frame are blanked; None if nothing is known of this device.

    Result: (rows, columns) array of bool or None; by the first rule that fits, else everything outside the Sequence of
    Ultrasound Regions (0018,6011).
    """
    rows, columns = whole(ds, "Rows") or 0, whole(ds, "Columns") or 0
    rule = next((rule for rule in rules if rule.fits(ds)), None)
    if rule is not None and not rule.keep:
        return covered(rule.blank, rows, columns)
    kept = rule.keep if rule is not None else _ultrasound_regions(ds)
    return ~covered(kept, rows, columns) if kept else None


def _ultrasound_regions(ds: Dataset) -> tuple[Rectangle, ...]:
    """Return the calibrated regions of an ultrasound image (PS3.3 C.8.5.5), whose ends are the last pixels in them."""
    found = []
    for item in items(ds, "SequenceOfUltrasoundRegions"):
        left, top, right, bottom = (
            value(item, f"RegionLocation{corner}") for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        )
        if all(isinstance(each, int) for each in (left, top, right, bottom)) and right > left and bottom > top:
            found.append((left, top, right - left + 1, bottom - top + 1))
    return tuple(found)


def covered(rectangles: Sequence[Rectangle], rows: int, columns: int) -> NDArray[np.bool_]:
    mask = np.zeros((rows, columns), bool)
    for left, top, width, height in rectangles:
        mask[top : top + height, left : left + width] = True
    return mask


def has_pixels(ds: Dataset) -> bool:
    """Return whether an instance has pixel data."""
    return any(keyword in ds for keyword in PIXELS)


def blank(ds: Dataset, mask: NDArray[np.bool_] | None) -> None:
    """Blank pixels of all frames, in place; compressed frames are decoded, and are native afterwards.

    `ds`: in little endian. One copy of its native pixels is made. `mask`: (rows, columns) array of bool or None; the
    pixels to blank; None: none. Bits of pixels that hold no value are cleared: they may hold an overlay.

    Raises NotDeidentified ``undecodable``.
    """
    try:
        if text(ds.file_meta, "TransferSyntaxUID") not in NATIVE:
            make_native(ds)
        layout = pixel_layout(ds, "PixelData")
        if layout.bits_allocated not in (1, 8, 16, 32, 64):
            raise NotDeidentified(RefusalReason.UNDECODABLE, f"{layout.bits_allocated} bits a sample cannot be blanked")
        stored, _ = stored_bytes(ds, "PixelData")
        if stored is None or len(stored) < -(-layout.frame_bits * layout.frames // 8):
            raise NotDeidentified(RefusalReason.UNDECODABLE, "(7FE0,0010) Pixel Data is too short")
    except ConversionRefused as error:
        raise NotDeidentified(RefusalReason.UNDECODABLE, f"the pixels cannot be cleaned: {error}") from error
    copy = BytesIO()
    for start in range(0, len(stored), CHUNK_BYTES):
        copy.write(stored[start : start + CHUNK_BYTES])
    del ds.PixelData
    with copy.getbuffer() as pixels:
        if layout.bits_allocated > 1:
            clear_spare_bits(_samples(pixels, layout), layout, padding_value(ds))
        if mask is not None:
            _blank(pixels, layout, mask)
    vr = "OW" if layout.bits_allocated > 8 or ds.original_encoding[0] else "OB"
    ds.add_new("PixelData", vr, copy.getvalue())  # the bytes of `copy` themselves: CPython copies when either changes


def _samples(pixels: memoryview, layout: PixelLayout) -> NDArray[Any]:
    count = layout.frame_bits * layout.frames // layout.bits_allocated
    return np.frombuffer(pixels, f"<u{layout.bits_allocated // 8}", count)


def _blank(pixels: memoryview, layout: PixelLayout, mask: NDArray[np.bool_]) -> None:
    if layout.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(pixels, np.uint8), bitorder="little")
        bits[: layout.pixels * layout.frames].reshape(layout.frames, *mask.shape)[:, mask] = 0
        pixels[:] = np.packbits(bits, bitorder="little").tobytes()
        return
    samples = _samples(pixels, layout)
    full = (1 << layout.bits_stored) - 1
    grey = 1 << (layout.bits_stored - 1)
    if layout.photometric in HALF_SAMPLED:  # two luminances, then the two chrominances that they share
        pairs = samples.reshape(layout.frames, layout.rows, layout.columns // 2, 4)
        pairs[:, mask[:, ::2] | mask[:, 1::2]] = (0, 0, grey, grey)
        return
    black = (0, grey, grey) if layout.photometric.startswith("YBR") else (0,) * layout.samples
    if layout.photometric == "MONOCHROME1":
        black = (full << layout.shift if not layout.signed else full >> 1 << layout.shift,)
    for index in range(layout.samples):
        if layout.by_plane:
            plane = samples.reshape(layout.frames, layout.samples, layout.rows, layout.columns)[:, index]
        else:
            plane = samples.reshape(layout.frames, layout.rows, layout.columns, layout.samples)[..., index]
        plane[:, mask] = black[index]
