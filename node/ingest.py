"""The one door in: bytes and where they came from -> a stored, indexed instance whose series is owed a conversion.

Whoever brings an instance (an association, an import) does the same three steps:

    arrival = ingest.begin(announced, origin)     # a part file in the archive
    arrival.write(fragment)                       # as often as bytes come; hashed on the way
    arrival.finish()                              # header -> sync -> rename -> group commit

When `finish` returns, the file is durable and its row is committed, and only then may a peer be told so.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from node.archive.filesystem import Archive, PartFile
from node.dicom.attributes import InstanceAttributes, instance_attributes, is_identifier
from node.dicom.header import HeaderCut
from node.dicom.part10 import file_head
from node.errors import ArrivalRefused, ClassMismatch, NotUnderstood, OutOfResources
from node.index.database import Index
from node.index.records import Outcome, StoredFile
from node.metrics import Metrics

log = structlog.get_logger()

HEAD_BYTES = 65536
"""How much of a data set is kept in memory for reading its attributes; a longer header is read from the file."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent an instance, by which door (``dicom``, ``import``); `peer` is an address with a port, or a host name."""

    door: str
    calling_ae_title: str = ""
    called_ae_title: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Announced:
    """What the request and its presentation context, or the File Meta Information, say of an instance."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Ingest:
    """Takes instances in; safe to use from many threads.

    Parameters
    ----------
    archive : Archive
    index : Index
    quiet_seconds : callable (calling AE title) -> float
    maximum_bytes : int
        Largest data set that is taken.
    now : callable () -> aware datetime
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        metrics: Metrics,
        quiet_seconds: Callable[[str], float],
        maximum_bytes: int,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self.archive, self.index, self.metrics, self.now = archive, index, metrics, now
        self.quiet_seconds, self.maximum_bytes = quiet_seconds, maximum_bytes
        self._closed = threading.Event()

    def begin(self, announced: Announced, origin: Origin) -> Arrival:
        """Return an arrival that waits for the bytes of one data set.

        Raises
        ------
        OutOfResources
            The disk is down to its reserve, or intake has stopped.
        NotUnderstood
            A UID is missing or longer than 64 characters.
        """
        if self._closed.is_set():
            raise OutOfResources("the node is stopping")
        for name, uid in (
            ("SOP Class UID", announced.sop_class_uid),
            ("SOP Instance UID", announced.sop_instance_uid),
            ("Transfer Syntax UID", announced.transfer_syntax_uid),
        ):
            if not is_identifier(uid):
                raise NotUnderstood(f"{name} is missing or no UID of up to 64 characters (PS3.5 9.1)")
        return Arrival(self, announced, origin)

    def close(self) -> None:
        """Take no new instances; those under way may finish."""
        self._closed.set()


class Arrival:
    """One instance on its way in; used by one thread, ends with `finish` or `abandon`."""

    def __init__(self, ingest: Ingest, announced: Announced, origin: Origin) -> None:
        self._ingest, self._announced, self._origin = ingest, announced, origin
        self._part: PartFile = ingest.archive.open_part()
        self._digest = hashlib.sha256()
        self._head = bytearray()
        self.bytes = 0
        self._file_head = file_head(
            announced.sop_class_uid, announced.sop_instance_uid, announced.transfer_syntax_uid, origin.calling_ae_title
        )
        try:
            self._part.write(self._file_head)
        except OutOfResources:
            self._part.abandon()
            raise

    def write(self, fragment: bytes | bytearray | memoryview) -> None:
        """Append bytes of the data set, as they came.

        Raises
        ------
        OutOfResources
            The disk is full or fails, or the data set is larger than allowed; `abandon` the arrival then.
        """
        self.bytes += len(fragment)
        if self.bytes > self._ingest.maximum_bytes:
            raise OutOfResources(
                f"data set exceeds {self._ingest.maximum_bytes} bytes ([dicom] maximum_instance_bytes)"
            )
        self._digest.update(fragment)
        if len(self._head) < HEAD_BYTES:
            self._head += fragment[: HEAD_BYTES - len(self._head)]
        self._part.write(fragment)

    def finish(self) -> Outcome:
        """Make the instance durable and indexed; after this it may be acknowledged.

        Raises
        ------
        NotUnderstood
            The data set cannot be read, or lacks an identifying UID.
        ClassMismatch
            It is not what was announced.
        OutOfResources
            It could not be made durable, or its row may not be committed.
        """
        try:
            attributes = self._attributes()
            self._require_announced(attributes)
            with self._ingest.metrics.sync_seconds.time():
                key, folder = self._part.keep()
        except ArrivalRefused:
            self.abandon()
            raise
        archive, now = self._ingest.archive, self._ingest.now()
        file = StoredFile(
            key=key,
            quarantine_key=archive.quarantine_key(key),
            bytes=self.bytes,
            sha256=self._digest.hexdigest(),
            data_set_offset=len(self._file_head),
            transfer_syntax_uid=self._announced.transfer_syntax_uid,
            door=self._origin.door,
            calling_ae_title=self._origin.calling_ae_title,
            called_ae_title=self._origin.called_ae_title,
            peer=self._origin.peer,
            received_at=now,
        )
        quiet_seconds = self._ingest.quiet_seconds(self._origin.calling_ae_title)
        outcome = self._ingest.index.add_instance(attributes, file, quiet_seconds, folder)
        settle(archive, key, outcome)
        return outcome

    def abandon(self) -> None:
        """Forget the instance; may be called at any time before `finish` has succeeded."""
        self._part.abandon()

    def _attributes(self) -> InstanceAttributes:
        syntax = self._announced.transfer_syntax_uid
        try:
            return instance_attributes(self._head, syntax)
        except HeaderCut:
            pass  # the header is longer than what is kept in memory, or the data set ends within it
        try:
            with self._part.mapped() as file, memoryview(file) as view, view[len(self._file_head) :] as data_set:
                return instance_attributes(data_set, syntax)
        except HeaderCut:
            raise NotUnderstood(f"data set ends within an element, after {self.bytes} bytes") from None

    def _require_announced(self, attributes: InstanceAttributes) -> None:
        for name, announced, found in (
            ("SOP Class UID", self._announced.sop_class_uid, attributes.sop_class_uid),
            ("SOP Instance UID", self._announced.sop_instance_uid, attributes.sop_instance_uid),
        ):
            if announced != found:
                raise ClassMismatch(f"{name} of the data set is not the announced one (PS3.4 B.2.3)")


def settle(archive: Archive, key: str, outcome: Outcome) -> None:
    """After the commit: a file that no row names goes, or goes to quarantine."""
    if outcome is Outcome.ALREADY_THERE:
        archive.remove(key)
    elif outcome is Outcome.OTHER_BYTES:
        archive.quarantine(key)


def quiet_seconds_of(default: float, by_calling_ae_title: Mapping[str, float]) -> Callable[[str], float]:
    """The quiet time of a sender, from the configuration."""
    table = {title.strip(): seconds for title, seconds in by_calling_ae_title.items()}
    return lambda calling_ae_title: table.get(calling_ae_title.strip(), default)
