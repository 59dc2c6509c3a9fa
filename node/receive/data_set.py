"""The bytes of an instance: while they are received, and as a record of the journal has them.

Those that are being received are in one of three places, and never in two: a buffer of memory, as long as they are few;
a part file of the archive, behind the head of a DICOM file (PS3.10 7.1); or a file that stays where it is, to which the
archive has a link. `content` reads a record, and writes the file of its instance.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from node.archive.filesystem import Archive
from node.archive.intake import PartFile, PartLink
from node.dicom.attributes import InstanceAttributes, instance_attributes
from node.dicom.header import Head, ReadHead
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood, OutOfResources
from node.files.heads import attributes_of, head_of
from node.index.rows.records import AssociationEnd, Received, StoredFile
from node.journal.segment import Record
from node.receive.record import Known, Receipt, association_end, receipt

log = structlog.get_logger()

LARGE_BYTES = 1 << 20
"""A larger data set goes to a part file while it is received: an association holds no more than this in memory."""

MAX_SPARE_BUFFERS = 8
"""Largest number of free buffers."""


class SpareBuffers:
    """Buffers of `LARGE_BYTES`: memory that is used again costs no page faults. Thread-safe."""

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def take(self) -> bytearray:
        """Return a buffer for one data set."""
        try:
            return self._buffers.pop()
        except IndexError:
            return bytearray(LARGE_BYTES)

    def give_back(self, buffer: bytearray) -> None:
        """Keep a buffer for the next data set."""
        if len(self._buffers) < MAX_SPARE_BUFFERS:
            self._buffers.append(buffer)


class Placed(NamedTuple):
    """Where the record of an instance finds its data set.

    `key` is that of its file in the archive; `offset` is the position of the data set in it. `sha256` is empty if the
    record itself has the bytes.
    """

    key: str
    offset: int
    sha256: str


class IncomingDataSet:
    """One data set that is being received; used by one thread, ends with `release` or `abandon`.

    `head`: the bytes of the file before the data set.
    """

    def __init__(self, archive: Archive, buffers: SpareBuffers, head: bytes) -> None:
        self._archive, self._buffers, self._head = archive, buffers, head
        self._buffer: bytearray | None = buffers.take()
        self._file: _InPartFile | _InOtherFile | None = None
        self._whole = b""  # what the buffer has, once it was asked for
        self.bytes = 0

    def append(self, fragment: bytes | bytearray | memoryview) -> None:
        """Append bytes; the fragment may change after this.

        Raises OutOfResources if the disk is full or fails.
        """
        begin = self.bytes
        self.bytes += len(fragment)
        if self._buffer is not None:
            if self.bytes <= LARGE_BYTES:
                self._buffer[begin : self.bytes] = fragment
                return
            self._file = _InPartFile(self._archive, self._head)
            with memoryview(self._buffer) as buffer, buffer[:begin] as written:
                self._file.write(written)
            self._release_buffer()
        if isinstance(self._file, _InPartFile):
            self._file.write(fragment)

    def refer_to(self, file: Path, offset: int) -> None:
        """Take the data set of a file that stays where it is, in place of fragments: it is read once, not copied.

        Raises OSError if the file cannot be read, and OutOfResources if the archive has no room for a link.
        """
        self._release_buffer()
        self._file = _InOtherFile(self._archive, file, offset)
        self.bytes = self._file.digest_all()

    @property
    def is_in_memory(self) -> bool:
        """Whether a buffer has the bytes."""
        return self._file is None

    def in_memory(self) -> bytes:
        """Return the bytes that a buffer has; none of a data set that is in a file."""
        if self._buffer is not None and len(self._whole) < self.bytes:
            with memoryview(self._buffer) as buffer, buffer[: self.bytes] as data_set:
                self._whole = bytes(data_set)
        return self._whole

    def read(self, offset: int, length: int) -> bytes:
        """Return some of the bytes; fewer at their end."""
        if self._file is None:
            return self.in_memory()[offset : offset + length]
        return self._file.part.read(self._file.offset + offset, length)

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes."""
        for offset in range(0, self.bytes, LARGE_BYTES):
            yield self.read(offset, LARGE_BYTES)

    def placed(self) -> Placed:
        """Return where the record finds the bytes, after a file of them is durable.

        Raises OutOfResources if the disk fails.
        """
        if self._file is None:
            return Placed(self._archive.new_key(), len(self._head), "")
        self._file.part.finish()
        return Placed(self._file.key, self._file.offset, self._file.digest.hexdigest())

    def release(self) -> None:
        """Forget the data set: its file, if there is one, now belongs to the record."""
        self._file = None
        self._release_buffer()

    def abandon(self) -> None:
        """Drop the bytes; does nothing after `release`."""
        self._release_buffer()
        file, self._file = self._file, None
        if file is not None:
            file.part.abandon()

    def _release_buffer(self) -> None:
        buffer, self._buffer, self._whole = self._buffer, None, b""
        if buffer is not None:
            self._buffers.give_back(buffer)


class _InPartFile:
    """A part file, and the digest of its bytes."""

    def __init__(self, archive: Archive, head: bytes) -> None:
        self.key = archive.new_key()
        self.offset = len(head)
        self.part: PartFile = archive.open_part(self.key)
        self.digest = hashlib.sha256()
        try:
            self.part.write(head)
        except OutOfResources:
            self.part.abandon()
            raise

    def write(self, fragment: bytes | bytearray | memoryview) -> None:
        self.digest.update(fragment)
        self.part.write(fragment)


class _InOtherFile:
    """The link to a file that stays where it is, and the digest of the data set."""

    def __init__(self, archive: Archive, file: Path, offset: int) -> None:
        self.key = archive.new_key()
        self.offset = offset
        self.part: PartLink = archive.refer(self.key, file)
        self.digest = hashlib.sha256()

    def digest_all(self) -> int:
        """Read the whole data set, and return its length in bytes. Raises OSError if it cannot be read."""
        length = 0
        while piece := self.part.read(self.offset + length, LARGE_BYTES):
            self.digest.update(piece)
            length += len(piece)
        return length


def content(record: Record, archive: Archive, written: Callable[[str], None]) -> Received | AssociationEnd | None:
    """Return the content of a record, or None if it cannot be read; write the file of an instance.

    The file may be written again after a crash: it is the same file each time. `written` gets its key, for the next
    checkpoint to sync it.
    """
    if isinstance(record.known, AssociationEnd):
        return record.known
    facts = record.known.receipt if isinstance(record.known, Known) else receipt(record.facts)
    if facts is None:
        return association_end(record.facts)
    try:
        attributes = _attributes(record, facts, archive)
    except (NotUnderstood, HeaderCut, FileNotFoundError):
        archive.intake.require_here()
        log.exception("record_not_understood", record=record.sequence)
        return None
    head: ReadHead
    where = facts.data_set_offset, facts.transfer_syntax_uid
    if facts.sha256:
        archive.keep_part(facts.key)
        digest = facts.sha256
        head = partial(head_of, archive.path(facts.key), *where)
    else:
        head = partial(Head, record.payload, *where)
        archive.write(facts.key, record.payload)
        digest = hashlib.sha256(memoryview(record.payload)[facts.data_set_offset :]).hexdigest()
    written(facts.key)  # not before: a checkpoint on another thread would find nothing to sync
    file = StoredFile(
        key=facts.key,
        quarantine_key=archive.quarantine_key(facts.key),
        bytes=facts.data_set_bytes,
        sha256=digest,
        data_set_offset=facts.data_set_offset,
        transfer_syntax_uid=facts.transfer_syntax_uid,
        source=facts.source,
        calling_ae_title=facts.calling_ae_title,
        called_ae_title=facts.called_ae_title,
        peer=facts.peer,
        received_at=facts.received_at,
        place=archive.place_of_new,
    )
    return Received(attributes, file, facts.quiet_seconds, facts.overwrite_policy, facts.begun, head, facts.association)


def _attributes(record: Record, its: Receipt, archive: Archive) -> InstanceAttributes:
    if isinstance(record.known, Known):
        return record.known.attributes
    if not its.sha256:
        return instance_attributes(memoryview(record.payload)[its.data_set_offset :], its.transfer_syntax_uid)
    archive.keep_part(its.key)
    return attributes_of(archive.path(its.key), its.data_set_offset, its.transfer_syntax_uid)
