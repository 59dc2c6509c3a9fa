"""One file of a journal: written from front to back, synced, and written over once it is free.

Its bytes are a header of one page, then records; `docs/journal.md` describes the format. All numbers are little endian.
A record belongs to the segment whose salt it repeats: a segment is reused without being cleared, and what an earlier
use left behind carries another salt.
"""

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from node.errors import VoxelnodeError
from node.files.durable import moved, sync_data, sync_file

VERSION = 1
"""Version of the format, in each segment."""

SEGMENT_MAGIC = b"VOXELJNL"
RECORD_MAGIC = b"VXJR"
HEADER_BYTES = 4096
"""Bytes of the header of a segment; the first record follows."""

_SEGMENT = struct.Struct("<8sL16s8sQL")  # magic, version, journal, salt, first sequence number, checksum
_RECORD = struct.Struct("<4s8sQLQLL")  # magic, salt, sequence number, bytes of facts and payload, two checksums
RECORD_HEAD_BYTES = _RECORD.size
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """The header of a segment that was used."""

    version: int
    journal: bytes
    salt: bytes
    first: int

    def encoded(self) -> bytes:
        """Return the bytes of the header, without the rest of its page."""
        return _packed(_SEGMENT, SEGMENT_MAGIC, self.version, self.journal, self.salt, self.first)


@dataclass(frozen=True, slots=True)
class RecordHead:
    """The header of a record; `checksum` is of the facts and the payload behind it."""

    salt: bytes
    sequence: int
    facts_bytes: int
    payload_bytes: int
    checksum: int

    @property
    def body_bytes(self) -> int:
        """Bytes of the record behind its header."""
        return self.facts_bytes + self.payload_bytes

    def encoded(self) -> bytes:
        """Return the bytes of the header."""
        fields = (self.salt, self.sequence, self.facts_bytes, self.payload_bytes, self.checksum)
        return _packed(_RECORD, RECORD_MAGIC, *fields)


def segment_head(data: bytes) -> SegmentHead | None:
    """Return the header of a segment, or None if it was never used or is damaged."""
    fields = _unpacked(_SEGMENT, SEGMENT_MAGIC, data)
    return SegmentHead(*fields) if fields is not None else None


def record_head(data: bytes) -> RecordHead | None:
    """Return the header of a record, or None where there is none or it is damaged."""
    fields = _unpacked(_RECORD, RECORD_MAGIC, data)
    return RecordHead(*fields) if fields is not None else None


def _packed(form: struct.Struct, *fields: Any) -> bytes:
    head = form.pack(*fields, 0)[:-_CHECKSUM_BYTES]
    return head + checksum(head).to_bytes(_CHECKSUM_BYTES, "little")


def _unpacked(form: struct.Struct, magic: bytes, data: bytes) -> list[Any] | None:
    """Return the fields between the magic and the checksum; None if these are not there."""
    if len(data) < form.size:
        return None
    found, *fields, expected = form.unpack_from(data)
    return fields if found == magic and checksum(data[: form.size - _CHECKSUM_BYTES]) == expected else None


def checksum(*parts: bytes) -> int:
    """Return the CRC-32C of consecutive bytes."""
    value = 0
    for part in parts:
        value = google_crc32c.extend(value, part)
    return value


GROW_BYTES = 4 << 20
"""Bytes by which a segment grows, filled with zeros: writing over them changes no metadata, so a sync is cheaper."""

MAX_BUFFERS = 512
"""Most buffers of one write; a system allows at least 1024 (IOV_MAX)."""

_SCAN_BYTES = 1 << 20

_SMALL_READ_BYTES = 16 << 10
"""Bytes that are read with the header of a record: a small record takes one system call, and each call releases the
interpreter lock."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record that was read back: its number, and the bytes that were appended.

    `known`: what the thread that appended it knew of it; None: another process has written it.
    """

    sequence: int
    facts: bytes
    payload: bytes
    known: Any = None


class SegmentGone(VoxelnodeError):
    """The file of a segment was removed, replaced or cut while it was open: bytes written to it may be lost."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Records that were written, by their numbers, and can no longer be read; `segment` is the path of their file.

    If a file is missing, or cut, and no later record shows how many it had, `last` is one less than `first`.
    """

    first: int
    last: int
    segment: Path


class Segment:
    """A segment file, opened for reading and writing; `first` and `last` are sequence numbers, 0 while it is free.

    One thread at a time may write; another one may grow the file and read what is synced meanwhile.
    """

    def __init__(self, path: Path, *, create: bool = False, read_only: bool = False) -> None:
        self.path = path
        flags = os.O_RDONLY if read_only else os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        self._file = os.open(path, flags | os.O_CLOEXEC, 0o600)
        page = os.pread(self._file, HEADER_BYTES, 0)
        self.was_used = page.strip(b"\x00") != b""
        self.first = self.last = 0
        self.end = HEADER_BYTES
        self._opened = os.fstat(self._file)
        self.capacity = self._opened.st_size
        self.is_torn = False
        self._growing = threading.Lock()
        self.head = segment_head(page)
        if self.was_used and self.head is None:
            self.head = self._head_by_records()

    @property
    def begins_at(self) -> int:
        """Sequence number of the first record; 0 where nothing of the segment can be read."""
        return self.head.first if self.head is not None else 0

    @property
    def has_records(self) -> bool:
        """Whether there is a whole record of this use; reads until it finds one."""
        return self.record_at(HEADER_BYTES) is not None or any(True for _ in self.scan())

    def begin(self, journal: bytes, first: int) -> None:
        """Use the segment anew; its header is written with the first record."""
        self.head = SegmentHead(VERSION, journal, os.urandom(8), first)
        self.is_torn = False
        self.first, self.last, self.end = first, first - 1, HEADER_BYTES

    def grow(self, size: int) -> None:
        """Fill the file with zeros up to `size` bytes.

        Raises OSError if there is no room, or the disk fails.
        """
        if self.capacity >= size:
            return
        with self._growing:  # one thread at a time: zeros must never follow a record that was written meanwhile
            zeros = bytes(min(GROW_BYTES, size - self.capacity)) if size > self.capacity else b""
            try:
                while self.capacity < size:
                    self.capacity += os.pwrite(self._file, zeros[: size - self.capacity], self.capacity)
            except OSError as error:
                error.filename = str(self.path)  # which a descriptor does not tell
                raise

    def write(self, buffers: Sequence[bytes], records: int) -> None:
        """Write records behind the last one and sync them.

        If this raises, none of them counts. Some may be on the disk all the same: `is_torn` tells that nothing may
        follow them in this use of the segment.

        Raises OSError if there is no room, or the disk fails. Raises SegmentGone if the file is not at its path.
        """
        assert self.head is not None
        size = sum(map(len, buffers))
        self.grow(self.end + size)
        at = self.end
        self.is_torn = True
        if at == HEADER_BYTES:
            os.pwrite(self._file, self.head.encoded(), 0)
        for begin in range(0, len(buffers), MAX_BUFFERS):
            at = self._write_all(buffers[begin : begin + MAX_BUFFERS], at)
        sync_data(self._file)
        if (problem := self.problem()) is not None:
            raise SegmentGone(problem)
        self.is_torn = False
        self.end, self.last = at, self.last + records

    def write_head(self) -> None:
        """Write the header ahead of the first record, and sync it."""
        assert self.head is not None
        self.grow(HEADER_BYTES)
        os.pwrite(self._file, self.head.encoded(), 0)
        sync_data(self._file)

    def clear(self) -> None:
        """Overwrite all bytes with zeros, durably, while the segment is free."""
        with self._growing:
            for at in range(0, self.capacity, GROW_BYTES):
                self._write_all([bytes(min(GROW_BYTES, self.capacity - at))], at)
            sync_data(self._file)

    def problem(self) -> str | None:
        """Return how the file that is open is no longer the one at its path, as it was grown; None if it is.

        Raises OSError if the system does not say so.
        """
        return moved(self.path, self._opened, self.capacity)  # another thread may grow the file meanwhile

    def _write_all(self, buffers: Sequence[bytes], at: int) -> int:
        end = at + sum(map(len, buffers))
        at += os.pwritev(self._file, buffers, at)
        if at < end:  # a write may be cut short
            rest = memoryview(b"".join(buffers))[at - end :]
            while rest:
                written = os.pwrite(self._file, rest, at)
                at, rest = at + written, rest[written:]
        return at

    def sync(self) -> None:
        """Make the length of the file durable.

        By a descriptor of its own: the kernel reports an error of writing back once for each open file, and the one
        that `write` waits for must not be reported here.
        """
        sync_file(self.path)

    def record_at(self, offset: int, after: int = 0) -> tuple[Record, int] | None:
        """Return the record at an offset and the offset behind it; None where there is no whole record of this use.

        Of records up to the number `after` only the header is read.
        """
        data = os.pread(self._file, RECORD_HEAD_BYTES if after else _SMALL_READ_BYTES, offset)
        head = record_head(data)
        if head is None or self.head is None or head.salt != self.head.salt:
            return None
        offset += RECORD_HEAD_BYTES
        if offset + head.body_bytes > self.capacity:
            return None
        if head.sequence <= after:
            return Record(head.sequence, b"", b""), offset + head.body_bytes
        begin = RECORD_HEAD_BYTES + head.facts_bytes
        if RECORD_HEAD_BYTES + head.body_bytes <= len(data):
            facts, payload = data[RECORD_HEAD_BYTES:begin], data[begin : RECORD_HEAD_BYTES + head.body_bytes]
        else:
            facts = os.pread(self._file, head.facts_bytes, offset)
            payload = os.pread(self._file, head.payload_bytes, offset + head.facts_bytes)
        if len(facts) + len(payload) < head.body_bytes or checksum(facts, payload) != head.checksum:
            return None
        return Record(head.sequence, facts, payload), offset + head.body_bytes

    def scan(self, after: int = 0) -> Iterator[Record]:
        """Yield the whole records behind a number; sets `first`, `last` and `end`.

        Bytes that are no record are skipped. Behind the last whole record that is usual: the sync of what is there
        never ended, and no sender got an answer for it.
        """
        self.first = self.begins_at
        self.last, self.end = self.first - 1, HEADER_BYTES
        while (found := self.record_at(self.end, after) or self._next_record(self.end + 1)) is not None:
            record, self.end = found
            self.first, self.last = self.first or record.sequence, record.sequence
            if record.sequence > after:
                yield record

    def _next_record(self, offset: int) -> tuple[Record, int] | None:
        """Return the next whole record at or behind an offset, and the offset behind it."""
        for at in self._magics(offset):
            found = self.record_at(at)
            if found is not None and found[0].sequence > self.last:
                return found
        return None

    def _head_by_records(self) -> SegmentHead | None:
        """Return a header as the first record tells it; that it has no journal shows that it is not on the disk."""
        for at in self._magics(HEADER_BYTES):
            head = record_head(os.pread(self._file, RECORD_HEAD_BYTES, at))
            if head is not None:
                return SegmentHead(VERSION, b"", head.salt, head.sequence)
        return None

    def _magics(self, offset: int) -> Iterator[int]:
        """Yield the offsets at or behind `offset` at which a record may begin."""
        while offset < self.capacity:
            window = os.pread(self._file, _SCAN_BYTES, offset)
            at = window.find(RECORD_MAGIC)
            while at >= 0:
                yield offset + at
                at = window.find(RECORD_MAGIC, at + 1)
            if len(window) < _SCAN_BYTES:
                return
            offset += len(window) - len(RECORD_MAGIC) + 1

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
