"""Where the pixel data of a file lie, and single frames of them as they are stored, without reading the others."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame

from node.dicom.bounded import BoundedFile
from node.dicom.header import DEFLATED_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from node.dicom.values import text, value, whole

UNDEFINED_LENGTH = 0xFFFFFFFF

PIECE_BYTES = 1 << 20

LONGEST_OFFSET_TABLE = 4 << 20
"""Bytes of an Extended Offset Table that is held: that of half a million frames."""

_VRS = {0x7FE00008: "OF", 0x7FE00009: "OD", 0x7FE00010: "OW"}
_HALF_SAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")


class FrameNotFound(Exception):
    """The pixel data do not hold the frame, or it cannot be told where in them it lies."""


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The pixel data of one file; nothing of its header is held.

    Attributes
    ----------
    path : Path
    tag : int
        Of Pixel Data, or Float or Double Float Pixel Data.
    vr : str
        ``OB``, ``OW``, ``OF`` or ``OD``.
    offset, length : int
        Of the value in the file, bytes; for encapsulated pixel data `offset` is that of the first item, and `length`
        reaches to the end of the file.
    encapsulated : bool
    frames : int
        Number of Frames (0028,0008); 1 where it is not told.
    frame_bits : int
        Of one native frame; 0 where the header does not tell.
    word_bytes : int
        How many bytes change their order to be little endian.
    extended_offsets : (bytes, bytes) or None
        Extended Offset Table and its lengths, PS3.3 C.7.6.3.1.8.
    """

    path: Path
    tag: int
    vr: str
    offset: int
    length: int
    encapsulated: bool
    frames: int
    frame_bits: int
    word_bytes: int
    extended_offsets: tuple[bytes, bytes] | None

    @property
    def frame_bytes(self) -> int:
        """Of one native frame, or one that is decompressed."""
        return -(-self.frame_bits // 8)

    def native_frame(self, number: int) -> Iterator[bytes]:
        """One frame of pixel data that are not encapsulated, from 1, in little endian (PS3.5 8.1.1), in pieces.

        Frames of single bits need not begin at whole bytes; the one that is returned does.

        Raises
        ------
        FrameNotFound
        """
        bits = self.frame_bits
        if not 1 <= number <= self.frames or number * bits > self.length * 8 or not bits:
            raise FrameNotFound(f"there is no frame {number} of {self.frames} in {self.length} bytes of pixel data")
        return self._pieces((number - 1) * bits)

    def _pieces(self, first: int) -> Iterator[bytes]:
        """A frame that begins at the bit `first` of the value."""
        at, shift = first // 8, first % 8
        for start in range(0, self.frame_bytes, PIECE_BYTES):
            stop = min(start + PIECE_BYTES, self.frame_bytes)
            data = self._bytes(at + start, at + stop + (shift > 0))
            if shift:  # the byte behind the value, which the last frame asks for, is none of it
                read = np.frombuffer(data.ljust(stop - start + 1, b"\0"), np.uint8)
                data = (read[:-1] >> shift | read[1:] << (8 - shift)).tobytes()
            if stop == self.frame_bytes and self.frame_bits % 8:
                data = data[:-1] + bytes([data[-1] & (1 << self.frame_bits % 8) - 1])
            yield data

    def _bytes(self, start: int, stop: int) -> bytes:
        """Some bytes of the value, as little endian has them."""
        word = self.word_bytes
        aligned = start // word * word
        with self.path.open("rb") as file:
            data = os.pread(file.fileno(), -(-stop // word) * word - aligned, self.offset + aligned)
        if word > 1:
            whole_words = len(data) // word * word
            data = np.frombuffer(data[:whole_words], f"u{word}").byteswap().tobytes() + data[whole_words:]
        return data[start - aligned : stop - aligned]

    def encapsulated_frame(self, number: int) -> bytes:
        """The codestream of one frame of encapsulated pixel data, from 1 (PS3.5 A.4).

        Raises
        ------
        FrameNotFound
        """
        if not 1 <= number <= self.frames:
            raise FrameNotFound(f"there is no frame {number} of {self.frames}")
        with self.path.open("rb") as file:
            file.seek(self.offset)
            try:
                return get_frame(file, number - 1, extended_offsets=self.extended_offsets, number_of_frames=self.frames)
            except Exception as error:  # ValueError, struct.error, ...: whatever broken items make pydicom raise
                raise FrameNotFound(f"frame {number} of {self.frames} cannot be told from the others") from error


def single_frame(header: Dataset, element: PixelElement, number: int) -> Dataset:
    """Return a data set that has one frame of encapsulated pixel data, from 1, for its only one.

    Raises
    ------
    FrameNotFound
    """
    ds = Dataset({tag: header.get_item(tag) for tag in header.keys()})  # noqa: SIM118 - iterating converts elements
    ds.file_meta = header.file_meta
    ds.NumberOfFrames = 1
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        ds.pop(keyword, None)
    ds.PixelData = encapsulate([element.encapsulated_frame(number)])
    ds["PixelData"].is_undefined_length = True
    return ds


def header_and_pixels(path: Path, longest: int | None = None) -> tuple[Dataset, PixelElement | None]:
    """Return what stands before the pixel data of a file, and where they lie; None where it has none, or is deflated.

    Parameters
    ----------
    longest : int or None
        Bytes of the file that may be read.

    Raises
    ------
    TooLong
        More than `longest` would have to be read.
    Exception
        Whatever pydicom raises for a damaged file.
    """
    with path.open("rb") as whole_file:
        file: Any = BoundedFile(whole_file, longest)
        header = dcmread(file, stop_before_pixels=True, force=True)
        syntax = text(header.file_meta, "TransferSyntaxUID")
        head = b"" if syntax == DEFLATED_LITTLE_ENDIAN else file.read(12)
        if len(head) < 8:
            return header, None
        order = ">" if syntax == EXPLICIT_BIG_ENDIAN else "<"
        group, number = struct.unpack_from(order + "HH", head)
        tag = group << 16 | number
        if tag not in _VRS:
            return header, None
        vr = _VRS[tag]
        if syntax == IMPLICIT_LITTLE_ENDIAN:
            length, offset = struct.unpack_from("<L", head, 4)[0], file.tell() - len(head) + 8
        else:  # OB, OW, OF and OD: two bytes are reserved, four tell the length (PS3.5 7.1.2)
            vr = head[4:6].decode("ascii", "replace")
            length, offset = struct.unpack_from(order + "L", head, 8)[0], file.tell()
        rest = os.fstat(file.fileno()).st_size - offset
    encapsulated = length == UNDEFINED_LENGTH
    return header, PixelElement(
        path=path,
        tag=tag,
        vr=vr,
        offset=offset,
        length=rest if encapsulated else min(length, rest),
        encapsulated=encapsulated,
        frames=max(whole(header, "NumberOfFrames") or 1, 1),
        frame_bits=_frame_bits(header, vr),
        word_bytes=_word_bytes(header, vr) if syntax == EXPLICIT_BIG_ENDIAN else 1,
        extended_offsets=_extended_offsets(header),
    )


def pixel_element(path: Path, longest: int | None = None) -> PixelElement | None:
    """Return where the pixel data of a file lie; see `header_and_pixels`."""
    return header_and_pixels(path, longest)[1]


def _extended_offsets(header: Dataset) -> tuple[bytes, bytes] | None:
    offsets, lengths = value(header, "ExtendedOffsetTable"), value(header, "ExtendedOffsetTableLengths")
    if not isinstance(offsets, bytes) or not isinstance(lengths, bytes):
        return None
    return (offsets, lengths) if max(len(offsets), len(lengths)) <= LONGEST_OFFSET_TABLE else None


def _frame_bits(header: Dataset, vr: str) -> int:
    rows, columns = whole(header, "Rows") or 0, whole(header, "Columns") or 0
    samples = whole(header, "SamplesPerPixel") or 1
    if text(header, "PhotometricInterpretation") in _HALF_SAMPLED:
        samples = 2
    allocated = whole(header, "BitsAllocated") or {"OF": 32, "OD": 64}.get(vr, 0)
    return max(rows * columns * samples * allocated, 0)


def _word_bytes(header: Dataset, vr: str) -> int:
    """The size of what is swapped in big endian: words of OW hold single bytes too (PS3.5 7.3)."""
    if vr == "OB":
        return 1
    return {"OF": 4, "OD": 8}.get(vr) or max((whole(header, "BitsAllocated") or 0) // 8, 2)
