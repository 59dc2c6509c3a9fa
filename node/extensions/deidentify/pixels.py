"""What pixels show of a person, and what pixel data hold beside pixels.

Text and faces: nothing is guessed. An instance at risk is refused unless a rule knows its device, it has ultrasound
regions, or somebody who has seen such pixels allows them; rectangles are blanked.

Beside pixels: bytes after the last frame, values in unused bits, remarks in codestreams. Viewers show none of it, so
nobody who looks at the pixels finds the name that a camera or a converter has left there. Nothing is searched: what
leaves is made of the pixels.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments, parse_basic_offsets
from pydicom.uid import ExplicitVRLittleEndian, MPEGTransferSyntaxes

from node.dicom.reading import FileBytes, stored_bytes
from node.dicom.values import held, items, standard_tag, text, texts, value, whole
from node.errors import ConversionRefused
from node.extensions.deidentify.deidentification import NotDeidentified, PixelRule, Rectangle, RefusalReason
from node.extensions.deidentify.jpeg import NotProven, pixels_alone
from node.volume.read.encoders import compressed
from node.volume.read.pixel_layout import HALF_SAMPLED, PIXELS, PixelLayout, pixel_layout
from node.volume.read.pixels import checked_frames, decompressed_frames
from node.volume.read.transcoding import decompress
from node.volume.read.transfer_syntaxes import CODESTREAM_SYNTAXES, JPEG, NATIVE, NotTranscodable, begins

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


CHUNK_BYTES = 1 << 20

_OFFSET_TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_MAX_BASIC_OFFSET = (1 << 32) - 1


def drop_hidden(ds: Dataset) -> None:
    """Leave nothing but pixels in the elements of pixels, in place; values of pixels stay as they are.

    Native pixel data end with the last frame. Frames of sequential JPEG are written anew from what their blocks use, or
    are native afterwards if these reach beyond the image; all others are decoded and compressed again without loss, or
    are native if nothing encodes them. Offset tables are written anew. Videos stay as they are.

    Raises NotDeidentified ``unreadable``: nobody can tell what is a pixel, because the attributes of the pixels
    contradict each other, the pixel data are not encoded as their transfer syntax says or in one that nothing decodes,
    or there are more frames than Number of Frames (0028,0008), which no viewer shows.
    """
    syntax = text(ds.file_meta, "TransferSyntaxUID")
    for keyword in PIXELS:
        stored, encapsulated = stored_bytes(ds, keyword)
        if not stored:
            continue
        if encapsulated is (syntax in NATIVE) or (encapsulated and keyword != "PixelData"):
            raise NotDeidentified(
                RefusalReason.UNREADABLE, "the pixel data are not encoded as their transfer syntax says"
            )
        if syntax in NATIVE:
            _cut(ds, keyword, stored)
        else:
            _write_anew(ds, stored[:], syntax)
    if syntax in (*NATIVE, *MPEGTransferSyntaxes) or not stored_bytes(ds, "PixelData")[0]:
        _drop_extended_table(ds)


def _cut(ds: Dataset, keyword: str, stored: bytes | FileBytes) -> None:
    layout = _layout(ds, keyword)
    length = -(-layout.frame_bits * layout.frames // 8)
    if len(stored) <= length:
        return
    tag = standard_tag(keyword)
    element = held(ds, tag)
    if isinstance(element, RawDataElement):
        value = None if element.value is None else element.value[:length]
        ds[tag] = element._replace(length=length, value=value)
    else:
        element.value = stored[:length]


def _layout(ds: Dataset, keyword: str) -> PixelLayout:
    try:
        return pixel_layout(ds, keyword)
    except ConversionRefused as error:
        raise NotDeidentified(
            RefusalReason.UNREADABLE, f"nobody can tell which bytes are pixels: {error.detail}"
        ) from error


def uses_spare_bits(ds: Dataset) -> bool:
    """Return whether bits of native pixels that hold no value hold something else, such as an overlay (PS3.5 8.1.1).

    The extension of a sign and Pixel Padding Value (0028,0120) are nothing else.
    """
    if "PixelData" not in ds or text(ds.file_meta, "TransferSyntaxUID") not in NATIVE:
        return False
    layout = _layout(ds, "PixelData")
    stored, _ = stored_bytes(ds, "PixelData")
    if layout.bits_stored == layout.bits_allocated or stored is None:
        return False
    padding = padding_value(ds)
    for start in range(0, len(stored), CHUNK_BYTES):
        piece = stored[start : start + CHUNK_BYTES]
        words = np.frombuffer(piece, f"<u{layout.bits_allocated // 8}", len(piece) * 8 // layout.bits_allocated)
        if spare_bits_used(words, layout, padding).any():
            return True
    return False


def padding_value(ds: Dataset) -> int | None:
    """Return Pixel Padding Value (0028,0120) as an unsigned word of 16 bits; None if there is none."""
    padding = whole(ds, "PixelPaddingValue")
    return None if padding is None else padding & 0xFFFF


def spare_bits_used(words: NDArray[np.unsignedinteger], layout: PixelLayout, padding: int | None) -> NDArray[np.bool_]:
    """Return which words have something in their unused bits."""
    spare = layout.bits_allocated - layout.bits_stored
    if layout.signed and not layout.shift:
        signed = words.view(layout.stored_dtype.newbyteorder("<"))
        used = (signed << spare) >> spare != signed
    else:
        used = (words & ~words.dtype.type(value_bits(layout))) != 0
    if padding is not None and used.any():
        used &= words != padding
    return np.asarray(used, bool)


def value_bits(layout: PixelLayout) -> int:
    """Return the bits of a word that hold the value."""
    return ((1 << layout.bits_stored) - 1) << layout.shift


def clear_spare_bits(words: NDArray[Any], layout: PixelLayout, padding: int | None) -> None:
    """Clear the bits of unsigned words that hold no value, in place."""
    used = spare_bits_used(words, layout, padding)
    words[used] &= words.dtype.type(value_bits(layout))
    if layout.signed and not layout.shift:  # readers that do not look at Bits Stored rely on the extension of the sign
        negative = used & (words >> (layout.bits_stored - 1) & 1).astype(bool)
        words[negative] |= ~words.dtype.type(value_bits(layout))


def _write_anew(ds: Dataset, stored: bytes, syntax: str) -> None:
    """Write compressed pixel data anew: offset tables, and frames from their pixels."""
    try:
        with BytesIO(stored) as buffer:
            has_table, fragments = bool(parse_basic_offsets(buffer)), list(generate_fragments(buffer))
        if syntax in MPEGTransferSyntaxes:
            ds["PixelData"].value = encapsulate(fragments, has_bot=False)
            return
        layout = _layout(ds, "PixelData")
        begun = sum(map(begins, fragments)) if syntax in CODESTREAM_SYNTAXES else len(fragments)
        if begun > layout.frames:
            detail = f"(0028,0008) Number of Frames is {layout.frames}, and the pixel data hold {begun}"
            raise NotDeidentified(RefusalReason.UNREADABLE, detail)
        if syntax in JPEG[:2]:
            frames = [pixels_alone(frame) for frame in checked_frames(ds, layout, stored, syntax)[0]]
            frames = frames if all(frames) else []
        else:
            frames = _compressed_again(ds, layout, syntax)
    except (ConversionRefused, NotProven, ValueError, struct.error) as error:
        raise NotDeidentified(
            RefusalReason.UNREADABLE,
            f"a compressed frame is damaged, or cannot be proven to hold pixels alone ({error})",
        ) from None
    is_extended = _drop_extended_table(ds)
    if not frames:
        make_native(ds)
    elif is_extended or sum(len(frame) + 9 for frame in frames) > _MAX_BASIC_OFFSET:
        ds["PixelData"].value, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        ds["PixelData"].value = encapsulate(frames, has_bot=has_table)


def _drop_extended_table(ds: Dataset) -> bool:
    """Remove the extended offset table; return whether there was one."""
    return any([ds.pop(standard_tag(keyword), None) is not None for keyword in _OFFSET_TABLES])


def _compressed_again(ds: Dataset, layout: PixelLayout, syntax: str) -> list[bytes]:
    """Return frames that are decoded, without spare bits, and compressed again; none if nothing encodes them."""
    decoded, padding, frames = decompressed_frames(ds), padding_value(ds), []
    try:
        for frame in decoded.frames:
            samples = np.ascontiguousarray(frame, decoded.layout.stored_dtype).copy()
            if layout.bits_allocated > layout.bits_stored:
                clear_spare_bits(samples.view(f"u{samples.itemsize}"), layout, padding)
            frames.append(compressed(samples, layout, syntax))
    except NotTranscodable:
        return []
    if layout.samples > 1:
        ds.PlanarConfiguration = 0
        is_transformed = layout.photometric.startswith(("YBR_RCT", "YBR_ICT"))
        ds.PhotometricInterpretation = "YBR_RCT" if is_transformed else decoded.photometric
    return frames


def make_native(ds: Dataset) -> None:
    """Decode compressed frames, in place; the transfer syntax is Explicit VR Little Endian afterwards.

    Raises NotDeidentified ``undecodable``: also if the frames are longer than a value can be (PS3.5 7.1.1).
    """
    try:
        decompress(ds)
    except (ConversionRefused, NotTranscodable) as error:
        raise NotDeidentified(RefusalReason.UNDECODABLE, f"the pixels cannot be cleaned: {error}") from error
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
