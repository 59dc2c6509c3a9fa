"""Apply the journal: each record of an instance becomes a file of the archive and a row of the index, in batches.

    journal -> file (not synced) -> rows and `applied`, one commit (not synced) -> settled
            -> checkpoint: files synced, ledger synced, then a durable commit, then the journal's mark: its segments
               are reused

Applying is idempotent. The record names the key of its file, and `applied` is committed with the rows: whatever a crash
leaves half done is done again from the journal, into the same file and the same rows. Until a checkpoint, a power cut
may undo files and rows; `replay` compares every record that the journal still has.

The record of the end of an association is applied in the transaction of the instances before it. One that was not
released counts for no instance behind it: these begin another batch.

A record that cannot be applied now (no room, an index that is locked) stays, and so does everything behind it; senders
are slowed down when the journal is full. A record that can never be applied goes to quarantine, with an event.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

import structlog

from node.acknowledged import Acknowledged
from node.archive.filesystem import Archive
from node.audit.audit_log import SOURCE, Action, Audit, AuditEvent, AuditMessage, Participant, Result
from node.background import BackgroundService
from node.dicom.attributes import InstanceAttributes, attributes_by_windows, instance_attributes
from node.dicom.header import Head, HeaderCut, ReadHead
from node.errors import NotUnderstood, OutOfResources
from node.failpoints import reached
from node.files.heads import head_of
from node.index.database.index import Index
from node.index.engine.about_keys import Applied
from node.index.nouns.association_ends import RELEASED
from node.index.nouns.instances import NotIndexable
from node.index.nouns.records import NOT_CURRENT_OUTCOMES, AssociationEnd, Indexed, Outcome, Received, StoredFile
from node.index.search.finder import QueryRefused
from node.journal.journal import Journal
from node.journal.segment import Damage, Record
from node.metrics import Metrics
from node.receive.accounting import acknowledged, listed, mark_of
from node.receive.record import Receipt, association_end, receipt
from node.receive.stored_files import add_compared

log = structlog.get_logger()

MAX_BATCH = 256
MAX_BATCH_BYTES = 32 << 20
GATHER_SECONDS = 0.05
"""Time between an append and the batch that applies it, while nobody waits for it: others join it meanwhile. Where
senders wait, a batch waits for those that were answered last, as long as the last batch took and at most this long."""

MAX_EXPECTED = 4096
"""Records whose attributes are kept in memory from the receipt on."""

CATCH_UP_SECONDS = 10.0
"""Longest wait of a query for the instances that were acknowledged before it."""


@dataclass(slots=True)
class _Expected:
    """What the receiving thread knows of a record that will come."""

    attributes: InstanceAttributes
    outcome: Future[Outcome] | None


_Applicable = tuple[Record, Received | AssociationEnd | None]
"""A record and its content; None: the content cannot be read."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Numbers of what `Applier.replay` did."""

    applied: int = 0
    restored: int = 0
    damaged: int = 0


class Applier(BackgroundService):
    """Apply records in their order, on one thread.

    Parameters
    ----------
    journal : Journal
        Before its `replay`.
    is_awaited : bool
        Senders wait for the index: records are applied at once.

    Attributes
    ----------
    lacks_segments : bool
        `replay` found damage: files that a power cut took may not have been written again.
    """

    def __init__(
        self,
        journal: Journal,
        archive: Archive,
        index: Index,
        metrics: Metrics,
        audit: Audit | None = None,
        *,
        is_awaited: bool = False,
    ) -> None:
        super().__init__("apply")
        self._is_awaited = is_awaited
        self._gather_seconds = 0.0 if is_awaited else GATHER_SECONDS
        self._batch_seconds = 0.0  # of the last one
        self._company = 1  # senders that wait at the same time
        self._audit = audit
        self._journal, self._archive, self._index, self._metrics = journal, archive, index, metrics
        self._lock = threading.Lock()  # guards `_expected`, `_unsynced` and `_unlisted`
        self._checkpointing = threading.Lock()
        self._applying = threading.Lock()
        self._expected: dict[str, _Expected] = {}
        self._progress = threading.Condition()
        self._applied = 0
        self._committed = 0
        self._unsettled: deque[tuple[Received, Indexed]] = deque()
        self._parts_are_evidence = False
        self._damaged_segments: dict[Path, str] = {}  # and their copies in quarantine
        self.lacks_segments = False
        self._cursor = journal.start
        self._caught_up_at = monotonic()  # everything that was durable by then is applied
        self._seen, self._seen_at = 0, self._caught_up_at  # the last record at a moment since
        self._unsynced: set[str] = set()
        self._unlisted: list[tuple[Acknowledged, Sequence[str]]] = []  # applied, and not in the ledger yet: `listed`
        metrics.queued_instances.set_function(lambda: float(self.lag))
        metrics.journal_bytes.set_function(lambda: float(journal.size))
        metrics.journal_lag_seconds.set_function(lambda: self.lag_seconds)

    @property
    def lag(self) -> int:
        """How many records, nearly all of acknowledged instances, are not in the index yet."""
        return max(0, self._journal.last - self._applied)

    @property
    def lag_seconds(self) -> float:
        """For how long acknowledged instances have not been in the index; 0 while it is up to date."""
        return monotonic() - self._caught_up_at if self.lag else 0.0

    @property
    def index_stall(self) -> str | None:
        """See `Index.stall`."""
        return self._index.stall

    def expect(self, key: str, attributes: InstanceAttributes, outcome: Future[Outcome] | None = None) -> None:
        """Hand over what the receiving thread has read already, before it appends the record.

        While the index takes nothing for long, attributes are dropped, and read from the journal again later.

        `outcome`: gets the outcome after the commit.
        """
        now = monotonic()
        if not self.lag:
            self._caught_up_at = now
        with self._lock:
            if outcome is not None or len(self._expected) < MAX_EXPECTED:
                self._expected[key] = _Expected(attributes, outcome)

    def forget(self, key: str) -> None:
        """Take back what `expect` announced: the append failed."""
        with self._lock:
            self._expected.pop(key, None)

    def is_expected(self, sop_instance_uid: str) -> bool:
        """Return whether an instance with this UID may be ahead of the index."""
        with self._lock:
            if len(self._expected) >= MAX_EXPECTED:
                return True
            return any(one.attributes.sop_instance_uid == sop_instance_uid for one in self._expected.values())

    def journal_problem(self) -> str | None:
        """Return why the journal takes nothing more, or None; what it has is made durable elsewhere then."""
        problem = self._journal.problem()
        if problem is not None and self._journal.freed < self._journal.last:
            self.wake()
        return problem

    def appended(self) -> None:
        """Apply what was appended, in a moment."""
        self.wake(self._gather_seconds)
        if self._is_awaited and self.lag >= self._company:
            with self._progress:
                self._progress.notify_all()

    def catch_up(self, seconds: float = CATCH_UP_SECONDS) -> bool:
        """Wait until what was acknowledged before this call is in the index; return False if that takes longer."""
        wanted = self._journal.last
        if self._applied >= wanted:
            return True
        self.wake()
        with self._progress:
            return self._progress.wait_for(lambda: self._applied >= wanted, seconds)

    def require_caught_up(self) -> None:
        """As `catch_up`.

        Raises QueryRefused if the index is behind what was acknowledged.
        """
        if not self.catch_up():
            raise QueryRefused(f"the index is {self.lag} instances behind what was received: ask again later")

    def step(self) -> float | None:
        """Apply one batch of what the journal has."""
        with self._archive.intake.refusing():
            return self._step()

    def _step(self) -> float | None:
        if self._is_awaited:
            self._await_company()
        last = self._journal.last
        records, cursor = self._journal.read(self._cursor, MAX_BATCH, MAX_BATCH_BYTES)
        if records:
            began = monotonic()
            with self._applying:
                self.apply(records)
            self._batch_seconds = monotonic() - began
            self._company = len(records) + self.lag if records[-1].sequence >= last else 1  # a batch is there already
            self._cursor = cursor
            if self._journal.has_whole_segment(self._applied):
                self.checkpoint()
        if self._journal.problem() is None:
            self._journal.prepare()
        elif not self.lag:
            self.checkpoint()  # the last chance
        if not self.lag:
            return None
        return 0.0 if len(records) == MAX_BATCH else self._gather_seconds

    def _await_company(self) -> None:
        """Let as many senders share a commit as have waited for the last one or during it.

        Each sends its next instance once the last one is acknowledged: without this, some of them would always wait for
        the commit of the others.
        """
        with self._progress:
            self._progress.wait_for(
                lambda: self.lag >= self._company or self._stopping.is_set(), min(self._batch_seconds, GATHER_SECONDS)
            )

    def replay(self) -> Replayed:
        """Apply what the processes before have left in the journal; before `start`.

        Of records that were applied already, the file is compared with the record and written again where a power cut
        took it.

        Raises OutOfResources if there is no room, or the index does not commit.
        """
        mark = self._index.about.applied(self._journal.identity)
        applied_before = mark.sequence if mark.journal == self._journal.identity else 0
        counts = {"applied": 0, "restored": 0, "damaged": 0}
        batch: list[Record] = []
        size = 0
        for record in self._journal.replay(applied_before):
            if isinstance(record, Damage):
                self._keep_damaged(record)
                counts["damaged"] += max(record.last - record.first + 1, 0)
                continue
            batch.append(record)
            size += len(record.payload)
            if len(batch) == MAX_BATCH or size >= MAX_BATCH_BYTES:
                self._replay_batch(batch, applied_before, counts)
                batch, size = [], 0
        self._replay_batch(batch, applied_before, counts)
        if self._parts_are_evidence or self._damaged_segments:  # lost records may have named some of the part files
            self._archive.quarantine_parts()
        self._applied = self._journal.last
        self._cursor = self._journal.start
        reached("journal-replayed")
        if sum(counts.values()):
            log.info("journal_replayed", **counts)
        return Replayed(**counts)

    def _keep_damaged(self, damage: Damage) -> None:
        """Keep the segment of records that cannot be read, and tell: these were acknowledged."""
        which = f"records {damage.first} to {damage.last}"
        if damage.last < damage.first:
            which = f"records from {damage.first} on, if there were any,"
        self.lacks_segments = True
        if damage.segment.exists():
            kept = self._damaged_segments.get(damage.segment)
            if kept is None:
                kept = self._damaged_segments[damage.segment] = self._archive.quarantine_copy(damage.segment)
            detail = f"{which} of the journal cannot be read; the segment is kept: {kept}"
        else:
            self._parts_are_evidence = True
            detail = f"{which} of the journal are missing with its segment {damage.segment.name}"
        log.error("journal_damaged", detail=detail)
        self._index.lost.note_gap(detail, dt.datetime.now(dt.UTC))

    def _replay_batch(self, batch: list[Record], applied_before: int, counts: dict[str, int]) -> None:
        known = [record for record in batch if record.sequence <= applied_before]
        new = [record for record in batch if record.sequence > applied_before]
        if known:
            counts["restored"] += self._restore(known)
        if new:
            counts["applied"] += self.apply(new)

    def _restore(self, records: list[Record]) -> int:
        """Write files again that rows name and that are not as they were received; return how many."""
        receipts = [(record, its) for record in records if (its := receipt(record.facts)) is not None]
        keys = [key for _, its in receipts for key in (its.key, self._archive.quarantine_key(its.key))]
        named = self._index.instances.named_keys(keys)
        restored = 0
        for record, its in receipts:
            for key in (its.key, self._archive.quarantine_key(its.key)):
                if key in named:
                    restored += self._restored(record, its, key)
        stored = self._index.lost.stored_at(keys)
        replaced = self._index.lost.replaced([one.sop_instance_uid for one in stored])
        with self._lock:
            self._unlisted += [(one, replaced.get(one.sop_instance_uid, ())) for one in stored]
        return restored

    def _restored(self, record: Record, its: Receipt, key: str) -> bool:
        self._written(key)
        if its.sha256:
            return self._archive.keep_part(key)
        with suppress(FileNotFoundError):
            if self._archive.path(key).read_bytes() == record.payload:
                return False
        self._archive.write(key, record.payload)
        return True

    def apply(self, records: Sequence[Record]) -> int:
        """Write files and rows of records, and settle them; if this raises, apply the same records again.

        Returns how many of them are of instances.

        Raises OutOfResources if there is no room, the disk fails, or the index does not commit.
        """
        self._settle()
        applied = [(record, self._read(record)) for record in records if record.sequence > self._committed]
        instances = sum(not isinstance(one, AssociationEnd) for _, one in applied)
        while applied:  # in their order: a crash must find either all or none of what is before `applied`
            batch = _together(applied)
            del applied[: len(batch)]
            if batch:
                self._add(batch)
            elif applied:
                self._set_aside(applied.pop(0)[0], "its record in the journal cannot be read")
        self._note_applied(records[-1].sequence)
        return instances

    def _add(self, batch: Sequence[_Applicable]) -> None:
        try:
            self._commit(batch)
        except NotIndexable:
            for incoming in batch:
                try:
                    self._commit([incoming])
                except NotIndexable as error:
                    self._set_aside(incoming[0], str(error))

    def _commit(self, batch: Sequence[_Applicable]) -> None:
        received = [one for _, one in batch if isinstance(one, Received)]
        ends = [one for _, one in batch if isinstance(one, AssociationEnd)]
        sequence = batch[-1][0].sequence
        applied = Applied(self._journal.identity, sequence)
        kept = add_compared(self._archive, self._index, received, applied, ends)
        with self._lock:
            self._unlisted += [(acknowledged(one), done.superseded) for one, done in zip(received, kept, strict=True)]
        self._committed = sequence
        if received:
            self._metrics.commit_instances.observe(len(received))
        self._unsettled += zip(received, kept, strict=True)
        self._settle()
        reached("batch-settled")

    def _settle(self) -> None:
        """Remove or move the files that the last commit let go; what fails is tried again before anything else."""
        while self._unsettled:
            received, done = self._unsettled[0]
            settle(self._archive, done)
            if done.quarantine is not None:
                self._written(self._archive.quarantine_key(done.quarantine))
            self._unsettled.popleft()
            if done.restored is not None:
                self._note_restored(received, done.restored)
            if (outcome := self._awaited(received.file.key)) is not None:
                self._tell(outcome, received.file.key, done)

    def _tell(self, outcome: Future[Outcome], key: str, done: Indexed) -> None:
        """Tell the outcome to who waits for it, or have the instance uploaded before."""
        remote = self._archive.remote
        awaited = remote.awaited if remote is not None else None
        if awaited is None or done.outcome in NOT_CURRENT_OUTCOMES:
            outcome.set_result(done.outcome)
        else:
            awaited.upload(done.repeats or key).add_done_callback(partial(_pass_on, outcome, done.outcome))

    def _note_restored(self, received: Received, detail: str) -> None:
        log.warning("file_restored", sop_instance_uid=received.attributes.sop_instance_uid, detail=detail)
        if self._audit is not None:
            file, attributes = received.file, received.attributes
            sender = Participant(file.calling_ae_title or file.source, SOURCE, file.peer, is_requestor=True)
            uids = {
                "study_instance_uid": attributes.study_instance_uid,
                "series_instance_uid": attributes.series_instance_uid,
                "sop_instance_uid": attributes.sop_instance_uid,
            }
            event = AuditEvent.INSTANCES_ACCESSED
            self._audit.note(AuditMessage(event, Action.UPDATE, Result.SUCCESS, [sender], [uids], detail))

    def _awaited(self, key: str) -> Future[Outcome] | None:
        """Drop what is known of a record that was committed; return what waits for its outcome."""
        with self._lock:
            expected = self._expected.pop(key, None)
        return expected.outcome if expected is not None else None

    def _set_aside(self, record: Record, reason: str) -> None:
        """Keep an instance that cannot be indexed in quarantine, and record why."""
        facts = receipt(record.facts)
        # The same key however often the record is applied.
        name = uuid.uuid5(uuid.UUID(self._journal.identity), str(record.sequence)).hex
        key = f"objects/{name}.dcm" if facts is None else facts.key
        quarantined = self._archive.quarantine_key(key)
        if record.payload:
            self._archive.write(quarantined, record.payload)
            self._archive.remove(key)
        elif facts is None:
            self._parts_are_evidence = True
        else:
            with suppress(FileNotFoundError):
                self._archive.quarantine(key)
        self._archive.sync([quarantined])  # no row names it: it is never compared with its record
        log.error("instance_set_aside", reason=reason, path=quarantined)
        applied = Applied(self._journal.identity, record.sequence)
        self._index.instances.set_aside(f"{reason}: {quarantined}", applied, dt.datetime.now(dt.UTC))
        self._committed = record.sequence
        if (outcome := self._awaited(key)) is not None:
            outcome.set_exception(NotUnderstood(reason))

    def _note_applied(self, sequence: int) -> None:
        with self._progress:
            self._applied = sequence
            self._progress.notify_all()
        if sequence >= self._seen:  # under a steady load the lag is never 0: what was there at a moment is applied
            self._caught_up_at = max(self._caught_up_at, self._seen_at)
            self._seen_at, self._seen = monotonic(), self._journal.last

    def _written(self, key: str) -> None:
        """Note a file that the next checkpoint has to sync."""
        with self._lock:
            self._unsynced.add(key)

    def checkpoint(self) -> None:
        """Make everything that was applied durable where it is, and let the journal write over it.

        If the process dies in between, the records are compared once more.

        Raises OutOfResources if the disk or the index fails; the journal keeps everything.
        """
        with self._checkpointing:
            applied = self._applied
            if applied <= self._journal.freed:
                return
            with self._lock:
                keys, self._unsynced = self._unsynced, set()
                unlisted, self._unlisted = self._unlisted, []
            try:
                self._archive.sync(keys)
                self._list(unlisted)
                # A durable commit: it takes the rows of all batches before it along.
                self._index.about.set(mark_of(self._archive), str(self._archive.acknowledged.position))
                self._free(applied)
            except BaseException:
                with self._lock:
                    self._unsynced |= keys
                    self._unlisted = unlisted + self._unlisted
                raise

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Apply nothing until this is left: after a `checkpoint`, the ledger has all that the index has."""
        with self._applying:
            yield

    def overwrite_applied(self) -> None:
        """Overwrite every record of the journal that was appended before this call: what was deleted is not there.

        Raises QueryRefused if it is not applied in time, and OutOfResources.
        """
        with self._archive.intake.refusing():
            self._journal.begin_clean()
        self.require_caught_up()
        self.checkpoint()
        with self._archive.intake.refusing():
            self._journal.overwrite_free()

    def _list(self, unlisted: Sequence[tuple[Acknowledged, Sequence[str]]]) -> None:
        """Add what was applied to the ledger, durably.

        Raises OutOfResources if the disk fails, or has failed before: intake stops.
        """
        self._archive.intake.require_sound()
        with self._archive.intake.refusing():
            listed(self._archive, unlisted)

    def _free(self, sequence: int) -> None:
        with self._archive.intake.refusing():
            self._journal.free(sequence)

    def finish(self) -> None:
        """Apply all that was appended, and stop; what cannot be applied stays in the journal for the next start."""
        if self.is_alive:
            self.catch_up()
            self.stop()
        with suppress(OutOfResources, OSError):
            self.checkpoint()
        with self._lock:
            waiting = [one.outcome for one in self._expected.values() if one.outcome is not None]
        for outcome in (one for one in waiting if not one.done()):
            outcome.set_exception(OutOfResources("the node is stopping, and the index did not take it"))

    def _attributes(self, its: Receipt, payload: bytes) -> InstanceAttributes:
        with self._lock:
            expected = self._expected.get(its.key)
        if expected is not None:
            return expected.attributes
        if not its.sha256:
            return instance_attributes(memoryview(payload)[its.data_set_offset :], its.transfer_syntax_uid)
        self._archive.keep_part(its.key)
        return attributes_of(self._archive.path(its.key), its.data_set_offset, its.transfer_syntax_uid)

    def _read(self, record: Record) -> Received | AssociationEnd | None:
        """Return the content of a record, or None if it cannot be read; write the file of an instance."""
        facts = receipt(record.facts)
        if facts is None:
            return association_end(record.facts)
        try:
            attributes = self._attributes(facts, record.payload)
        except (NotUnderstood, HeaderCut, FileNotFoundError):
            log.exception("record_not_understood", record=record.sequence)
            return None
        head: ReadHead
        where = facts.data_set_offset, facts.transfer_syntax_uid
        if facts.sha256:
            self._archive.keep_part(facts.key)
            digest = facts.sha256
            head = partial(head_of, self._archive.path(facts.key), *where)
        else:
            head = partial(Head, record.payload, *where)
            self._archive.write(facts.key, record.payload)
            digest = hashlib.sha256(memoryview(record.payload)[facts.data_set_offset :]).hexdigest()
        self._written(facts.key)  # not before: a checkpoint on another thread would find nothing to sync
        file = StoredFile(
            key=facts.key,
            quarantine_key=self._archive.quarantine_key(facts.key),
            bytes=facts.data_set_bytes,
            sha256=digest,
            data_set_offset=facts.data_set_offset,
            transfer_syntax_uid=facts.transfer_syntax_uid,
            source=facts.source,
            calling_ae_title=facts.calling_ae_title,
            called_ae_title=facts.called_ae_title,
            peer=facts.peer,
            received_at=facts.received_at,
            place=self._archive.place_of_new,
        )
        return Received(
            attributes, file, facts.quiet_seconds, facts.overwrite_policy, facts.began_at, head, facts.association
        )


def _together(applied: Sequence[_Applicable]) -> list[_Applicable]:
    """Return the first of what is to be applied as far as one transaction may have it; empty if the first cannot be."""
    batch: list[_Applicable] = []
    is_over = False  # an end that was not released counts for no instance behind it
    for record, one in applied:
        if one is None or (is_over and isinstance(one, Received)):
            break
        is_over |= isinstance(one, AssociationEnd) and one.outcome != RELEASED
        batch.append((record, one))
    return batch


def _pass_on(outcome: Future[Outcome], kept: Outcome, upload: Future[None]) -> None:
    error = upload.exception()
    if error is None:
        outcome.set_result(kept)
    else:
        outcome.set_exception(error)


def settle(archive: Archive, kept: Indexed) -> None:
    """After a commit, remove the file that no row names, or move it to quarantine."""
    if kept.remove is not None:
        archive.remove(kept.remove)
    if kept.quarantine is not None:
        with suppress(FileNotFoundError):  # deleted meanwhile
            archive.quarantine(kept.quarantine)


def attributes_of(path: Path, data_set_offset: int, transfer_syntax_uid: str) -> InstanceAttributes:
    """Return the attributes of an instance from its file; errors as of `instance_attributes`."""
    with path.open("rb") as file:
        descriptor = file.fileno()
        return attributes_by_windows(
            lambda offset, length: os.pread(descriptor, length, data_set_offset + offset), transfer_syntax_uid
        )
