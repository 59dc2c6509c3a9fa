"""Text and faces in pixels: which instances are at risk, and which rectangles of which devices are blanked.

Nothing is guessed. An instance at risk is refused unless a rule knows its device, it has ultrasound regions, or
somebody who has seen such pixels allows them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian

from node.deidentify.refusal import NotDeidentified, Reason
from node.dicom.reading import stored_bytes
from node.dicom.values import items, text, texts, value, whole
from node.errors import ConversionRefused, UsageError, nearest
from node.volume.read.pixel_layout import HALF_SAMPLED, PIXELS, PixelLayout, pixel_layout
from node.volume.read.transcoding import decompress
from node.volume.read.transfer_syntaxes import NATIVE, NotTranscodable

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SECONDARY_CAPTURE = re.compile(re.escape(_STORAGE) + r"7(\.\d+)?")
_ULTRASOUND = re.compile(re.escape(_STORAGE) + r"(3|3\.1|6|6\.1|6\.2|6\.3)")
_VISIBLE_LIGHT = re.compile(re.escape(_STORAGE) + r"77\.1\.\d+(\.\d+)?")
_WHOLE_SLIDE = f"{_STORAGE}77.1.6"
_ULTRASOUND_MODALITIES = frozenset(("US", "IVUS"))
_CAPTURED = frozenset(("DF", "DRW", "DV", "SD", "SI", "WSD"))
"""Conversion Types (0008,0064) of digitized films, drawings, videos, scanned documents and workstations."""

_OVERLAY_GROUPS = tuple(range(0x6000, 0x6020, 2))
_OVERLAY_DATA, _OVERLAY_BITS_ALLOCATED = 0x3000, 0x0100
_MAX_RULES_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20

Rectangle = tuple[int, int, int, int]
"""Left column, top row, width and height, in pixels from 0."""


@dataclass(frozen=True, slots=True)
class PixelRule:
    """What is burned in by a device: rectangles to blank, or the only ones to keep; neither: its pixels are clean."""

    name: str
    when: Mapping[str, tuple[Any, ...]]
    blank: tuple[Rectangle, ...]
    keep: tuple[Rectangle, ...]

    def fits(self, ds: Dataset) -> bool:
        """Return whether all attributes of an instance are as the rule has them; text without case, with ``*``."""
        return all(_fits(ds, keyword, wanted) for keyword, wanted in self.when.items())


def _fits(ds: Dataset, keyword: str, wanted: tuple[Any, ...]) -> bool:
    found = [whole(ds, keyword)] if isinstance(wanted[0], int) else [each.casefold() for each in texts(ds, keyword)]
    return any(
        each == want if isinstance(want, int) else fnmatchcase(str(each), want.casefold())
        for each in found
        for want in wanted
    )


def read_rules(path: Path) -> tuple[PixelRule, ...]:
    """Return the rules of a TOML file, in their order: the first that fits counts.

    Raises
    ------
    UsageError
        The file is not TOML, or a rule is wrong; the message names the value and the rule.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.loads(file.read(_MAX_RULES_BYTES).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    unknown = set(content) - {"device"}
    if unknown or not isinstance(content.get("device"), list):
        raise UsageError(f"{path}: a file of pixel rules has tables [[device]] and nothing else")
    return tuple(_rule(path, number, table) for number, table in enumerate(content["device"], 1))


def _rule(path: Path, number: int, table: Mapping[str, Any]) -> PixelRule:
    name = table.get("name", f"device {number}")
    place = f"{path}, {name}"
    for key in table:
        if key not in ("name", "when", "blank", "keep"):
            raise UsageError(f"{place}: {key}: no such key{nearest(key, ('name', 'when', 'blank', 'keep'))}")
    when = table.get("when")
    if not isinstance(when, dict) or not when:
        raise UsageError(f'{place}: when is missing; name the device, such as {{ Manufacturer = "GE*", Rows = 768 }}')
    if "blank" in table and "keep" in table:
        raise UsageError(f"{place}: blank and keep exclude each other; choose one")
    return PixelRule(
        str(name),
        {keyword: _wanted(place, keyword, values) for keyword, values in when.items()},
        _rectangles(place, table.get("blank", [])),
        _rectangles(place, table.get("keep", [])),
    )


def _wanted(place: str, keyword: str, values: Any) -> tuple[Any, ...]:
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) == "SQ":
        raise UsageError(f"{place}: {keyword}: not the keyword of an attribute{nearest(keyword, keyword_dict)}")
    given = tuple(values) if isinstance(values, list) else (values,)
    if not given or not (all(type(each) is int for each in given) or all(isinstance(each, str) for each in given)):
        raise UsageError(f"{place}: {keyword} must be a text, a whole number, or a list of either")
    return given


def _rectangles(place: str, given: Any) -> tuple[Rectangle, ...]:
    if not isinstance(given, list):
        raise UsageError(f"{place}: rectangles are a list of [left, top, width, height]")
    for each in given:
        if not (isinstance(each, list) and len(each) == 4 and all(type(side) is int and side >= 0 for side in each)):
            raise UsageError(f"{place}: {each!r}: a rectangle is [left, top, width, height], in pixels from 0")
    return tuple((left, top, width, height) for left, top, width, height in given)


def risks_of(ds: Dataset) -> Iterator[tuple[Reason, str]]:
    """Yield why the pixels of an instance may show who it is; nothing if its kind of instance usually does not."""
    sop_class, modality = text(ds, "SOPClassUID"), text(ds, "Modality")
    image_type = [each.upper() for each in texts(ds, "ImageType")]
    if text(ds, "BurnedInAnnotation").upper() == "YES":
        yield Reason.BURNED_IN, "(0028,0301) Burned In Annotation is YES"
    if text(ds, "RecognizableVisualFeatures").upper() == "YES":
        yield Reason.RECOGNIZABLE, "(0028,0302) Recognizable Visual Features is YES"
    if _ULTRASOUND.fullmatch(sop_class) or modality in _ULTRASOUND_MODALITIES:
        yield Reason.ULTRASOUND, "ultrasound devices draw patient data into their images"
    screen = any(each.startswith("SCREEN") for each in image_type)
    if _SECONDARY_CAPTURE.fullmatch(sop_class) or screen or text(ds, "ConversionType") in _CAPTURED:
        yield Reason.SECONDARY_CAPTURE, "secondary captures, screenshots and scans may show patient data"
    if sop_class == _WHOLE_SLIDE:
        if {"LABEL", "OVERVIEW"} & set(image_type):
            yield Reason.PHOTOGRAPH, "the image shows the label of a slide"
    elif _VISIBLE_LIGHT.fullmatch(sop_class):
        yield Reason.PHOTOGRAPH, "photographs and videos may show faces and labels"


def regions(ds: Dataset, rules: Sequence[PixelRule]) -> NDArray[np.bool_] | None:
    """Return which pixels of each frame are blanked; None if nothing is known of this device.

    Returns
    -------
    (rows, columns) array of bool or None
        By the first rule that fits, else everything outside the Sequence of Ultrasound Regions (0018,6011).
    """
    rows, columns = whole(ds, "Rows") or 0, whole(ds, "Columns") or 0
    rule = next((rule for rule in rules if rule.fits(ds)), None)
    if rule is not None and not rule.keep:
        return _covered(rule.blank, rows, columns)
    kept = rule.keep if rule is not None else _ultrasound_regions(ds)
    return ~_covered(kept, rows, columns) if kept else None


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


def _covered(rectangles: Sequence[Rectangle], rows: int, columns: int) -> NDArray[np.bool_]:
    mask = np.zeros((rows, columns), bool)
    for left, top, width, height in rectangles:
        mask[top : top + height, left : left + width] = True
    return mask


def has_pixels(ds: Dataset) -> bool:
    """Return whether an instance has pixel data."""
    return any(keyword in ds for keyword in PIXELS)


def has_overlays_in_pixels(ds: Dataset) -> bool:
    """Return whether overlays are in unused bits of the pixels (PS3.5 8.1.2, retired)."""
    return any(
        (group << 16 | _OVERLAY_BITS_ALLOCATED) in ds and (group << 16 | _OVERLAY_DATA) not in ds
        for group in _OVERLAY_GROUPS
    )


def blank(ds: Dataset, mask: NDArray[np.bool_] | None, *, unused_bits: bool = False) -> None:
    """Blank pixels of all frames, in place; compressed frames are decoded, and are native afterwards.

    Parameters
    ----------
    ds : Dataset
        In little endian. One copy of its native pixels is made.
    mask : (rows, columns) array of bool or None
        The pixels to blank; None: none.
    unused_bits : bool
        Clear the bits of all pixels that hold no value: they may hold an overlay.

    Raises
    ------
    NotDeidentified
        ``undecodable``
    """
    try:
        if text(ds.file_meta, "TransferSyntaxUID") not in NATIVE:
            decompress(ds)
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        layout = pixel_layout(ds, "PixelData")
        if layout.bits_allocated not in (1, 8, 16, 32, 64):
            raise NotDeidentified(Reason.UNDECODABLE, f"{layout.bits_allocated} bits a sample cannot be blanked")
        stored, _ = stored_bytes(ds, "PixelData")
        if stored is None or len(stored) < -(-layout.frame_bits * layout.frames // 8):
            raise NotDeidentified(Reason.UNDECODABLE, "(7FE0,0010) Pixel Data is too short")
    except (ConversionRefused, NotTranscodable) as error:
        raise NotDeidentified(Reason.UNDECODABLE, f"the pixels cannot be cleaned: {error}") from error
    copy = BytesIO()
    for start in range(0, len(stored), _CHUNK_BYTES):
        copy.write(stored[start : start + _CHUNK_BYTES])
    del ds.PixelData
    with copy.getbuffer() as pixels:
        if unused_bits and layout.bits_allocated > 1:
            words = _samples(pixels, layout)
            words &= words.dtype.type(((1 << layout.bits_stored) - 1) << layout.shift)
            del words
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
