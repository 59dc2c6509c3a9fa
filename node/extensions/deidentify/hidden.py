"""What pixel data hold beside pixels: bytes after the last frame, values in unused bits, remarks in codestreams.

Viewers show none of it, so nobody who looks at the pixels finds the name that a camera or a converter has left there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from node.dicom.reading import FileBytes, stored_bytes
from node.dicom.values import held, standard_tag, text, whole
from node.errors import ConversionRefused
from node.extensions.deidentify.deidentification import NotDeidentified, RefusalReason
from node.volume.read.pixel_layout import PIXELS, PixelLayout, pixel_layout
from node.volume.read.transfer_syntaxes import CODESTREAM_SYNTAXES, JPEG_2000_SYNTAXES, NATIVE

CHUNK_BYTES = 1 << 20

_ITEM = (0xFFFE, 0xE000)
_SOI, _SOC_SIZ, _JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_EOI, _SOS, _COM, _APP0, _APP2, _APP8, _APP14, _APP15 = 0xD9, 0xDA, 0xFE, 0xE0, 0xE2, 0xE8, 0xEE, 0xEF
_SOT, _SOD, _J2K_COM = 0xFF90, 0xFF93, 0xFF64
_END = b"\xff\xd9"
_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""A marker that ends the entropy-coded data of a scan, in which other bytes follow 0xFF (T.81 B.1.1.5, T.87 A.1)."""

_BOXES = frozenset((b"jP  ", b"ftyp", b"jp2h", b"jp2c"))
_KEPT_OF_APPLICATIONS = {_APP0: (b"JFIF\0", 14), _APP8: (b"mrfx", 5), _APP14: (b"Adobe", 12)}
"""Segments by which decoders choose the colour space: how they begin, and how many of their bytes count."""


def drop_hidden(ds: Dataset) -> None:
    """Remove bytes after the last frame, and blank remarks within codestreams, in place; pixels stay as they are.

    Raises NotDeidentified ``unreadable``: nobody can tell what is a pixel, because the attributes of the pixels
    contradict each other, the pixel data are not encoded as their transfer syntax says, or there are more frames than
    Number of Frames (0028,0008), which no viewer shows.

    In the transfer syntaxes of RLE, MPEG and JPEG XL, frames stay as they are.
    """
    syntax = text(ds.file_meta, "TransferSyntaxUID")
    for keyword in PIXELS:
        stored, encapsulated = stored_bytes(ds, keyword)
        if not stored:
            continue
        if encapsulated is (syntax in NATIVE):
            raise NotDeidentified(
                RefusalReason.UNREADABLE, "the pixel data are not encoded as their transfer syntax says"
            )
        if syntax in CODESTREAM_SYNTAXES and isinstance(stored, bytes):
            _blank_remarks(ds, stored, syntax in JPEG_2000_SYNTAXES)
        elif syntax in NATIVE:
            _cut(ds, keyword, stored)


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


def _blank_remarks(ds: Dataset, stored: bytes, is_jpeg_2000: bool) -> None:
    """Blank what no decoder needs: the lengths of all parts stay, and with them the tables of offsets."""
    blanked: bytearray | None = None
    for fragments in _frames(ds, stored, is_jpeg_2000):
        frame = b"".join(stored[start:end] for start, end in fragments)
        for begin, end in _remarks(frame, is_jpeg_2000):
            if any(frame[begin:end]):
                blanked = bytearray(stored) if blanked is None else blanked
                for first, last in _places(fragments, begin, end):
                    blanked[first:last] = bytes(last - first)
    if blanked is not None:
        ds["PixelData"].value = bytes(blanked)


def _frames(ds: Dataset, stored: bytes, is_jpeg_2000: bool) -> list[list[tuple[int, int]]]:
    """Return start and end of the fragments of each frame."""
    frames: list[list[tuple[int, int]]] = []
    for start, end in _fragments(stored):
        if stored.startswith((_SOC_SIZ, _JP2) if is_jpeg_2000 else _SOI, start):
            frames.append([])
        elif not frames:
            raise NotDeidentified(
                RefusalReason.UNREADABLE, "the pixel data are not codestreams of their transfer syntax"
            )
        frames[-1].append((start, end))
    announced = max(whole(ds, "NumberOfFrames") or 1, 1)
    if len(frames) > announced:
        detail = f"(0028,0008) Number of Frames is {announced}, and the pixel data hold {len(frames)}"
        raise NotDeidentified(RefusalReason.UNREADABLE, detail)
    return frames


def _places(fragments: Sequence[tuple[int, int]], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where in the pixel data a part of a frame is."""
    for start, stop in fragments:
        length = stop - start
        if begin < length and end > 0:
            yield start + max(begin, 0), start + min(end, length)
        begin, end = begin - length, end - length


def _fragments(stored: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each fragment after the Basic Offset Table (PS3.5 A.4)."""
    at, is_table = 0, True
    while at < len(stored):
        group, element, length = struct.unpack_from("<HHL", stored, at)
        if (group, element) != _ITEM or at + 8 + length > len(stored):
            raise NotDeidentified(RefusalReason.UNREADABLE, "the fragments of the pixel data are damaged")
        if not is_table:
            yield at + 8, at + 8 + length
        is_table = False
        at += 8 + length


def _remarks(frame: bytes, is_jpeg_2000: bool) -> Iterator[tuple[int, int]]:
    """Yield start and end of comments, of data of applications, and of what follows the end of a codestream."""
    try:
        yield from _of_jpeg_2000(frame) if is_jpeg_2000 else _of_jpeg(frame)
    except (IndexError, struct.error):
        raise NotDeidentified(RefusalReason.UNREADABLE, "a compressed frame is truncated or damaged") from None


def _of_jpeg(frame: bytes) -> Iterator[tuple[int, int]]:
    at = 2
    while True:
        if frame[at] != 0xFF:
            raise IndexError
        marker = frame[at + 1]
        if marker == _EOI:
            yield at + 2, len(frame)
            return
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", frame, at + 2)
        start, end = at + 4, at + 2 + max(length, 2)
        is_profile = marker == _APP2 and frame.startswith(b"ICC_PROFILE\0", start)
        if marker == _COM or (_APP0 <= marker <= _APP15 and not is_profile):
            begins, count = _KEPT_OF_APPLICATIONS.get(marker, (b"", 0))
            yield start + (count if frame.startswith(begins, start) else 0), end
        at = end
        if marker == _SOS:
            found = _AFTER_SCAN.search(frame, at)
            if found is None:  # decoders take the end of the data for the end of the image
                return
            at = found.start()


def _of_jpeg_2000(frame: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while not frame.startswith(_SOC_SIZ, at):  # boxes of a JP2 file, which PS3.5 A.4.4 does not allow
        length, kind = struct.unpack_from(">L4s", frame, at)
        if kind == b"jp2c":
            at += 16 if length == 1 else 8
            continue
        if kind not in _BOXES:
            yield at + 8, at + length
        at += max(length, 8)
    at = yield from _comments(frame, at + 2, _SOT)
    while struct.unpack_from(">H", frame, at)[0] == _SOT:
        (length,) = struct.unpack_from(">L", frame, at + 6)
        data = yield from _comments(frame, at + 12, _SOD)
        at = at + length if length else frame.find(_END, data)
        if at <= data:
            raise IndexError
        if at >= len(frame):  # some encoders leave the end of the codestream out
            return
    yield at + len(_END), len(frame)


def _comments(frame: bytes, at: int, last: int) -> Generator[tuple[int, int], None, int]:
    """Yield start and end of the comments in a header; return where the marker is that ends it."""
    while (marker := struct.unpack_from(">H", frame, at)[0]) != last:
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if marker == _J2K_COM:
            yield at + 6, at + 2 + length
        at += 2 + max(length, 2)
    return at
