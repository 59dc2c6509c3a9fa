"""The record of an instance in the journal: its bytes while they arrive, its facts, and its file.

The bytes of a data set that is being received are in one of three places, and never in two: a buffer of memory, as long
as they are few; a part file of the archive, behind the head of a DICOM file (PS3.10 7.1); or a file that stays where it
is, to which the archive has a link.

The facts are JSON: those of the receipt of an instance, and its DICOM file as it is archived follows; or of the end of
an association that has brought instances. `content` reads a record, and writes the file of its instance.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import structlog

from node.archive.filesystem import Archive
from node.archive.intake import PartFile, PartLink
from node.dicom.attributes import InstanceAttributes, instance_attributes
from node.dicom.header import Head, ReadHead
from node.dicom.walker import HeaderCut
from node.errors import NotUnderstood, OutOfResources
from node.files.heads import attributes_of, head_of
from node.index.nouns.records import AssociationEnd, Outcome, Received, ReceivedPolicy, StoredFile
from node.journal.segment import Record

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
        if self._buffer is None:
            return b""
        with memoryview(self._buffer) as buffer, buffer[: self.bytes] as data_set:
            return bytes(data_set)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of a data set that is in a file."""
        assert self._file is not None
        return self._file.part.read(self._file.offset + offset, length)

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of a data set that is in a file."""
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
        buffer, self._buffer = self._buffer, None
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


_END = "association_end"
"""Name of the only field of the facts of an end; its value has the others."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """How an instance came, and where it goes.

    `sha256` is of the data set of a large instance, whose bytes lie in a file of their own, and `uids` are its SOP,
    Study and Series Instance UID, by which it is known if that file is gone; both are empty where the record has the
    bytes. `data_set_offset` and `data_set_bytes` are within the file. `began_at` is the begin of the association,
    None where there is none; `association` its name, empty where no record of its end will follow.
    """

    key: str
    source: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    received_at: dt.datetime
    transfer_syntax_uid: str
    data_set_offset: int
    data_set_bytes: int
    quiet_seconds: float
    overwrite_policy: ReceivedPolicy
    sha256: str = ""
    began_at: dt.datetime | None = None
    association: str = ""
    uids: Sequence[str] = ()

    def encoded(self) -> bytes:
        """Return the facts of a record."""
        facts = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(facts, default=dt.datetime.isoformat).encode()


@dataclass(frozen=True, slots=True)
class Known:
    """What the receiving thread knows of the record of an instance; the journal hands it on with the record.

    `outcome`: gets the outcome after the commit; None: nobody waits for it.
    """

    attributes: InstanceAttributes
    outcome: Future[Outcome] | None = None


def receipt(facts: bytes) -> Receipt | None:
    """Return the receipt that a record of the journal holds; None if its facts are not those of this version."""
    try:
        fields = _with_moments(json.loads(facts), "received_at", "began_at")
        fields["overwrite_policy"] = cast(ReceivedPolicy, fields["overwrite_policy"])
        return Receipt(**fields)
    except (ValueError, KeyError, TypeError):
        return None


def end_facts(end: AssociationEnd) -> bytes:
    """Return the facts of the record of an end."""
    fields = {name: getattr(end, name) for name in end.__slots__}
    fields["brought"] = [[*series, count] for series, count in end.brought.items()]
    return json.dumps({_END: fields}, default=dt.datetime.isoformat).encode()


def association_end(facts: bytes) -> AssociationEnd | None:
    """Return the end of an association that a record of the journal holds; None if it holds something else."""
    try:
        fields = _with_moments(json.loads(facts)[_END], "began_at", "ended_at", "ending_at")
        fields["brought"] = {(study, series): count for study, series, count in fields["brought"]}
        fields["last"] = tuple(fields["last"])
        return AssociationEnd(**fields)
    except (ValueError, KeyError, TypeError):
        return None


def _with_moments(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    moments: Mapping[str, str | None] = {name: fields.get(name) for name in names}
    return fields | {name: dt.datetime.fromisoformat(text) for name, text in moments.items() if text is not None}


def content(record: Record, archive: Archive, written: Callable[[str], None]) -> Received | AssociationEnd | None:
    """Return the content of a record, or None if it cannot be read; write the file of an instance.

    The file may be written again after a crash: it is the same file each time. `written` gets its key, for the next
    checkpoint to sync it.
    """
    if isinstance(record.known, AssociationEnd):
        return record.known
    facts = receipt(record.facts)
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
    return Received(
        attributes, file, facts.quiet_seconds, facts.overwrite_policy, facts.began_at, head, facts.association
    )


def _attributes(record: Record, its: Receipt, archive: Archive) -> InstanceAttributes:
    if isinstance(record.known, Known):
        return record.known.attributes
    if not its.sha256:
        return instance_attributes(memoryview(record.payload)[its.data_set_offset :], its.transfer_syntax_uid)
    archive.keep_part(its.key)
    return attributes_of(archive.path(its.key), its.data_set_offset, its.transfer_syntax_uid)
