"""The one way in: the bytes of an instance and how they came become a record of the journal.

Every source of instances (an association, an import, a request over HTTP) does the same three steps:

    incoming = ingest.begin(announced, origin)
    incoming.take_fragment(fragment)              # for each fragment: into memory, or into a part file if it is large
    incoming.finish()                             # header -> journal, one sync

The instance is durable when `finish` returns, and only then it may be acknowledged, or later, after
`Ingest.acknowledgement`. File, row and timer are derived behind it (`node.receive.apply`). Everything that can refuse
an instance is therefore decided before its record is written. If the process dies earlier, no sender got an answer for
the instance, and the next start deletes its part file.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Literal

import structlog

from node.archive.filesystem import Archive
from node.audit.audit_log import Transfers
from node.dicom.attributes import INDEXED_TAGS, InstanceAttributes, attributes_within, is_identifier, is_uid
from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN, file_head
from node.dicom.header import (
    OF_PIXELS,
    Walked,
    cut_pixels,
    read_header_by_windows,
    require_inflatable,
    require_parsable,
)
from node.dicom.status import NotPermitted
from node.dicom.walker import HeaderCut
from node.errors import ClassMismatch, InstanceRefused, NotUnderstood, OutOfResources
from node.index.database import Index
from node.index.rows.records import NOT_CURRENT_OUTCOMES, AssociationEnd, Outcome, ReceivedPolicy
from node.journal.journal import Journal
from node.receive.apply import Applier
from node.receive.data_set import IncomingDataSet, SpareBuffers
from node.receive.record import Known, Receipt, end_facts
from node.receive.senders import OpenAssociations
from node.runtime.failpoints import reached
from node.runtime.metrics import Metrics
from node.settings.core import Acknowledge

log = structlog.get_logger()


MAXIMUM_BYTES = 16_000_000_000
"""Largest data set that is accepted."""


_HEADER = INDEXED_TAGS | OF_PIXELS
"""What of a header receiving needs."""

_PROCESS, _NUMBERS = uuid.uuid4().hex[:12], count(1)


def next_place() -> str:
    """Return a place among what associations do in this process, in its order, whatever the clock says.

    See `node.quiet.is_later`.
    """
    return f"{_PROCESS}:{next(_NUMBERS)}"


SHOWN_SERIES = 20
"""Limit of the instances that an error names if the journal is gone."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The sender of an instance, and the way it came: ``dicom``, ``get``, ``stow`` or ``import``.

    `peer` is an address with a port, or a host name. `association` names the association, if there is one:
    `Ingest.association_ended` records its end. `certificate` is the one that the peer has shown.
    `wanted` are the study and the series that a peer was asked for, whose others are refused; an empty series: all.
    `releases`: False for a sender of which it is known that it never releases its associations.
    `begun`: the place of the begin.
    """

    source: str
    calling_ae_title: str = ""
    called_ae_title: str = ""
    peer: str = ""
    association: str = ""
    certificate: str = ""
    wanted: tuple[str, str] | None = None
    releases: bool = True
    begun: str = field(default_factory=next_place, compare=False)

    @property
    def address(self) -> str:
        """`peer` without the port."""
        host, _, port = self.peer.rpartition(":")
        return host if host and port.isdecimal() else self.peer


@dataclass(frozen=True, slots=True)
class Announced:
    """The identity of an instance by its request and presentation context, or by its File Meta Information."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Acknowledgement:
    """Holds the acknowledgement until an instance is indexed, or is in the object store. Thread-safe.

    Uncertain is never success: if the index or the store has not taken the instance in time, its sender gets a failure
    and sends it again. The instance stays in the journal, is indexed and uploaded later, and is a repeat when it comes
    again.

    `seconds`: longest wait of one instance.
    """

    def __init__(
        self, promise: Acknowledge, seconds: float, applier: Applier, archive: Archive, metrics: Metrics
    ) -> None:
        self._promise, self.seconds = promise, seconds
        self._applier, self._archive, self._metrics = applier, archive, metrics

    def refusal(self) -> str | None:
        """Return why nothing can be acknowledged now; None if it can, or nobody has tried for long."""
        if (seconds := self._applier.lag_seconds) > self.seconds:
            return f"the index has not taken what was received for {seconds:.0f} s{self._reason()}"
        awaited = self._archive.remote.awaited if self._archive.remote is not None else None
        if awaited is not None and (seconds := awaited.oldest_seconds()) > self.seconds:
            return f"the object store has not taken what was received for {seconds:.0f} s"
        return None

    def _reason(self) -> str:
        """Return the reason, in brackets, why the index is behind, if it is known."""
        stall = self._applier.index_stall
        return f" (its server {stall})" if stall is not None else ""

    def wait(self, outcome: Future[Outcome], seconds: float | None = None) -> Outcome:
        """Return the outcome of an instance that is in the journal, once it may be acknowledged.

        `outcome`: as given to `Incoming.finish`.
        `seconds`: longest wait; None: that of the configuration.

        Raises OutOfResources: that takes longer, or only the disk of this host has these bytes, which is not what was
            promised.
        Raises NotUnderstood: the index can never take it: it is in quarantine.
        """
        with self._metrics.acknowledge_seconds.time():
            try:
                reached_outcome = outcome.result(self.seconds if seconds is None else seconds)
            except TimeoutError:
                place = "the object store" if self._promise == "object" else "the index"
                took = f"not in {place} within {self.seconds:g} s{self._reason()}"
                raise OutOfResources(f"{took}: send it again") from None
        if self._promise == "object" and reached_outcome in NOT_CURRENT_OUTCOMES:
            raise OutOfResources("other bytes are current; these are only on the disk of this host, in quarantine")
        return reached_outcome


class Ingest:
    """Receive instances; safe to use from many threads.

    `maximum_bytes`: largest data set that is accepted.
    `overwrite_policy`: what happens to other bytes under a SOP Instance UID that is stored; see
        `node.index.rules.intake.received.add_instances`.
    `transfers`: notes each instance that is stored, for the audit log.
    `aborted_grace_seconds`: wait of a series after its last instance if its association was not released.
    `conflict_answer`: whether the sender of a version that is not current gets a warning.
    `acknowledge_seconds`: see `Acknowledgement`.
    `any_uids`: whether UIDs may have other characters than digits and dots; see `is_identifier`.

    `acknowledgement`: what is to be waited for after `Incoming.finish`; None: an instance may be acknowledged at once.
    `warns`: whether the sender of a version that is not current gets a warning.
    `gaps`: what was acknowledged before and is not known any more, until a person accepts it
    (`node.index.rules.custody.lost`).
    """

    def __init__(
        self,
        archive: Archive,
        index: Index,
        journal: Journal,
        applier: Applier,
        metrics: Metrics,
        quiet_seconds: Callable[[str], float],
        maximum_bytes: int = MAXIMUM_BYTES,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        overwrite_policy: ReceivedPolicy = "never",
        aborted_grace_seconds: float = 300.0,
        transfers: Transfers | None = None,
        conflict_answer: Literal["success", "warning"] = "success",
        acknowledge: Acknowledge = "local",
        acknowledge_seconds: float = 20.0,
        *,
        any_uids: bool = False,
    ) -> None:
        self.any_uids = any_uids
        self.transfers = transfers
        self.acknowledgement: Acknowledgement | None = None
        if acknowledge != "local":
            self.acknowledgement = Acknowledgement(acknowledge, acknowledge_seconds, applier, archive, metrics)
        self.warns = conflict_answer == "warning"
        self.archive, self.index, self.journal, self.applier = archive, index, journal, applier
        self.metrics, self.now = metrics, now
        self.quiet_seconds, self.maximum_bytes, self.overwrite_policy = quiet_seconds, maximum_bytes, overwrite_policy
        self.aborted_grace_seconds = aborted_grace_seconds
        self._closed = threading.Event()
        self.buffers = SpareBuffers()
        self.open_associations = OpenAssociations()
        self.gaps: Sequence[str] = ()

    def begin(self, announced: Announced, origin: Origin, overwrite_policy: ReceivedPolicy | None = None) -> Incoming:
        """Return the receiver of the bytes of one data set.

        `overwrite_policy`: for this instance; None: that of the node.

        Raises OutOfResources: the disk is down to its reserve, intake has stopped, or the instance could not be
            acknowledged.
        Raises NotUnderstood: a UID is missing, longer than 64 characters, or none that the node accepts.
        """
        if self._closed.is_set():
            raise OutOfResources("the node is stopping")
        if self.acknowledgement is not None and (refusal := self.acknowledgement.refusal()) is not None:
            raise OutOfResources(refusal)
        for name, uid in (
            ("SOP Class UID", announced.sop_class_uid),
            ("SOP Instance UID", announced.sop_instance_uid),
            ("Transfer Syntax UID", announced.transfer_syntax_uid),
        ):
            self.require_uid(name, uid)
        return Incoming(self, announced, origin, overwrite_policy or self.overwrite_policy)

    def require_uid(self, name: str, uid: str) -> None:
        """Raise NotUnderstood if a UID is none that the node accepts."""
        if not is_identifier(uid):
            raise NotUnderstood(f"{name} is missing or no UID of up to 64 characters (PS3.5 9.1)")
        if not self.any_uids and not is_uid(uid):
            raise NotUnderstood(f"{name} is no UID (PS3.5 9.1): see [storage] any_uids")

    def is_conflict_reported(self, sop_instance_uid: str) -> bool:
        """Return whether a sender waits for the outcome: the instance is known, or another version is on its way."""
        if not self.warns or self.acknowledgement is not None:
            return self.warns
        return self.applier.may_bring(sop_instance_uid) or self.index.instances.current(sop_instance_uid) is not None

    def refusal(self) -> str | None:
        """Return why no new association should be accepted now; None if it may be."""
        refusal = self.archive.intake.refusal()
        if refusal is None and self.acknowledgement is not None:
            refusal = self.acknowledgement.refusal()
        return refusal

    def association_ended(
        self,
        association: str,
        outcome: str,
        *,
        is_agreed: bool = False,
        is_cut: bool = False,
        releases: bool = True,
        ending_at: dt.datetime | None = None,
    ) -> None:
        """Make the end of an association durable that has brought instances; see `AssociationEnd`.

        Its series wait no longer for it, or longer if it was not released, once the record is applied. If the process
        dies before, the next start counts the association as cut off.

        Raises OutOfResources if the end could not be recorded.
        """
        brought = self.open_associations.brought_by(association)
        if brought is None:
            return
        end = AssociationEnd(
            association,
            brought.calling_ae_title,
            outcome,
            self.now(),
            brought.series,
            brought.last,
            self.aborted_grace_seconds,
            is_agreed=is_agreed,
            is_cut=is_cut,
            releases=releases,
            ending_at=ending_at,
            begun=brought.begun,
            ended=next_place(),
        )
        try:
            self.applier.append(end_facts(end), known=end)
            reached("release-recorded")
        finally:
            self.open_associations.forget(association)

    def note_activity(self, seconds: float = 0.0) -> None:
        """Note in the index which associations have been sending one instance for more than `seconds`.

        Their series are not quiet.
        """
        if idle_seconds := self.open_associations.unnoted(seconds):
            self.index.associations.keep_open(idle_seconds, self.now())

    def end_cut_off(self) -> None:
        """Record which associations the end of the process before has cut off, once its journal is applied."""
        self.index.associations.end_cut_off(dt.timedelta(seconds=self.aborted_grace_seconds), self.now())

    def open_at_end(self) -> str:
        """Return in words whose associations were open when the process before ended; empty if none was."""
        left = self.index.associations.left()
        if not left:
            return ""
        titles = sorted({title or "without AE title" for title, _ in left})
        series = sorted({uid for _, (_, uid) in left})
        more = f" and {len(series) - SHOWN_SERIES} more" if len(series) > SHOWN_SERIES else ""
        shown = f"{', '.join(series[:SHOWN_SERIES])}{more}"
        return f"; the series that {', '.join(titles)} sent then are to be sent again: {shown}"

    def close(self) -> None:
        """Accept no new instances; those under way may finish."""
        self._closed.set()


class Incoming:
    """One instance that is being received; used by one thread, ends with `finish` or `abandon`."""

    def __init__(self, ingest: Ingest, announced: Announced, origin: Origin, overwrite_policy: ReceivedPolicy) -> None:
        ingest.archive.intake.require()
        self._ingest, self._announced, self._origin = ingest, announced, origin
        self._overwrite_policy = overwrite_policy
        head = file_head(
            announced.sop_class_uid, announced.sop_instance_uid, announced.transfer_syntax_uid, origin.calling_ae_title
        )
        self._head, self._data_set = head, IncomingDataSet(ingest.archive, ingest.buffers, head)
        self._walked: Walked | None = None

    def take_fragment(self, fragment: bytes | bytearray | memoryview) -> None:
        """Append received bytes of the data set; the fragment may change after this.

        Raises OutOfResources if the disk is full or fails, or the data set is larger than allowed; `abandon` the
        instance then.
        """
        self._ingest.open_associations.note_bytes(self._origin.association)
        if self._data_set.bytes + len(fragment) > self._ingest.maximum_bytes:
            raise OutOfResources(f"data set exceeds {self._ingest.maximum_bytes} bytes")
        self._data_set.append(fragment)

    def lacks_pixels(self) -> bool:
        """Return whether the received data set has not all pixels: see `node.dicom.header`.

        False where its header cannot be read, and `finish` raises.
        """
        try:
            walked = self._walk()
        except (HeaderCut, NotUnderstood):
            return False
        data_set, syntax = self._data_set, self._announced.transfer_syntax_uid
        return cut_pixels(data_set.read, data_set.bytes, syntax, walked) is not None

    def _walk(self) -> Walked:
        """Return what is needed of the header, which is read once."""
        if self._walked is None:
            self._walked = read_header_by_windows(self._data_set.read, self._announced.transfer_syntax_uid, _HEADER)
        return self._walked

    def refer_to(self, file: Path, data_set_offset: int) -> None:
        """Take the data set of a DICOM file that stays where it is: see `IncomingDataSet.refer_to`."""
        self._data_set.refer_to(file, data_set_offset)

    def finish(self, outcome: Future[Outcome] | None = None) -> None:
        """Make the instance durable; after this it may be acknowledged.

        `outcome`: gets the outcome when the instance is indexed.

        Raises NotUnderstood: the data set cannot be read, or lacks an identifying UID.
        Raises ClassMismatch: its class or UID is not the announced one.
        Raises NotPermitted: it is of another study or series than the peer was asked for.
        Raises OutOfResources: it could not be made durable.
        """
        try:
            attributes = self._attributes()
            self._ingest.require_uid("Study Instance UID", attributes.study_instance_uid)
            self._ingest.require_uid("Series Instance UID", attributes.series_instance_uid)
            self._require_announced(attributes)
            self._require_wanted(attributes)
            self._note_series(attributes)
            began = perf_counter()
            try:
                self._keep(attributes, outcome)
            finally:
                self._ingest.metrics.sync_seconds.observe(perf_counter() - began)
        except InstanceRefused:
            self.abandon()
            raise
        self._note_stored(attributes)
        if self._ingest.transfers is not None:
            self._ingest.transfers.brought(self._origin, attributes)

    def keep(self, outcome: Future[Outcome] | None = None) -> bool:
        """As `finish`; return whether the instance lacks pixels."""
        lacks_pixels = self.lacks_pixels()
        self.finish(outcome)
        return lacks_pixels

    def abandon(self) -> None:
        """Drop the instance; does nothing after `finish` has succeeded."""
        self._data_set.abandon()

    def _note_series(self, attributes: InstanceAttributes) -> None:
        """Let the series wait for its association: before its row can be there, or it might be quiet meanwhile."""
        if self._origin.association:
            series, origin = (attributes.study_instance_uid, attributes.series_instance_uid), self._origin
            opened = self._ingest.open_associations
            opened.brought(origin.association, origin.calling_ae_title, series, origin.begun)

    def _note_stored(self, attributes: InstanceAttributes) -> None:
        metrics, origin = self._ingest.metrics, self._origin
        if origin.association:
            series = attributes.study_instance_uid, attributes.series_instance_uid
            self._ingest.open_associations.stored(origin.association, series, attributes.sop_instance_uid)
        metrics.last_hour.received(self._data_set.bytes)
        metrics.last_day.received(self._data_set.bytes)
        if origin.calling_ae_title:
            now = self._ingest.now()
            metrics.last_words.heard(origin.calling_ae_title, origin.address, "stored an instance", now, stored=1)

    def _keep(self, attributes: InstanceAttributes, outcome: Future[Outcome] | None) -> None:
        ingest, origin = self._ingest, self._origin
        ingest.archive.intake.require_open()
        placed = self._data_set.placed()
        facts = Receipt(
            key=placed.key,
            source=origin.source,
            calling_ae_title=origin.calling_ae_title,
            called_ae_title=origin.called_ae_title,
            peer=origin.peer,
            received_at=ingest.now(),
            transfer_syntax_uid=self._announced.transfer_syntax_uid,
            data_set_offset=placed.offset,
            data_set_bytes=self._data_set.bytes,
            quiet_seconds=ingest.quiet_seconds(origin.calling_ae_title),
            overwrite_policy=self._overwrite_policy,
            sha256=placed.sha256,
            begun=origin.begun,
            association=origin.association,
            uids=()
            if self._data_set.is_in_memory
            else (attributes.sop_instance_uid, attributes.study_instance_uid, attributes.series_instance_uid),
        )
        payload = (self._head, self._data_set.in_memory()) if self._data_set.is_in_memory else ()
        try:
            ingest.applier.append(facts.encoded(), *payload, known=Known(facts, attributes, outcome))
        except OutOfResources:
            if ingest.archive.intake.stopped is not None:
                self._data_set.release()  # the record may be durable: the next start decides about its file
            raise
        self._data_set.release()

    def _attributes(self) -> InstanceAttributes:
        data_set, syntax = self._data_set, self._announced.transfer_syntax_uid
        try:
            attributes = attributes_within(self._walk().elements, syntax)
            require_parsable(data_set.read, data_set.bytes, syntax)
            if syntax == DEFLATED_LITTLE_ENDIAN:
                require_inflatable(data_set.pieces())
            return attributes
        except HeaderCut:
            raise NotUnderstood(f"data set ends within an element, after {self._data_set.bytes} bytes") from None

    def _require_announced(self, attributes: InstanceAttributes) -> None:
        for name, announced, actual in (
            ("SOP Class UID", self._announced.sop_class_uid, attributes.sop_class_uid),
            ("SOP Instance UID", self._announced.sop_instance_uid, attributes.sop_instance_uid),
        ):
            if announced != actual:
                raise ClassMismatch(f"{name} of the data set is not the announced one (PS3.4 B.2.3)")

    def _require_wanted(self, attributes: InstanceAttributes) -> None:
        """Refuse what a peer sends besides what it was asked for: C-GET must not let peers in that may not store."""
        if self._origin.wanted is None:
            return
        study, series = self._origin.wanted
        if attributes.study["study_instance_uid"] != study:
            raise NotPermitted("the instance is of another study than the peer was asked for (PS3.4 C.4.3.2)")
        if series and attributes.series["series_instance_uid"] != series:
            raise NotPermitted("the instance is of another series than the peer was asked for (PS3.4 C.4.3.2)")
