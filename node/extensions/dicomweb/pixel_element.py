"""Locate the pixel data of a file, and read single stored frames."""

import json
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Self

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, generate_fragments, get_frame, parse_basic_offsets, parse_fragments
from pydicom.tag import BaseTag
from pydicom.uid import UID, MPEGTransferSyntaxes

from node.children.decoding import NoSuchValue
from node.dicom.documents import vr_of
from node.dicom.encoding import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_BIG_ENDIAN,
    META_BYTES,
    NUMBER_CODES,
    UNDEFINED_LENGTH,
    encoding_of,
    file_meta,
    locates_frames,
)
from node.dicom.header import REST, Head, Header, read_changed, read_elements
from node.dicom.values import tag_read, text, value, whole
from node.errors import NotUnderstood, counted
from node.files.reading import BoundedFile, ClosedFile, InflatedFile, inflated_file

PIECE_BYTES = 1 << 20

MAX_OFFSET_TABLE_BYTES = 4 << 20
"""Largest Extended Offset Table kept in memory, that of half a million frames."""

_WORDS = {2: "H", 4: "I", 8: "Q"}
"""Type codes of `array`, by bytes of a word."""

_INTEGERS = ("tag", "offset", "length", "encapsulated", "frames", "frame_bits", "word_bytes", "is_deflated")
"""Fields of `PixelElement` that are whole numbers."""

_VRS = {0x7FE00008: "OF", 0x7FE00009: "OD", 0x7FE00010: "OW"}
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
"""Tags (FFFE,E000) and (FFFE,E0DD) of fragments, in little endian (PS3.5 A.4)."""

NEARBY_BYTES = 1 << 16
"""How much of a file `nearby_pixels` reads: the header of nearly every slice."""

_PLAIN_VRS = frozenset(("CS", "DS", "IS", "LO", "SH", "UI"))
"""VRs of texts that the process of a node reads beside numbers."""

_HALF_SAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")


class FrameNotFound(NoSuchValue):
    """The pixel data do not contain the frame, or its location is unknown."""


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Location of the pixel data of a file, without its header.

    `tag`: Tag of Pixel Data, or Float or Double Float Pixel Data.
    `vr`: ``OB``, ``OW``, ``OF`` or ``OD``.
    `offset`, `length`: position of the value in the file, in bytes. If the pixel data are encapsulated, `offset` is
        that of the first item, and `length` reaches to the end of the file.
    `frames`: Number of Frames (0028,0008); 1 if it is absent.
    `frame_bits`: bits of one native frame; 0 if unknown.
    `word_bytes`: number of bytes that are swapped together when big endian is converted to little endian.
    `is_deflated`: whether `offset` counts in the file as it would be if its data set was not deflated.
    `extended_offsets`: Extended Offset Table and its lengths, PS3.3 C.7.6.3.1.8.
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
    is_deflated: bool
    extended_offsets: tuple[bytes, bytes] | None

    def to_json(self) -> bytes:
        """Return everything but the path; see `from_json`."""
        fields = {name: getattr(self, name) for name in _INTEGERS}
        offsets = self.extended_offsets and [table.hex() for table in self.extended_offsets]
        return json.dumps(fields | {"vr": self.vr, "extended_offsets": offsets}).encode()

    @classmethod
    def from_json(cls, path: Path, encoded: bytes) -> Self:
        """Return the element that a child process has located in a file.

        Raises ValueError if it is no location within the file.
        """
        found = json.loads(encoded)
        if not isinstance(found, dict):
            raise ValueError("not an object")
        integers: dict[str, Any] = {name: found.get(name) for name in _INTEGERS}
        if any(not isinstance(number, int) or not 0 <= number < 1 << 63 for number in integers.values()):
            raise ValueError("not a number of bytes, bits or frames")
        if not isinstance(found.get("vr"), str) or not 1 <= integers["word_bytes"] <= 8:
            raise ValueError("not an encoding of pixels")
        is_deflated = bool(integers["is_deflated"])
        if not is_deflated and integers["offset"] + integers["length"] > path.stat().st_size:
            raise ValueError("not within the file")
        offsets = found.get("extended_offsets")
        if offsets is not None:
            offsets = tuple(bytes.fromhex(table) for table in offsets)
            if len(offsets) != 2:
                raise ValueError("not an offset table and its lengths")
        integers |= {"encapsulated": bool(integers["encapsulated"]), "is_deflated": is_deflated}
        return cls(path=path, vr=found["vr"], extended_offsets=offsets, **integers)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native or decompressed frame."""
        return -(-self.frame_bits // 8)

    def native_frame(self, number: int) -> Iterator[bytes]:
        """Return one frame (from 1) of native pixel data, in little endian (PS3.5 8.1.1), in pieces.

        Frames of single bits may start within a byte in the file; the returned frame starts at a whole byte.

        Raises FrameNotFound if the pixel data are too short.
        """
        bits = self.frame_bits
        if not 1 <= number <= self.frames or number * bits > self.length * 8 or not bits:
            raise FrameNotFound(f"frame {number} of {self.frames} is not within {self.length} bytes of pixel data")
        return self._pieces((number - 1) * bits)

    def frame_within(self, file: memoryview, number: int, *, as_stored: bool) -> memoryview | bytes | None:
        """Return one frame (from 1) from the bytes of the whole file, if nothing has to be done to them; else None."""
        if self.encapsulated:
            return self.encapsulated_frame(number) if as_stored else None
        if self.is_deflated or self.word_bytes > 1 or self.frame_bits % 8 or number * self.frame_bits > self.length * 8:
            return None
        end = self.offset + number * self.frame_bytes
        return file[end - self.frame_bytes : end] if self.frame_bits else None

    def _pieces(self, first: int) -> Iterator[bytes]:
        """Yield a frame that starts at bit `first` of the value."""
        at, shift = first // 8, first % 8
        for start in range(0, self.frame_bytes, PIECE_BYTES):
            stop = min(start + PIECE_BYTES, self.frame_bytes)
            data = self._bytes(at + start, at + stop + (shift > 0))
            if shift:  # the last frame needs one more byte, beyond the value: use a zero
                bits = int.from_bytes(data.ljust(stop - start + 1, b"\0"), "little") >> shift
                data = bits.to_bytes(stop - start + 1, "little")[:-1]
            if stop == self.frame_bytes and self.frame_bits % 8:
                data = data[:-1] + bytes([data[-1] & (1 << self.frame_bits % 8) - 1])
            yield data

    def _bytes(self, start: int, stop: int) -> bytes:
        """Return bytes of the value in little endian."""
        word = self.word_bytes
        aligned = start // word * word
        file = _inflated(self.path) if self.is_deflated else ClosedFile(self.path)
        data = file.read_at(self.offset + aligned, -(-stop // word) * word - aligned)
        if word > 1:
            whole_words = len(data) // word * word
            words = array(_WORDS[word], data[:whole_words])
            words.byteswap()
            data = words.tobytes() + data[whole_words:]
        return data[start - aligned : stop - aligned]

    def has_more_fragments_than(self, limit: int) -> bool:
        """Return whether encapsulated pixel data have more items than that, or items that do not follow each other.

        A frame may be of any number of fragments (PS3.5 A.4), which a reader visits one by one.
        """
        at, end = self.offset, self.offset + self.length
        with self.path.open("rb", buffering=0) as file:
            for _ in range(limit + 1):
                head = os.pread(file.fileno(), 8, at)
                if at >= end or not head.startswith(_ITEM):
                    return not head.startswith(_END)
                at += 8 + int(struct.unpack_from("<L", head, 4)[0])
        return True

    def encapsulated_frame(self, number: int) -> bytes:
        """Return the codestream of one frame (from 1) of encapsulated pixel data (PS3.5 A.4).

        Raises FrameNotFound if the offset tables and fragments do not locate the frame.
        """
        if not 1 <= number <= self.frames:
            raise FrameNotFound(f"the instance has {counted(self.frames, 'frame')}, but frame {number} was requested")
        with self.path.open("rb") as file:
            try:
                return self._encapsulated_frame(file, number)
            except NotUnderstood as error:
                raise FrameNotFound(f"frame {number} of {self.frames} cannot be located: {error}") from error
            except Exception as error:  # ValueError, struct.error, ...: broken items make pydicom raise anything
                raise FrameNotFound(f"frame {number} of {self.frames} cannot be located") from error

    def _encapsulated_frame(self, file: BinaryIO, number: int) -> bytes:
        file.seek(self.offset)
        offsets, begin = parse_basic_offsets(file), file.tell()
        if self.extended_offsets is not None:
            offsets = list(struct.unpack(f"<{len(self.extended_offsets[0]) // 8}Q", self.extended_offsets[0]))
        if not offsets or (
            locates_frames(offsets, self.frames)
            and all(os.pread(file.fileno(), 4, begin + at) == _ITEM for at in offsets[number - 1 : number + 1])
        ):
            file.seek(self.offset)
            return get_frame(file, number - 1, extended_offsets=self.extended_offsets, number_of_frames=self.frames)
        count, starts = parse_fragments(file)
        if self.frames == 1:
            return b"".join(generate_fragments(file))
        if count != self.frames:
            raise NotUnderstood(f"the offset table does not locate it, and there are {counted(count, 'fragment')}")
        file.seek(starts[number - 1])
        return next(generate_fragments(file))


@lru_cache(maxsize=16)
def _inflated(path: Path) -> InflatedFile:
    """Return a deflated file that goes on where it was read last: frames are requested one after another."""
    return inflated_file(path)


def single_frame(header: Dataset, element: PixelElement, number: int) -> Dataset:
    """Return a data set whose only frame is one frame (from 1) of encapsulated pixel data.

    Raises FrameNotFound as `PixelElement.encapsulated_frame` does.
    """
    ds = Dataset({tag: header.get_item(tag) for tag in header.keys() if tag not in _VRS})  # noqa: SIM118 - iterating converts elements
    ds.file_meta = header.file_meta
    ds.NumberOfFrames = 1
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        ds.pop(keyword, None)
    ds.PixelData = encapsulate([element.encapsulated_frame(number)])
    ds["PixelData"].is_undefined_length = True
    return ds


def header_and_pixels(path: Path) -> tuple[Dataset, PixelElement | None]:
    """Return the header of a file, and the location of its pixel data; None if it has none.

    Errors are those of `node.files.reading.read_instance`.
    """
    with path.open("rb") as whole_file:
        meta, _ = file_meta(whole_file.read(META_BYTES))
        is_deflated = meta.get(0x0010) == DEFLATED_LITTLE_ENDIAN
        whole_file.seek(0)
        source: Any = inflated_file(path) if is_deflated else whole_file
        file: Any = BoundedFile(source)
        header = dcmread(file, stop_before_pixels=True, force=True)
        syntax, head = text(header.file_meta, "TransferSyntaxUID"), file.read(12)
        if is_deflated:
            header.file_meta.TransferSyntaxUID = UID(DEFLATED_LITTLE_ENDIAN)
        at = file.tell() - len(head)
        return header, _element(path, file.length, header, syntax, head, at, is_deflated=is_deflated)


def nearby_pixels(path: Path) -> PixelElement | None:
    """Return the location of pixel data behind a short header, read by the bounded reader alone; else None.

    It is that of `header_and_pixels`, which takes a child process.
    """
    with path.open("rb", buffering=0) as file:
        data, size = file.read(NEARBY_BYTES), os.fstat(file.fileno()).st_size
    meta, start = file_meta(data[:META_BYTES])
    syntax = meta.get(0x0010, DEFLATED_LITTLE_ENDIAN)
    if syntax == DEFLATED_LITTLE_ENDIAN:
        return None
    try:
        ds, at = _plain_header(Head(data, start, syntax, is_cut=True))
        return _element(path, size, ds, syntax, data[at : at + 12], at)
    except LeftToChild:
        return None


class LeftToChild(Exception):
    """What is asked of a data set is read in a child process alone."""


class _Left:
    """In place of an element that only a child process reads: a sequence, a long value, text that is not ASCII."""

    def __getattr__(self, name: str) -> NoReturn:
        raise LeftToChild(name)


_read_before: dict[str, tuple[Header, dict[BaseTag, Any]]] = {}
"""Header and elements of the data set that was read before, by transfer syntax; replaced, never changed."""


def native_image(data_set: bytes, transfer_syntax_uid: str) -> Dataset:
    """Return the plain elements of a data set in little endian and its native pixels, for the process of a node.

    The bounded reader alone has read the header, and the pixels end the data set. That they are as long as the header
    states (PS3.5 8.1.1, PS3.3 C.7.6.3), `node.volume.read.pixels.frame_reader` compares.

    Raises LeftToChild if that is not so, and later at the first access to an element that is not plain.
    """
    ds, at = _plain_header(Head(data_set, 0, transfer_syntax_uid))
    pixels = _element(Path(), len(data_set), ds, transfer_syntax_uid, data_set[at : at + 12], at)
    if pixels is None or pixels.encapsulated or pixels.word_bytes > 1 or pixels.offset + pixels.length < len(data_set):
        raise LeftToChild
    tag, value = tag_read(pixels.tag), data_set[pixels.offset :]
    ds[tag] = RawDataElement(tag, pixels.vr, len(value), value, 0, False, True)
    return ds


def _plain_header(head: Head) -> tuple[Dataset, int]:
    """Return the elements before the pixels, and where these begin; most are those of the data set read before."""
    before, elements = _read_before.get(head.transfer_syntax_uid, (None, {}))
    header = read_changed(head, before) if before is not None else None
    if header is None:
        header, elements = read_elements(head), {}
    if REST in header.elements:
        raise LeftToChild
    is_little = encoding_of(header.transfer_syntax_uid).order == "<"
    elements = elements | {tag_read(tag): _plain(tag, *one, is_little) for tag, one in header.elements.items()}
    if header.pieces:
        _read_before[head.transfer_syntax_uid] = header, elements
    return Dataset(dict(elements)), header.pixels_at


def _plain(tag: int, encoded_vr: bytes, value: bytes | None, is_little: bool) -> RawDataElement | _Left:
    vr = encoded_vr.decode("ascii") or vr_of(tag)
    if value is None or not (vr in NUMBER_CODES or (vr in _PLAIN_VRS and value.isascii())):
        return _Left()
    return RawDataElement(tag_read(tag), vr, len(value), value, 0, False, is_little)


def _element(
    path: Path, size: int, header: Dataset, syntax: str, head: bytes, at: int, *, is_deflated: bool = False
) -> PixelElement | None:
    """Return the pixel data that `head` begins, at a byte of a file of `size`; None if they are empty, or others."""
    if len(head) < 8:
        return None
    # Contrary to its transfer syntax, too. No even length has the bytes of one of these VRs.
    is_implicit = syntax != EXPLICIT_BIG_ENDIAN and head[4:6] not in (b"OB", b"OW", b"OF", b"OD", b"UN")
    tag, encoded_vr, length, start = encoding_of(syntax).head(head, 0, is_implicit=is_implicit)
    if tag not in _VRS or not length:
        return None
    vr = encoded_vr.decode("ascii", "replace") or _VRS[tag]
    offset = at + start
    rest = size - offset
    encapsulated = length == UNDEFINED_LENGTH
    if encapsulated and is_deflated:
        return None  # contrary to PS3.5 A.5
    # A video is one stream, however many frames it has (PS3.5 8.2.5 and following).
    frames = 1 if syntax in MPEGTransferSyntaxes else max(whole(header, "NumberOfFrames") or 1, 1)
    return PixelElement(
        path=path,
        tag=tag,
        vr=vr,
        offset=offset,
        length=rest if encapsulated else min(length, rest),
        encapsulated=encapsulated,
        frames=frames,
        frame_bits=_frame_bits(header, vr),
        word_bytes=_word_bytes(header, vr) if syntax == EXPLICIT_BIG_ENDIAN else 1,
        is_deflated=is_deflated,
        extended_offsets=_extended_offsets(header, frames),
    )


def _extended_offsets(header: Dataset, frames: int) -> tuple[bytes, bytes] | None:
    """Return both tables, if they have no more than the 8 bytes of each frame (PS3.3 C.7.6.3.1.8)."""
    offsets, lengths = value(header, "ExtendedOffsetTable"), value(header, "ExtendedOffsetTableLengths")
    if not isinstance(offsets, bytes) or not isinstance(lengths, bytes):
        return None
    return (offsets, lengths) if max(len(offsets), len(lengths)) <= min(8 * frames, MAX_OFFSET_TABLE_BYTES) else None


def _frame_bits(header: Dataset, vr: str) -> int:
    rows, columns = whole(header, "Rows") or 0, whole(header, "Columns") or 0
    samples = whole(header, "SamplesPerPixel") or 1
    if text(header, "PhotometricInterpretation") in _HALF_SAMPLED:
        samples = 2
    allocated = whole(header, "BitsAllocated") or {"OF": 32, "OD": 64}.get(vr, 0)
    return max(rows * columns * samples * allocated, 0)


def _word_bytes(header: Dataset, vr: str) -> int:
    """Return the size of the words that big endian swaps; OW words may also contain single bytes (PS3.5 7.3)."""
    if vr == "OB":
        return 1
    return {"OF": 4, "OD": 8}.get(vr) or max((whole(header, "BitsAllocated") or 0) // 8, 2)
