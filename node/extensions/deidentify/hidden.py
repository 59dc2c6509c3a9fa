"""What pixel data hold beside pixels: bytes after the last frame, values in unused bits, remarks in codestreams.

Viewers show none of it, so nobody who looks at the pixels finds the name that a camera or a converter has left there.
"""

import re
import struct
import zlib
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, encapsulate_extended

from node.dicom.reading import FileBytes, stored_bytes
from node.dicom.uids import registered_name
from node.dicom.values import held, standard_tag, text, whole
from node.errors import ConversionRefused
from node.extensions.deidentify.deidentification import NotDeidentified, RefusalReason
from node.volume.read.decoders import FrameShape, decode_frame
from node.volume.read.pixel_layout import PIXELS, PixelLayout, pixel_layout
from node.volume.read.transfer_syntaxes import DEFLATED_IMAGE_FRAME, NATIVE

CHUNK_BYTES = 1 << 20

_ITEM = (0xFFFE, 0xE000)
_OFFSET_TABLES = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_MAX_BASIC_OFFSET = (1 << 32) - 1

_SOI, _SOC_SIZ = b"\xff\xd8", b"\xff\x4f\xff\x51"
_BEGINNINGS = {"JPEG": (_SOI,), "JPEG 2000": (_SOC_SIZ, b"\0\0\0\x0cjP  "), "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL ")}
"""How codestreams begin, and the files of boxes around them, which PS3.5 A.4.4 does not allow."""

_KINDS = {
    "deflated": (),
    "video": ("MPEG", "HEVC"),
    "JPEG 2000": ("JPEG 2000",),
    "JPEG XL": ("JPEG XL",),
    "JPEG": ("JPEG ", "JPEG-LS"),
    "RLE": ("RLE",),
}
"""Words in the names of transfer syntaxes, by how they compress frames; the first that fits counts."""

_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_EOI, _SOS, _APP0, _APP8, _APP14 = 0xD9, 0xDA, 0xE0, 0xE8, 0xEE
_JPEG_NEEDED = frozenset((*range(0xC0, 0xD0), *range(0xDA, 0xE0), 0xF7, 0xF8)) - {0xC8}
"""Markers of frames, scans, tables and parameters (T.81 B.1.1.3, T.87 C.1.1): decoders need their segments."""

_DHT, _DQT, _LSE = 0xC4, 0xDB, 0xF8
_FRAME_HEADERS = frozenset((*range(0xC0, 0xD0), 0xDE, 0xF7)) - {_DHT, 0xC8, 0xCC}
_FIXED, _PRESET = {0xDC: 2, 0xDD: 4, 0xDF: 1}, 11
"""Lengths of the parameters of DNL, DRI (up to four bytes in JPEG-LS) and EXP; of the thresholds of JPEG-LS."""

_KEPT_OF_APPLICATIONS = {_APP0: (b"JFIF\0", 12, 14), _APP8: (b"mrfx", 5, 5), _APP14: (b"Adobe", 12, 12)}
"""Segments by which decoders choose the colour space: how they begin, how many of their bytes count, and their length.

Without its last two bytes, JFIF has no thumbnail.
"""

_SOT, _SOD, _END = 0xFF90, 0xFF93, b"\xff\xd9"
_J2K_NEEDED = frozenset((*range(0xFF50, 0xFF64), *range(0xFF70, 0xFF7A)))
"""Markers of parameters, packets and transforms (T.800 A.2, T.801 A.2, T.814 A.2)."""

_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""A marker that ends the entropy-coded data of a scan, in which other bytes follow 0xFF (T.81 B.1.1.5, T.87 A.1)."""

_CODESTREAM_BOX = b"jp2c"
_JXL_NEEDED = frozenset((b"JXL ", b"ftyp", b"jxlc", b"jxlp", b"jxll"))


def drop_hidden(ds: Dataset) -> None:
    """Leave nothing but pixels in the elements of pixels, in place; values of pixels stay as they are.

    Native pixel data end with the last frame. Compressed frames keep the segments that decoders need, and offset tables
    are written anew. Frames of RLE and deflated frames are compressed again, because what a decoder skips may be in
    any of their bytes. Videos stay as they are.

    Raises NotDeidentified ``unreadable``: nobody can tell what is a pixel, because the attributes of the pixels
    contradict each other, the pixel data are not encoded as their transfer syntax says or in one that is not of the
    standard, or there are more frames than Number of Frames (0028,0008), which no viewer shows.
    """
    syntax = text(ds.file_meta, "TransferSyntaxUID")
    has_tables = [keyword in ds for keyword in _OFFSET_TABLES]
    for keyword in _OFFSET_TABLES:
        ds.pop(standard_tag(keyword), None)
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
            _keep_frames(ds, stored[:], syntax, any(has_tables))


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


def _keep_frames(ds: Dataset, stored: bytes, syntax: str, is_extended: bool) -> None:
    """Write compressed pixel data anew: offset tables, and the frames without what no decoder needs."""
    kind, fragments = _kind(syntax), list(_fragments(stored))
    has_table, parts = len(fragments[0]) > 0, fragments[1:]
    if kind == "video":
        ds["PixelData"].value = encapsulate(parts, has_bot=False)
        return
    try:
        frames = [_pixels_alone(ds, frame, kind, syntax) for frame in _frames(ds, parts, kind)]
    except (IndexError, struct.error, ConversionRefused):
        raise NotDeidentified(RefusalReason.UNREADABLE, "a compressed frame is truncated or damaged") from None
    if is_extended or sum(len(frame) + 9 for frame in frames) > _MAX_BASIC_OFFSET:
        value, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        value = encapsulate(frames, has_bot=has_table)
    ds["PixelData"].value = value


def _kind(syntax: str) -> str:
    """Return how a transfer syntax compresses frames, by its name in PS3.6: a key of `_KINDS`."""
    name = registered_name(syntax) or ""
    for kind, words in _KINDS.items():
        if any(word in name for word in words) or (kind == "deflated" and syntax == DEFLATED_IMAGE_FRAME):
            return kind
    raise NotDeidentified(RefusalReason.UNREADABLE, "the standard does not name the transfer syntax of the pixel data")


def _frames(ds: Dataset, fragments: Sequence[bytes], kind: str) -> list[bytes]:
    """Return the compressed frames: where codestreams begin, or one in each fragment (PS3.5 A.4.2)."""
    frames: list[list[bytes]] = []
    for fragment in fragments:
        if kind not in _BEGINNINGS or fragment.startswith(_BEGINNINGS[kind]):
            frames.append([])
        elif not frames:
            raise NotDeidentified(
                RefusalReason.UNREADABLE, "the pixel data are not codestreams of their transfer syntax"
            )
        frames[-1].append(fragment)
    announced = max(whole(ds, "NumberOfFrames") or 1, 1)
    if len(frames) > announced:
        detail = f"(0028,0008) Number of Frames is {announced}, and the pixel data hold {len(frames)}"
        raise NotDeidentified(RefusalReason.UNREADABLE, detail)
    return [b"".join(frame) for frame in frames]


def _fragments(stored: bytes) -> Iterator[bytes]:
    """Yield the Basic Offset Table, then the fragments (PS3.5 A.4)."""
    at = 0
    while at < len(stored):
        is_whole = len(stored) >= at + 8
        group, element, length = struct.unpack_from("<HHL", stored, at) if is_whole else (0, 0, 0)
        if (group, element) != _ITEM or at + 8 + length > len(stored):
            raise NotDeidentified(RefusalReason.UNREADABLE, "the fragments of the pixel data are damaged")
        yield stored[at + 8 : at + 8 + length]
        at += 8 + length


def _pixels_alone(ds: Dataset, frame: bytes, kind: str, syntax: str) -> bytes:
    if kind in ("RLE", "deflated"):
        return _compressed_again(_layout(ds, "PixelData"), frame, syntax)
    if kind == "JPEG XL":
        needed = (frame[start:end] for name, start, _, end in _boxes(frame) if name in _JXL_NEEDED)
        return frame if frame.startswith(b"\xff\x0a") else b"".join(needed)
    if kind == "JPEG":
        return b"".join(_of_jpeg(frame))
    if not frame.startswith(_SOC_SIZ):
        frame = next((frame[at:end] for name, _, at, end in _boxes(frame) if name == _CODESTREAM_BOX), b"")
    kept = bytearray(frame)
    for begin, end in _of_jpeg_2000(frame):  # lengths stay, because parts of tiles state their own
        kept[begin:end] = bytes(max(end - begin, 0)) if end < len(frame) else b""
    return bytes(kept)


def _compressed_again(layout: PixelLayout, frame: bytes, syntax: str) -> bytes:
    shape = FrameShape(layout.rows, layout.columns, layout.samples, layout.bits_allocated, syntax)
    pixels = decode_frame(frame, shape)
    if layout.bits_allocated == 1:
        pixels = np.packbits(pixels, bitorder="little")
    if syntax == DEFLATED_IMAGE_FRAME:
        return zlib.compress(pixels.tobytes(), wbits=-zlib.MAX_WBITS)
    import rle.utils  # few instances need it

    stated = {"rows": shape.rows, "columns": shape.columns, "bits_allocated": shape.bits_allocated}
    return bytes(rle.utils.encode_pixel_data(pixels.tobytes(), None, "<", samples_per_pixel=shape.samples, **stated))


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield type, start, start of the content and end of each box (ISO/IEC 15444-1 I.4)."""
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">L4s", data, at)
        head = 16 if length == 1 else 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
        end = at + length if length else len(data)
        if not at + head <= end <= len(data):
            raise IndexError
        yield name, at, at + head, end
        at = end


def _of_jpeg(frame: bytes) -> Iterator[bytes]:
    """Yield the parts that decoders need: most of them refuse a frame with a segment that they do not know."""
    yield _SOI
    at = len(_SOI)
    while True:
        if frame[at] != 0xFF:
            raise IndexError
        marker = frame[at + 1]
        if marker == _EOI:
            yield frame[at : at + 2]
            return
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", frame, at + 2)
        start, end = at + 4, at + 2 + max(length, 2)
        if end > len(frame):
            raise IndexError
        begins, count, filled = _KEPT_OF_APPLICATIONS.get(marker, (b"", 0, 0))
        if marker in _JPEG_NEEDED:
            count = min(_parameters(marker, frame[start:end]), end - start)
            yield frame[at : at + 2] + struct.pack(">H", count + 2) + frame[start : start + count]
        elif begins and frame.startswith(begins, start):
            yield frame[at : at + 2] + struct.pack(">H", filled + 2) + frame[start : start + count].ljust(filled, b"\0")
        at = end
        if marker == _SOS:
            found = _AFTER_SCAN.search(frame, at)
            yield frame[at : found.start() if found else None]
            if found is None:  # decoders take the end of the data for the end of the image
                return
            at = found.start()


def _parameters(marker: int, content: bytes) -> int:
    """Return how many bytes the parameters take with which a needed segment begins (T.81 B.2, T.87 C.2)."""
    if marker == _SOS:
        return 4 + 2 * content[0]
    if marker in _FRAME_HEADERS:
        return 6 + 3 * content[5]
    if marker not in (_DHT, _DQT):
        return _PRESET if marker == _LSE and content.startswith(b"\1") else _FIXED.get(marker, len(content))
    whole = at = 0
    while at < len(content):
        whole = at
        at += 65 + 64 * (content[at] >> 4) if marker == _DQT else 17 + sum(content[at + 1 : at + 17])
    return whole if at > len(content) else at


def _of_jpeg_2000(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of what no decoder needs: comments, unknown segments, and what follows the codestream."""
    at = yield from _comments(frame, 2, _SOT)
    while struct.unpack_from(">H", frame, at)[0] == _SOT:
        (length,) = struct.unpack_from(">L", frame, at + 6)
        data = yield from _comments(frame, at + 12, _SOD)
        at = at + length if length else frame.find(_END, data)
        if at <= data:
            raise IndexError
        if at >= len(frame):  # some encoders leave the end of the codestream out
            return
    yield at + len(_END) * frame.startswith(_END, at), len(frame)


def _comments(frame: bytes, at: int, last: int) -> Generator[tuple[int, int], None, int]:
    """Yield start and end of the comments in a header; return where the marker is that ends it."""
    while (marker := struct.unpack_from(">H", frame, at)[0]) != last:
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if marker not in _J2K_NEEDED:
            yield at + 4, at + 2 + length
        at += 2 + max(length, 2)
    return at
