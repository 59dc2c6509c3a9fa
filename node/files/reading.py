"""Read an instance from its file.

The bytes that are read may be limited: the header of an unknown file may be as long as the disk.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, Self

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, META_BYTES, file_meta
from node.dicom.header import MAX_INFLATED_AT_ONCE, WINDOW_BYTES, inflated, require_inflatable
from node.dicom.reading import DataSetCut, InstanceSource, LeftToPydicom, data_set_of_file

READING_BYTES = 256
"""Cost of each read in addition to its bytes: pydicom makes an object of every element, even an empty one."""

HEAD_BYTES = 1 << 16
"""Bytes of a file to read first: usually the header of a slice, or all of a small file."""

MAX_DEFLATED_HEAD_BYTES = 32 << 20
"""How much of a deflated data set is inflated to find its pixels; one that has them later is read by pydicom."""


class TooLong(Exception):
    """Reading would exceed the allowed number of bytes."""


def require_bounded(file: BinaryIO) -> None:
    """Raise if an open file has a deflated data set that is longer, inflated, than it may be; go back to its beginning.

    pydicom inflates a data set as a whole, whatever becomes of it.

    Raises NotUnderstood if it is cut or damaged, or it inflates to more than `node.dicom.header.MAX_INFLATED_AT_ONCE`.
    """
    head = file.read(META_BYTES)
    elements, offset = file_meta(head)
    file.seek(0)
    if elements.get(0x0010) != DEFLATED_LITTLE_ENDIAN:
        return
    file.seek(offset)
    require_inflatable(iter(partial(file.read, 1 << 20), b""), MAX_INFLATED_AT_ONCE)
    file.seek(0)


class BoundedFile:
    """An open file for pydicom from which only a limited number of bytes can be read.

    Memory is allocated for bytes that exist, not for a length that the file claims.

    `max_bytes`: limit of the sum of all reads, which raise `TooLong` beyond it; None: no limit.
    """

    def __init__(self, file: BinaryIO, max_bytes: int | None = None) -> None:
        self._file, self._left = file, max_bytes
        at = file.tell()
        self.length = file.seek(0, SEEK_END)
        file.seek(at)
        self.name = getattr(file, "name", "")

    def read(self, size: int = -1) -> bytes:
        """Read from the file; a read that would exceed the limit raises `TooLong` instead."""
        rest = max(self.length - self._file.tell(), 0)
        wanted = rest if size is None or size < 0 else min(size, rest)
        if self._left is not None:
            self._left -= wanted + READING_BYTES
            if self._left < 0:
                raise TooLong
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()


def read_instance(path: Path) -> Dataset:
    """Return the data set of a file, with its `file_meta`; see `node.dicom.reading.data_set_of_file`.

    Raises anything that pydicom raises for a damaged file.
    """
    file = ClosedFile(path)
    head = file.read_at(0, HEAD_BYTES)
    file_bytes = len(head) if len(head) < HEAD_BYTES else file.length()
    try:
        try:
            return data_set_of_file(head, file_bytes, file)
        except DataSetCut:
            return data_set_of_file(path.read_bytes(), file_bytes, file)
    except LeftToPydicom:
        if file_meta(head)[0].get(0x0010) == DEFLATED_LITTLE_ENDIAN:
            with suppress(LeftToPydicom, DataSetCut):
                return _long_deflated(path)
        with path.open("rb") as buffered:
            require_bounded(buffered)
            return dcmread(BoundedFile(buffered), force=True)


@dataclass(slots=True)
class ClosedFile(InstanceSource):
    """A file that is open only while bytes are read from it: a series has more files than a process may hold open."""

    path: Path
    _at: int = field(default=0)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `node.dicom.reading.InstanceSource`."""
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length)

    def length(self) -> int:
        """Return the length of the file."""
        return self.path.stat().st_size

    def read(self, size: int = -1) -> bytes:
        """See `node.dicom.reading.InstanceSource`."""
        data = self.read_at(self._at, size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `node.dicom.reading.InstanceSource`."""
        if whence == os.SEEK_END:
            offset += self.length()
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        """See `node.dicom.reading.InstanceSource`."""
        return self._at


def _long_deflated(path: Path) -> Dataset:
    """Return the data set of a deflated file that is too long to be inflated at once, and read frame by frame.

    Raises LeftToPydicom if it is short, LeftToPydicom or DataSetCut where `data_set_of_file` does, and NotUnderstood as
    `node.dicom.header.require_inflatable` does.
    """
    file = inflated_file(path)
    length = file.length()
    if length - len(file.meta) <= MAX_INFLATED_AT_ONCE:
        raise LeftToPydicom
    ds = data_set_of_file(file.read_at(0, MAX_DEFLATED_HEAD_BYTES), length, file)
    ds.file_meta.TransferSyntaxUID = UID(DEFLATED_LITTLE_ENDIAN)
    return ds


@dataclass(slots=True)
class InflatedFile(ClosedFile):
    """A deflated file as it would be if it were not: no more of it than a piece is kept between two reads.

    Reading on goes on; reading what is before begins again.
    """

    offset: int = 0
    meta: bytes = b""
    _place: tuple[int, bytes, Iterator[bytes]] | None = None

    def deflated(self) -> Iterator[bytes]:
        """Yield the deflated data set; the file is open only while a piece is read."""
        at = self.offset
        while piece := ClosedFile.read_at(self, at, WINDOW_BYTES):
            yield piece
            at += len(piece)

    def length(self) -> int:
        """Return the length of the file, inflated; raises as `node.dicom.header.require_inflatable` does."""
        return len(self.meta) + require_inflatable(self.deflated())

    def read_at(self, offset: int, length: int) -> bytes:
        """See `node.dicom.reading.InstanceSource`."""
        place, self._place = self._place, None  # another thread begins by itself
        if place is None or offset < place[0]:
            place = 0, self.meta, inflated(self.deflated())
        start, piece, pieces = place
        found = bytearray()
        while len(found) < length:
            at = offset + len(found) - start
            found += piece[at : at + length - len(found)]
            if len(found) < length:
                start += len(piece)
                piece = next(pieces, b"")
                if not piece:
                    return bytes(found)
        self._place = start, piece, pieces
        return bytes(found)

    def __deepcopy__(self, _: object) -> Self:
        return self


def inflated_file(path: Path) -> InflatedFile:
    """Return a file with a deflated data set as it would be in Explicit VR Little Endian."""
    head = ClosedFile(path).read_at(0, HEAD_BYTES)
    meta = head[: file_meta(head)[1]]
    syntax = EXPLICIT_LITTLE_ENDIAN.encode().ljust(len(DEFLATED_LITTLE_ENDIAN), b"\0")
    return InflatedFile(path, offset=len(meta), meta=meta.replace(DEFLATED_LITTLE_ENDIAN.encode(), syntax))
