"""Apply the journal: each record of an instance becomes a file of the archive and a row of the index, in batches.

    journal -> file (not synced) -> rows and `applied`, one commit (not synced) -> settled
            -> checkpoint: files synced, ledger synced, then a durable commit, then the journal's mark: its segments
               are reused

Applying is idempotent. The record names the key of its file, and `applied` is committed with the rows: whatever a crash
leaves half done is done again from the journal, into the same file and the same rows. Until a checkpoint, a power cut
may undo files and rows; `Checkpoint.replay` compares every record that the journal still has.

The record of the end of an association is applied in the transaction of the instances before it. One that was not
released counts for no instance behind it: these begin another batch.

A record that cannot be applied now (no room, an index that is locked) stays, and so does everything behind it; senders
are slowed down when the journal is full. A record that can never be applied goes to quarantine, with an event.
"""

import datetime as dt
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from time import monotonic
from typing import Any

import structlog

from node.archive.filesystem import Archive
from node.audit.audit_log import SOURCE, Audit, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.errors import NotUnderstood, OutOfResources, counted
from node.files.acknowledged import Acknowledged
from node.index.database import Ahead, Index
from node.index.look.finder import QueryRefused
from node.index.rows.about_keys import AppliedPosition
from node.index.rows.records import NOT_CURRENT_OUTCOMES, AssociationEnd, Indexed, Outcome, Received
from node.index.rules.intake.instances import NotIndexable
from node.index.rules.series.association_ends import RELEASED
from node.index.rules.work.events import uids_of
from node.journal.inspection import JournalUnusable
from node.journal.journal import Journal, JournalFull
from node.journal.segment import Record, SegmentGone
from node.receive.accounting import Checkpoint, Replayed, acknowledged
from node.receive.data_set import content
from node.receive.pace import MAX_BATCH_BYTES, Waiting, due_at
from node.receive.record import Known, Receipt, receipt
from node.receive.stored_files import compared
from node.runtime.background import BackgroundService
from node.runtime.failpoints import reached
from node.runtime.link import APPLIED, READ_AT, SharedNumbers
from node.runtime.metrics import Metrics

log = structlog.get_logger()

MAX_BATCH = 512
"""Records of one transaction: other work for the index waits until it is committed."""

CATCH_UP_SECONDS = 10.0
"""Longest wait of a query for the instances that were acknowledged before it."""

MAX_KNOWN = 4096
"""Lag from which on what receiving threads know of records is not kept in memory but read from the journal, unless
somebody waits for the outcome."""

_Applicable = tuple[Record, Received | AssociationEnd | None]
"""A record and its content; None: the content cannot be read."""


class Applier(BackgroundService, Ahead):
    """Apply records in their order, on one thread.

    `journal`: before its `replay`.
    `is_awaited`: senders wait for the index: records are applied at once.

    `lacks_segments`: `replay` found damage: files that a power cut took may not have been written again.
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
        BackgroundService.__init__(self, "apply")
        Ahead.__init__(self, index.numbers)
        self._waiting = Waiting(company=int(is_awaited))
        self._wanted = 0  # the last record that somebody waits for
        self._begun = 0  # the last record of those that are applied without a further wait
        self._audit = audit
        self._journal, self._archive, self._index, self._metrics = journal, archive, index, metrics
        self._applying = threading.Lock()
        self._changed = threading.Condition()  # guards what is above and `_applied`
        self._applied = 0  # the number of the last record that is applied
        self._caught_up_at = monotonic()  # everything that was durable by then is applied
        self._seen, self._seen_at = 0, self._caught_up_at  # the last record at a moment since
        self._checkpoint = Checkpoint(journal, archive, index)
        self._committed = 0
        self._uncleared: deque[tuple[Record, Received, Indexed]] = deque()
        self.lacks_segments = False
        self._cursor = journal.start
        metrics.queued_instances.set_function(lambda: float(self.waiting))
        metrics.journal_bytes.set_function(lambda: float(journal.size))
        metrics.journal_lag_seconds.set_function(lambda: self.lag_seconds)

    @property
    def lag(self) -> int:
        """See `Ahead.lag`. The other process can write to the shared numbers, so this property does not read them."""
        return max(0, self._journal.last - self._applied)

    @property
    def waiting(self) -> int:
        """How many acknowledged instances are not in the index yet."""
        ends = sum(isinstance(its, AssociationEnd) for its in self._journal.known(self._applied))
        return max(0, self.lag - ends)

    @property
    def lag_seconds(self) -> float:
        """For how long acknowledged instances have not been in the index; 0 while it is up to date."""
        return monotonic() - self._caught_up_at if self.lag else 0.0

    @property
    def index_stall(self) -> str | None:
        """See `Index.stall`."""
        return self._index.stall

    def append(self, facts: bytes, *payload: bytes, known: Known | AssociationEnd) -> None:
        """Add a record to the journal, durably, and apply it in a moment.

        `known`: its content, as far as the receiving thread has read it.

        Raises OutOfResources if that fails.
        """
        is_kept = self.lag < MAX_KNOWN or isinstance(known, AssociationEnd) or known.outcome is not None
        if not self.lag:
            self._caught_up_at = monotonic()  # until the record is there, nothing is late
        try:
            self._journal.append(facts, *payload, known=known if is_kept else None)
        except OSError as error:
            raise self._archive.intake.failed(error) from error
        except SegmentGone as error:
            raise OutOfResources(f"intake has stopped: {self._archive.intake.stopped or error}") from error
        except (JournalFull, JournalUnusable) as error:
            raise OutOfResources(str(error)) from error
        with self._changed:
            uid = known.attributes.sop_instance_uid if isinstance(known, Known) else ""
            self.numbers.note_appended(self._journal.last, uid)
            self._waiting = self._waiting.with_another(sum(map(len, payload)), monotonic())
            self.wake_not_before(self._batch_due_at())

    def _batch_due_at(self) -> float:
        is_wanted = max(self._wanted, self._begun) > self._applied
        return due_at(self._waiting._replace(is_wanted=is_wanted, read_at=self.numbers.at[READ_AT]))

    def _note(self, **facts: Any) -> None:
        with self._changed:
            self._waiting = self._waiting._replace(**facts)

    def journal_problem(self) -> str | None:
        """Return why the journal accepts nothing more, or None. Its instances are made durable elsewhere then."""
        problem = self._journal.problem()
        if problem is not None and self._journal.freed < self._journal.last:
            self.wake()
        return problem

    def catch_up(self, seconds: float = CATCH_UP_SECONDS) -> bool:
        """Wait until what was acknowledged before this call is in the index; return False if that takes longer."""
        wanted = self._journal.last
        if self._applied >= wanted:
            return True
        with self._changed:
            self._wanted = max(self._wanted, wanted)
        self.wake()
        return self._wait_until(lambda: self._applied >= wanted, seconds)

    def _wait_until(self, is_over: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, which is looked at after each change; return False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(is_over, seconds)

    def _note_applied(self, sequence: int) -> None:
        with self._changed:
            self._applied = self.numbers.at[APPLIED] = sequence
            self._changed.notify_all()
        if sequence >= self._seen:  # under a steady load the lag is never 0: what was there at a moment is applied
            self._caught_up_at = max(self._caught_up_at, self._seen_at)
            self._seen_at, self._seen = monotonic(), self._journal.last

    def require_caught_up(self, *, reads: bool = True) -> None:
        """As `catch_up`. `reads`: the caller will probably ask again: see `node.receive.pace`.

        Raises QueryRefused if the index is behind what was acknowledged.
        """
        if reads:
            self.numbers.at[READ_AT] = monotonic()
        if not self.catch_up():
            why = f" ({self.last_failure})" if self.last_failure else ""
            behind = f"the index is {counted(self.waiting, 'instance')} behind what was received: ask again later"
            raise QueryRefused(f"{behind}{why}")

    def step(self) -> float | None:
        """Apply one batch of records."""
        with self._archive.intake.refusing():
            return self._step()

    def _step(self) -> float | None:
        self._archive.intake.require_here()  # what a record is compared with
        last = self._journal.last
        with self._changed:
            if self._applied >= self._begun:
                self._begun, self._waiting = last, self._waiting._replace(records=0, size=0)
        records, cursor = self._journal.read(self._cursor, MAX_BATCH, MAX_BATCH_BYTES)
        if records:
            began = monotonic()
            with self._applying:
                self.apply(records)
            if self._waiting.company:
                company = len(records) + self.lag if records[-1].sequence >= last else 1  # a batch is there already
                self._note(company=company, took=monotonic() - began)
            self._cursor = cursor
            if self._journal.has_whole_segment(self._applied):
                self.checkpoint()
        if self._journal.problem() is None:
            self._journal.prepare()
        elif not self.lag:
            self.checkpoint()  # the last chance
        with self._changed:
            return max(0.0, self._batch_due_at() - monotonic()) if self.lag else None

    def replay(self) -> Replayed:
        """Apply the records that earlier processes left in the journal; before `start`.

        Raises OutOfResources if there is no room, or the index does not commit.
        """
        mark = self._index.about.applied(self._journal.identity)
        self.numbers.note_appended(self._journal.last)
        applied_before = mark.sequence if mark.journal == self._journal.identity else 0
        replayed = self._checkpoint.replay(self.apply, applied_before, MAX_BATCH, MAX_BATCH_BYTES)
        self.lacks_segments = self._checkpoint.is_damaged
        self._note_applied(self._journal.last)
        self._cursor = self._journal.start
        reached("journal-replayed")
        if any(asdict(replayed).values()):
            log.info("journal_replayed", **asdict(replayed))
        return replayed

    def apply(self, records: Sequence[Record]) -> int:
        """Write files and rows of records, and clear away files that these replace; if this raises, apply them again.

        Returns how many of them are of instances.

        Raises OutOfResources if there is no room, the disk fails, or the index does not commit.
        """
        self._clear()
        written = self._checkpoint.written
        applied: list[_Applicable] = [
            (record, content(record, self._archive, written)) for record in records if record.sequence > self._committed
        ]
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
        instances = [(record, one) for record, one in batch if isinstance(one, Received)]
        received = [one for _, one in instances]
        ends = [one for _, one in batch if isinstance(one, AssociationEnd)]
        sequence = batch[-1][0].sequence
        applied = AppliedPosition(self._journal.identity, sequence)
        compare = partial(compared, self._archive, self._index, received)
        indexed = self._index.instances.add(received, applied, ends, compare)
        self._checkpoint.owe((acknowledged(one), done.superseded) for one, done in zip(received, indexed, strict=True))
        self._committed = sequence
        if received:
            self._metrics.commit_instances.observe(len(received))
        self._uncleared += [(*one, done) for one, done in zip(instances, indexed, strict=True)]
        self._clear()
        reached("batch-cleared")

    def _clear(self) -> None:
        """Remove or move the files that the last commit replaced; a failure is tried again before anything else."""
        while self._uncleared:
            record, received, done = self._uncleared[0]
            clear(self._archive, done)
            if done.quarantine is not None:
                self._checkpoint.written(self._archive.quarantine_key(done.quarantine))
            self._uncleared.popleft()
            if done.restored is not None:
                self._note_restored(received, done.restored)
            if (outcome := _awaited(record)) is not None:
                self._resolve(outcome, received.file.key, done)

    def _resolve(self, outcome: Future[Outcome], key: str, done: Indexed) -> None:
        """Resolve the future of an outcome; if the object is promised, after the upload."""
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
            event = AuditEvent.INSTANCES_ACCESSED
            self._audit.note(
                AuditMessage(event, AuditAction.UPDATE, Result.SUCCESS, [sender], [{**uids_of(attributes)}], detail)
            )

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
        elif facts is not None:
            with suppress(FileNotFoundError):
                self._archive.quarantine(key)
            if not self._archive.path(quarantined).exists():
                self._note_gone(record, facts)
        self._archive.sync([quarantined])  # no row names it: it is never compared with its record
        log.error("instance_set_aside", reason=reason, path=quarantined)
        applied = AppliedPosition(self._journal.identity, record.sequence)
        self._index.instances.set_aside(reason, quarantined, applied, dt.datetime.now(dt.UTC))
        self._committed = record.sequence
        if (outcome := _awaited(record)) is not None:
            outcome.set_exception(NotUnderstood(reason))

    def _note_gone(self, record: Record, facts: Receipt) -> None:
        """Note a large instance as lost whose file is gone from a folder that is there."""
        now = dt.datetime.now(dt.UTC)
        if len(facts.uids) == 3:
            sop, study, series = facts.uids
            at, title = facts.received_at.isoformat(), facts.calling_ae_title
            one = Acknowledged(sop, study, series, facts.sha256, facts.source, title, facts.peer, at)
            self._checkpoint.owe([(one, ())])
            self._index.lost.record([one], now)
            return
        self._index.lost.note_gap(
            f"record {record.sequence} of the journal is of a large instance whose file is gone: "
            f"{facts.calling_ae_title or facts.source} sent it, received at {facts.received_at:%Y-%m-%dT%H:%M:%S}",
            now,
        )

    def checkpoint(self) -> None:
        """Make everything that was applied durable where it is, and let the journal write over it: see `Checkpoint`."""
        self._checkpoint.make(self._applied)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Apply nothing until this is left: the ledger has all that the index has."""
        with self._applying:
            self.checkpoint()
            yield

    def overwrite_applied(self) -> None:
        """Overwrite every record that was appended before this call, so that the journal has no deleted instance.

        Raises QueryRefused if it is not applied in time, and OutOfResources.
        """
        with self._archive.intake.refusing():
            self._journal.begin_clean()
        self.require_caught_up()
        self.checkpoint()
        with self._archive.intake.refusing():
            self._journal.overwrite_free()

    def finish(self) -> None:
        """Apply all that was appended, and stop; what cannot be applied stays in the journal for the next start."""
        if self.is_alive:
            self.catch_up()
            self.stop()
        with suppress(OutOfResources, OSError):
            self.checkpoint()
        for known in self._journal.known():
            if isinstance(known, Known) and known.outcome is not None and not known.outcome.done():
                known.outcome.set_exception(OutOfResources("the node is stopping, and the index did not take it"))


class AppliedElsewhere(Ahead):
    """What is ahead of the index, in a process beside the one that receives.

    `numbers`: what the applier shares.
    `require`: has the applier catch up: `Applier.require_caught_up`.
    """

    def __init__(self, numbers: SharedNumbers, require: Callable[..., object]) -> None:
        super().__init__(numbers)
        self._require = require

    def require_caught_up(self, *, reads: bool = True) -> None:
        """See `Applier.require_caught_up`; the other process is asked only where something is ahead."""
        if reads:
            self.numbers.at[READ_AT] = monotonic()
        if self.lag:
            self._require(reads=reads)


def _together(applied: Sequence[_Applicable]) -> list[_Applicable]:
    """Return the first records that one transaction may apply together; empty if the first cannot be applied."""
    batch: list[_Applicable] = []
    is_over = False  # an end that was not released counts for no instance behind it
    for record, one in applied:
        if one is None or (is_over and isinstance(one, Received)):
            break
        is_over |= isinstance(one, AssociationEnd) and one.outcome != RELEASED
        batch.append((record, one))
    return batch


def _awaited(record: Record) -> Future[Outcome] | None:
    """Return what waits for the outcome of a record."""
    return record.known.outcome if isinstance(record.known, Known) else None


def _pass_on(outcome: Future[Outcome], result: Outcome, upload: Future[None]) -> None:
    error = upload.exception()
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)


def clear(archive: Archive, indexed: Indexed) -> None:
    """After a commit, remove the file that no row names, or move it to quarantine."""
    if indexed.remove is not None:
        archive.remove(indexed.remove)
    if indexed.quarantine is not None:
        with suppress(FileNotFoundError):  # deleted meanwhile
            archive.quarantine(indexed.quarantine)
