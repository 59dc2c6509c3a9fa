"""The worker of one destination of a route.

It is a subscriber (`node.index.work_loop.MessageLoop`): a message stands for an instance, a series or a study,
and is delivered once the destination has taken all of its instances. What was taken is recorded every second: an
attempt after a failure or a kill sends the rest, and what was sent in the last second once more.

The instances of the messages that are due are sent together, so that a request or a connection serves many. An instance
that is not taken now keeps the later ones of its series back, which keeps a series in order; at the last attempt of its
message they pass it.

A destination that cannot be reached, a pause and the hours of the route hold everything; none of them costs an attempt.
"""

import datetime as dt
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

import structlog

from node.audit.audit_log import (
    DESTINATION,
    MAX_LINE_SECONDS,
    SOURCE,
    Audit,
    AuditAction,
    AuditEvent,
    AuditMessage,
    Participant,
    Result,
)
from node.errors import VoxelnodeError
from node.index.look.views import ASK_AGAIN_SECONDS
from node.index.rules.work.deliveries import Batch
from node.index.rules.work.ledger import REASON_LENGTH, Ended, after_failure
from node.index.rules.work.messages import Attempt, LedgerEvent, PendingEvent
from node.index.rules.work.routes import DueInstance, OwedInstance, SentInstance
from node.index.work_loop import RECORD_SECONDS, Interrupted, Outcomes
from node.routing.destination import Delivered, Destination, NotConfirmable, NotTaken, Prepared, Unreachable
from node.routing.held import HeldWorker, RouteParts
from node.routing.preparing import Preparer
from node.routing.step import Asked, Done, Failed, RouteStep
from node.runtime.failpoints import reached

log = structlog.get_logger()

SOON_SECONDS = 0.05
"""Least time from one step to the next that a commit causes, and so the longest delay after a commit."""

IDLE_SECONDS = 5.0
"""Time without an instance after which connections are closed: shorter, and slow senders would cost one each."""

TURN_SECONDS = 1.0
"""Interval at which a worker that waits for its turn looks whether it is to stop."""

DELETE_SECONDS = 30.0
"""Least time between two looks for series that may be deleted."""

BY_HAND: frozenset[LedgerEvent] = frozenset({"send", "resend"})
"""Messages that no rule of the route judges: a person, or an earlier judgement, has decided."""


class DestinationTurns:
    """Turns at one destination: of several routes, one sends at a time, the one of the highest priority first.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int]] = []
        self._is_taken = False
        self._count = 0

    @contextmanager
    def taken(self, priority: str, seconds: float) -> Iterator[bool]:
        """Wait at most `seconds` for a turn; yield whether it came, and hand it on at the end."""
        with self._changed:
            self._count += 1
            turn = _RANKS[priority], self._count
            self._waiting.append(turn)
            is_mine = self._changed.wait_for(lambda: not self._is_taken and min(self._waiting) == turn, seconds)
            self._waiting.remove(turn)
            self._is_taken |= is_mine
            if not is_mine:
                self._changed.notify_all()
        try:
            yield is_mine
        finally:
            if is_mine:
                with self._changed:
                    self._is_taken = False
                    self._changed.notify_all()


class RouteWorker(HeldWorker):
    """Send to one destination of a route.

    `turns`: of the destination, shared by the workers of all routes to it. `delete_confirmed`: deletes what all
    destinations of the route have confirmed; None: another worker does.
    """

    def __init__(
        self,
        parts: RouteParts,
        destination: Destination,
        preparer: Preparer,
        turns: DestinationTurns,
        delete_confirmed: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(parts, (parts.route.when,) if parts.route_name else (), SOON_SECONDS)
        self._destination, self._preparer, self._turns = destination, preparer, turns
        self._delete_confirmed = delete_confirmed
        self._judged: dict[tuple[str, str, int | None], bool] = {}
        self._due: Mapping[str, Sequence[DueInstance]] = {}
        self._under_way = RouteStep()
        self._unrecorded: list[tuple[SentInstance, int]] = []  # what was taken, and its bytes
        self._record_at = 0.0
        self._is_open = False  # the destination may have an open connection
        self._stepped_at = self._idle_at = self._delete_at = 0.0
        detail = f"route {parts.route_name}" if parts.route_name else "sent by hand"
        if (how := preparer.change.deidentification) is not None:
            detail += f", de-identified by [deidentify.{parts.route.deidentify}], {how.mark}"
        self._transfers = TransferLines(parts.audit, parts.settings.dicom.ae_title, parts.destination, detail)

    # Steps

    def step(self) -> float | None:
        """Send what is due; return the seconds until there may be more to do, or None to wait for a commit."""
        self._stepped_at = monotonic()
        return super().step()

    def _step_freely(self) -> float | None:
        due_in = super()._step_freely()
        if due_in == 0.0:
            self._idle_at = monotonic() + IDLE_SECONDS
            return 0.0
        if self._ask():
            return 0.0
        waits = [due_in, self._asks_in(), self._rests_in(), self._deletes_in()]
        return min((wait for wait in waits if wait is not None), default=None)

    def _follow(self) -> None:
        """Wake for a commit: at once, unless a step began just before; later commits share one."""
        self.wake(max(0.0, self._stepped_at + SOON_SECONDS - monotonic()))

    def _close(self) -> None:
        self._rest()
        self._preparer.close()
        super()._close()

    def _rest(self) -> None:
        if self._is_open:
            self._destination.rest()
            self._is_open = False
        self._transfers.write()

    def _rests_in(self) -> float | None:
        if not self._is_open and not self._transfers:
            return None
        left = self._idle_at - monotonic()
        if left <= 0:
            self._rest()
            return None
        return left

    # Messages

    def work(self) -> bool:
        """Attempt the due messages, and record what was taken."""
        self._record()  # what could not be recorded is not sent again
        self._under_way, self._due, self._judged = RouteStep(), {}, {}
        return super().work()

    def _begin(self, batch: Batch) -> None:
        """Read the instances of all messages about single ones at once."""
        self._under_way.queue(batch.again)
        self._under_way.queue(one for one in batch.new if one.study_instance_uid not in batch.held)
        if singles := self._under_way.of_single_instances:
            self._due = self._index.routes.due(self.lane, singles)

    def _attempt(self, pending: PendingEvent) -> Attempt:
        step = self._under_way
        if not step.is_asked(pending.message_id):
            if step.is_cut:
                raise Interrupted
            if dues := step.join(pending, self._asks_for, self._route.attempts):
                self._send(dues)
        match step.outcome_of(pending):
            case None:
                raise Interrupted
            case Done(outcome, attempts, reason):
                return Attempt(pending, Ended(outcome, reason), pending.attempts + attempts)
            case Failed(reason, counts, is_final, damaged):
                attempt = self._failed(pending, pending.attempts if counts else 0, reason, is_final=is_final)
                if not damaged:
                    return attempt
                again = after_failure(attempt.attempts, self._route.attempts, reason, self._now())
                return replace(attempt, damaged=damaged, if_repaired=again)

    def _is_unwanted(self, attempt: Attempt) -> bool:
        """Return whether a message needs no row: the route leaves it out, and no row says how far it is."""
        return attempt.pending.message_id not in self._under_way.shown and super()._is_unwanted(attempt)

    def _asks_for(self, pending: PendingEvent) -> Asked:
        dues = self._due.get(pending.message_id)
        if dues is None:
            dues = self._index.routes.due(self.lane, [pending])[pending.message_id]
        step = self._under_way
        wanted = [due for due in dues if self._is_wanted(pending, due)]
        is_cancelled = pending.message_id in step.cancelled_by
        left = [due for due in wanted if not (is_cancelled or due.is_sent or step.is_taken(due))]
        return Asked(pending, dues, wanted, left, not wanted and all(map(self._destination.is_origin, dues)))

    # What the route leaves out

    def _is_wanted(self, pending: PendingEvent, due: DueInstance) -> bool:
        if pending.event == "send":
            return True
        if self._destination.is_origin(due):  # the route sends nothing back
            return False
        if pending.event in BY_HAND:
            return True
        key = due.study_instance_uid, due.series_instance_uid, pending.revision
        if key not in self._judged:
            self._judged[key] = self._is_selected(pending, due)
        return self._judged[key]

    def _is_selected(self, pending: PendingEvent, due: DueInstance) -> bool:
        """Return whether the series of an instance, as it is now, is what the route is for."""
        series, when = (due.study_instance_uid, due.series_instance_uid), self._route.when
        revision = pending.revision if pending.series_instance_uid is not None else None
        with self._index.reading(wait=False) as index:
            if when in ("series-complete", "volume-written"):
                row = index.series.row(*series)
                if row is None or (revision is not None and row["revision"] != revision):
                    return False  # a newer revision has an event of its own
                if when == "series-complete" and row["verdict"] != "complete":
                    return False
                if when == "volume-written" and row["state"] != "converted":
                    return False
            if self._selector is None:
                return True
            facts = index.facts.of_series(self._selector.fields, *series, revision)
            return facts is not None and self._selector.matches(facts)

    # Sending

    def _send(self, dues: Sequence[DueInstance]) -> None:
        """Send instances, those of a series in their order, and note what became of each that was tried."""
        step = self._under_way
        outstanding: dict[int, Prepared | None] = {}  # by row; None while it is prepared
        self._preparer.expect(dues)
        try:
            with self._turn():
                self._is_open = True
                for delivered in self._destination.deliver(self._prepared(dues, outstanding), self._cancelled.is_set):
                    del outstanding[delivered.prepared.due.image_id]
                    self._note(delivered)
        except Unreachable as error:
            self._note_trouble(error)
            step.is_cut = True
        except Interrupted:
            step.is_cut = True
        except VoxelnodeError:
            raise
        except Exception as error:  # a bug must not block all other messages
            if not outstanding:
                raise
            log.exception("route_failed", service=self.name)
            problem = NotTaken(f"{type(error).__name__} while sending")
            step.note_problems((due for due in dues if due.image_id in outstanding), problem)
            self._destination.rest()
            step.is_cut = True
        finally:
            for left in outstanding.values():
                if left is not None:
                    self._preparer.release(left)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other route sends to the destination that has the same or a higher priority."""
        while not self._stopping.is_set():
            with self._turns.taken(self._route.priority, TURN_SECONDS) as is_mine:
                if is_mine:
                    yield
                    return
        raise Interrupted

    def _prepared(self, dues: Sequence[DueInstance], outstanding: dict[int, Prepared | None]) -> Iterator[Prepared]:
        """Yield instances that are ready to leave, until the node stops or the destination is held."""
        step = self._under_way
        for due in dues:
            if self._stopping.is_set():
                raise Interrupted
            if monotonic() >= self._record_at:
                self._record()
                self._show_progress()
                step.note_cancelled(self._index.work.cancelled(self.lane))
                if self._held_seconds() is not None:
                    raise Interrupted
            if step.is_held_back(due):
                continue
            outstanding[due.image_id] = None
            try:
                prepared = self._preparer.take(due)
            except NotTaken as problem:
                self._note_problem(due, problem, is_last=step.is_last(due))
                del outstanding[due.image_id]
                continue
            outstanding[due.image_id] = prepared
            yield replace(prepared, holds_back=False) if step.is_last(due) else prepared

    def _note(self, delivered: Delivered) -> None:
        prepared, due = delivered.prepared, delivered.prepared.due
        self._preparer.release(prepared)
        if delivered.problem is not None:
            if self._cancelled.is_set():  # the connection was cut because the node stops
                raise Interrupted
            self._note_problem(due, delivered.problem, is_last=not prepared.holds_back)
            return
        if self._trouble:
            self._note_reached()
        reached("instance-forwarded")
        state = "confirmed" if delivered.is_confirmed else "owed" if self._route.confirm else "sent"
        outgoing = prepared.outgoing
        sent = SentInstance(due, outgoing.sop_class_uid, outgoing.sop_instance_uid, state)
        self._unrecorded.append((sent, outgoing.bytes))
        self._under_way.note_taken(due)
        self._transfers.add(due, outgoing.sop_class_uid)

    def _note_problem(self, due: DueInstance, problem: NotTaken, *, is_last: bool) -> None:
        is_given_up = self._under_way.note_problem(due, problem, is_last=is_last)
        self._count("given-up" if is_given_up else "failed", 1)

    def _record_outcomes(self, outcomes: Outcomes) -> None:
        """Record what was taken before the messages that it belongs to."""
        self._record()
        super()._record_outcomes(outcomes)

    def _record(self) -> None:
        if taken := self._unrecorded:
            self._index.routes.record_sent(self.lane, [sent for sent, _ in taken], self._now())
            self._unrecorded = []
            self._count("sent", len(taken))
            count = sum(count for _, count in taken)
            self._metrics.route_bytes.labels(self.lane.name, self.lane.destination).inc(count)
            reached("forwarded-recorded")
        self._record_at = monotonic() + RECORD_SECONDS
        self._transfers.write_if_due()

    def _show_progress(self) -> None:
        """Record the progress of messages that were taken in part."""
        if progress := self._under_way.progress():
            self._index.routes.show_progress(self.lane, progress, self._now())

    # Trouble

    def _note_trouble(self, error: Unreachable) -> None:
        self._hold(str(error), error.retry_after)
        self._destination.rest()
        self._count("failed", 1)

    # Proof

    def _ask(self) -> bool:
        """Ask whether the destination keeps what it took; return whether there was anything to ask about."""
        if not self._route.confirm:
            return False
        now = self._now()
        owed = self._index.routes.owed(self.lane, now - dt.timedelta(seconds=ASK_AGAIN_SECONDS))
        if not owed:
            return False
        transaction_uid = f"2.25.{uuid.uuid4().int}"
        self._index.routes.note_asked(self.lane, owed, transaction_uid, now)
        try:
            answer = self._destination.confirm(self._as_sent(owed), transaction_uid, self._cancelled.is_set)
        except Unreachable as error:
            self._note_trouble(error)
            return True
        except NotConfirmable as error:
            self._index.routes.note_trouble(self.lane, str(error)[:REASON_LENGTH], now, None)
            log.warning("route_not_confirmed", service=self.name, reason=str(error)[:REASON_LENGTH])
            self._trouble = True
            return True
        if answer is not None:
            self._index.routes.note_commitment(transaction_uid, answer.committed, answer.failed, now)
        return True

    def _as_sent(self, owed: Sequence[OwedInstance]) -> list[OwedInstance]:
        """Return instances with the UIDs of their studies and series that the destination knows."""
        uid = self._preparer.change.uid
        return [
            replace(
                one, study_instance_uid=uid(one.study_instance_uid), series_instance_uid=uid(one.series_instance_uid)
            )
            for one in owed
        ]

    def _asks_in(self) -> float | None:
        if not self._route.confirm:
            return None
        asked_at = self._index.routes.next_ask_at(self.lane)
        return None if asked_at is None else max(0.0, ASK_AGAIN_SECONDS - (self._now() - asked_at).total_seconds())

    def _deletes_in(self) -> float | None:
        """Delete what is confirmed, every `DELETE_SECONDS`."""
        if not self._route.delete_confirmed or self._delete_confirmed is None:
            return None
        if monotonic() >= self._delete_at:
            self._delete_confirmed()
            self._delete_at = monotonic() + DELETE_SECONDS
        return self._delete_at - monotonic()


_RANKS = {"high": 0, "medium": 1, "low": 2}


class TransferLines:
    """Lines of the audit log about what was sent (PS3.15 A.5.3.8): one for all of up to `MAX_LINE_SECONDS`.

    `ae_title`, `destination`: of the node, and the name of where it sends to. `detail`: by which rule it sends, and
    what it changes.
    """

    def __init__(self, audit: Audit, ae_title: str, destination: str, detail: str) -> None:
        self._audit, self._detail = audit, detail
        self._participants = [Participant(ae_title, SOURCE, is_requestor=True), Participant(destination, DESTINATION)]
        self._studies: dict[tuple[str, str], Counter[str]] = {}
        self._written_at = 0.0

    def __bool__(self) -> bool:
        """Return whether something was sent since the last line."""
        return bool(self._studies)

    def add(self, due: DueInstance, sop_class_uid: str) -> None:
        """Note that an instance was sent."""
        study = due.study_instance_uid, due.patient_id or ""
        self._studies.setdefault(study, Counter())[sop_class_uid] += 1

    def write_if_due(self) -> None:
        """Write the line once it is old enough."""
        if self._studies and monotonic() > self._written_at + MAX_LINE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what was sent since the last line."""
        self._written_at = monotonic()
        if not self._studies:
            return
        studies = [
            {"study_instance_uid": study, "patient_id": patient_id, "sop_classes": dict(classes)}
            for (study, patient_id), classes in self._studies.items()
        ]
        event = AuditEvent.INSTANCES_TRANSFERRED
        self._audit.note(
            AuditMessage(event, AuditAction.READ, Result.SUCCESS, self._participants, studies, self._detail)
        )
        self._studies = {}
