"""The one way into the archive: the bytes of an instance and their origin become a file and a row.

Every source of instances (an association, an import, a request over HTTP) does the same three steps:

    arrival = ingest.begin(announced, origin)     # a part file in the archive
    arrival.write(fragment)                       # for each fragment; hashed on the way
    arrival.finish()                              # header -> sync -> rename -> group commit

The file is durable and its row committed when `finish` returns; only then may the instance be acknowledged. If the
process dies earlier, the next start deletes the part file, or adopts a file that has no row.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

import structlog

from node.archive.filesystem import Archive, PartFile
from node.audit import Transfers
from node.dicom.attributes import InstanceAttributes, instance_attributes, is_identifier
from node.dicom.header import HeaderCut
from node.dicom.part10 import file_head
from node.errors import ArrivalRefused, ClassMismatch, NotUnderstood, OutOfResources
from node.failpoints import reached
from node.index.database import Index
from node.index.records import Kept, Outcome, SeriesKey, StoredFile
from node.metrics import Metrics
from node.settings.model import OverwritePolicy

log = structlog.get_logger()

HEAD_BYTES = 65536
"""Bytes of a data set that are kept in memory to read its attributes; a longer header is read from the file."""

DIGEST_BESIDE_SYNC_BYTES = 16_000_000
"""Up to this size, the written file is hashed while the disk syncs it; a larger one is hashed as its bytes come."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent an instance, and by which way: ``dicom``, ``get``, ``stow`` or ``import``.

    `peer` is an address with a port, or a host name. `association` names the association, if there is one:
    `Ingest.association_ended` hears how it ended.
    """

    source: str
    calling_ae_title: str = ""
    called_ae_title: str = ""
    peer: str = ""
    association: str = ""

    @property
    def address(self) -> str:
        """`peer` without the port."""
        host, _, port = self.peer.rpartition(":")
        return host if host and port.isdecimal() else self.peer


@dataclass(frozen=True, slots=True)
class Announced:
    """What the request and its presentation context, or the File Meta Information, say of an instance."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Ingest:
    """Receive instances; safe to use from many threads.

    Parameters
    ----------
    archive : Archive
    index : Index
    quiet_seconds : callable (calling AE title) -> float
    maximum_bytes : int
        Largest data set that is accepted.
    now : callable () -> aware datetime
    overwrite_policy : {"never", "replace", "keep_both"}
        What happens to other bytes under a SOP Instance UID that is stored, see `node.index.arrivals.add_instances`.
    transfers : Transfers or None
        Notes each instance that is stored, for the audit log.
    aborted_grace_seconds : float
        Wait of a series after its last instance if its association was not released.
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        metrics: Metrics,
        quiet_seconds: Callable[[str], float],
        maximum_bytes: int,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        overwrite_policy: OverwritePolicy = "never",
        aborted_grace_seconds: float = 300.0,
        transfers: Transfers | None = None,
    ) -> None:
        self.transfers = transfers
        self.archive, self.index, self.metrics, self.now = archive, index, metrics, now
        self.quiet_seconds, self.maximum_bytes, self.overwrite_policy = quiet_seconds, maximum_bytes, overwrite_policy
        self.aborted_grace = dt.timedelta(seconds=aborted_grace_seconds)
        self._closed = threading.Event()
        self.digests = ThreadPoolExecutor(2, "digest")
        self._brought: dict[str, set[SeriesKey]] = {}  # by open association
        self._lock = threading.Lock()

    def begin(self, announced: Announced, origin: Origin) -> Arrival:
        """Return an arrival, which takes the bytes of one data set.

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

    def refusal(self) -> str | None:
        """Return why no new association should be accepted now; None if it may be."""
        return self.archive.intake.refusal()

    def brought(self, association: str, key: SeriesKey) -> None:
        """Note that an instance of a series was received on an open association."""
        if association:
            with self._lock:
                self._brought.setdefault(association, set()).add(key)

    def association_ended(self, association: str, outcome: str) -> None:
        """Let the series of an association wait longer, unless the association was released (PS3.8 7.2).

        Parameters
        ----------
        outcome : str
            ``released``, or how else it ended.

        Raises
        ------
        OutOfResources
            The longer wait could not be recorded.
        """
        with self._lock:
            keys = self._brought.pop(association, None)
        if keys and outcome != "released":
            self.index.series.wait_after_abort(keys, self.aborted_grace, outcome, self.now())

    def close(self) -> None:
        """Accept no new instances; those under way may finish."""
        self._closed.set()


class Arrival:
    """One instance that is being received; used by one thread, ends with `finish` or `abandon`."""

    def __init__(self, ingest: Ingest, announced: Announced, origin: Origin) -> None:
        self._ingest, self._announced, self._origin = ingest, announced, origin
        self._part: PartFile = ingest.archive.open_part()
        self._digest = hashlib.sha256()
        self._digested = 0
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
        """Append received bytes of the data set.

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
        if self.bytes > DIGEST_BESIDE_SYNC_BYTES:
            if not self._digested:
                with self._undigested() as rest:
                    self._digest.update(rest)
            self._digest.update(fragment)
            self._digested = self.bytes
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
            Its class or UID is not the announced one.
        OutOfResources
            It could not be made durable, or its row may not be committed.
        """
        try:
            attributes = self._attributes()
            self._require_announced(attributes)
            with self._ingest.index.instances.expecting(), self._ingest.metrics.sync_seconds.time():
                key, folder, sha256 = self._keep()
        except ArrivalRefused:
            self.abandon()
            raise
        archive, now = self._ingest.archive, self._ingest.now()
        file = StoredFile(
            key=key,
            quarantine_key=archive.quarantine_key(key),
            bytes=self.bytes,
            sha256=sha256,
            data_set_offset=len(self._file_head),
            transfer_syntax_uid=self._announced.transfer_syntax_uid,
            source=self._origin.source,
            calling_ae_title=self._origin.calling_ae_title,
            called_ae_title=self._origin.called_ae_title,
            peer=self._origin.peer,
            received_at=now,
        )
        quiet_seconds = self._ingest.quiet_seconds(self._origin.calling_ae_title)
        kept = self._ingest.index.instances.add(attributes, file, quiet_seconds, folder, self._ingest.overwrite_policy)
        settle(archive, kept)
        reached("arrival-settled")
        series_key = str(attributes.study["study_instance_uid"]), str(attributes.series["series_instance_uid"])
        self._ingest.brought(self._origin.association, series_key)
        if self._ingest.transfers is not None:
            self._ingest.transfers.brought(self._origin, attributes)
        return kept.outcome

    def abandon(self) -> None:
        """Drop the instance; may be called at any time before `finish` has succeeded."""
        self._part.abandon()

    def _keep(self) -> tuple[str, Path, str]:
        """Sync and name the file, and hash its data set meanwhile; return key, folder and digest."""
        if self.bytes <= HEAD_BYTES:
            self._digest.update(self._head)  # faster than a hand-over to another thread
            key, folder = self._part.keep()
        else:
            with self._undigested() as rest:
                digested = self._ingest.digests.submit(self._digest.update, rest)
                try:
                    key, folder = self._part.keep()
                finally:
                    digested.result()
        return key, folder, self._digest.hexdigest()

    @contextmanager
    def _undigested(self) -> Iterator[memoryview]:
        """Yield the part of the data set that is written but not hashed yet."""
        begin = len(self._file_head) + self._digested
        with self._part.mapped() as file, memoryview(file) as view, view[begin:] as rest:
            yield rest

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
        for name, announced, actual in (
            ("SOP Class UID", self._announced.sop_class_uid, attributes.sop_class_uid),
            ("SOP Instance UID", self._announced.sop_instance_uid, attributes.sop_instance_uid),
        ):
            if announced != actual:
                raise ClassMismatch(f"{name} of the data set is not the announced one (PS3.4 B.2.3)")


def settle(archive: Archive, kept: Kept) -> None:
    """After a commit, remove the file that no row names, or move it to quarantine."""
    if kept.remove is not None:
        archive.remove(kept.remove)
    if kept.quarantine is not None:
        with suppress(FileNotFoundError):  # deleted meanwhile
            archive.quarantine(kept.quarantine)


def settle_losers(archive: Archive, index: Index) -> int:
    """Move files that lost a conflict to quarantine, if a crash came before the move; return how many."""
    misplaced = [key for key in index.instances.loser_keys() if not archive.path(key).exists()]
    folders = archive.folders() if misplaced else []
    moved = 0
    for name in (PurePath(key).name for key in misplaced):
        for key in (f"objects/{folder}/{name}" for folder in folders):
            if archive.path(key).exists():
                archive.quarantine(key)
                moved += 1
    return moved


def quiet_seconds_of(default: float, by_calling_ae_title: Mapping[str, float]) -> Callable[[str], float]:
    """Return the function that gives the quiet time of a sender, from the configuration."""
    table = {title.strip(): seconds for title, seconds in by_calling_ae_title.items()}
    return lambda calling_ae_title: table.get(calling_ae_title.strip(), default)
