"""What pixel data hold beside pixels: bytes after the last frame, values in unused bits, remarks in codestreams.

Viewers show none of it, so nobody who looks at the pixels finds the name that a camera or a converter has left there.
Nothing is searched: what leaves is made of the pixels.
"""

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, encapsulate_extended, generate_fragments, parse_basic_offsets
from pydicom.uid import ExplicitVRLittleEndian, MPEGTransferSyntaxes

from node.dicom.reading import FileBytes, stored_bytes
from node.dicom.values import held, standard_tag, text, whole
from node.errors import ConversionRefused
from node.extensions.deidentify.deidentification import NotDeidentified, RefusalReason
from node.extensions.deidentify.jpeg import NotProven, pixels_alone
from node.volume.read.encoders import compressed
from node.volume.read.pixel_layout import PIXELS, PixelLayout, pixel_layout
from node.volume.read.pixels import checked_frames, decompressed_frames
from node.volume.read.transcoding import decompress
from node.volume.read.transfer_syntaxes import CODESTREAM_SYNTAXES, JPEG, NATIVE, NotTranscodable, begins

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
