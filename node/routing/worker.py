"""The worker of one destination of a route.

It is a subscriber of the ledger (`node.notify.ledger`): a message stands for an instance, a series or a study, and is
delivered once the destination has taken all of its instances. What was taken is recorded every second: an attempt after
a failure or a kill sends the rest, and what was sent in the last second once more.

The instances of the messages that are due are sent together, so that a request or a connection serves many. An instance
that is not taken now keeps the later ones of its series back, which keeps a series in order; at the last attempt of its
message they pass it.

A destination that cannot be reached, a pause and the hours of the route hold everything; none of them costs an attempt.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic

import structlog

from node.audit.audit_log import (
    DESTINATION,
    MAX_LINE_SECONDS,
    SOURCE,
    Action,
    Audit,
    AuditEvent,
    AuditMessage,
    Participant,
    Result,
)
from node.errors import VoxelnodeError
from node.failpoints import reached
from node.index.database.index import Index
from node.index.work.deliveries import Batch
from node.index.work.messages import Attempt, LedgerEvent, PendingEvent
from node.index.work.routes import DueInstance, OwedInstance, SentInstance, lane_to
from node.metrics import Metrics
from node.notify.channel import Interrupted
from node.notify.ledger import MAX_SLEEP_SECONDS, REASON_LENGTH, SETTLE_SECONDS, Outcomes
from node.routing.destination import (
    Delivered,
    Destination,
    NotConfirmable,
    NotTaken,
    Prepared,
    Unreachable,
)
from node.routing.held import HeldWorker
from node.routing.parallel import interleaved
from node.routing.preparing import Preparer
from node.routing.turns import Turns
from node.selector import Selector
from node.settings.model import Route

log = structlog.get_logger()

SOON_SECONDS = 0.05
"""Least time from one step to the next that a commit causes, and so the longest delay after a commit."""

IDLE_SECONDS = 5.0
"""Time without an instance after which connections are closed: shorter, and slow senders would cost one each."""

TURN_SECONDS = 1.0
"""Interval at which a worker that waits for its turn looks whether it is to stop."""

ASK_AGAIN_SECONDS = 3600.0
"""Time without a report after which a destination is asked again whether it keeps what it took."""

GROUP_INSTANCES = 1000
"""Instances beyond which no further message joins those that are sent together."""

DELETE_SECONDS = 30.0
"""Least time between two looks for series that may be deleted."""

BY_HAND: frozenset[LedgerEvent] = frozenset({"send", "resend"})
"""Messages that no rule of the route judges: a person, or an earlier judgement, has decided."""


_UNTRIED = NotTaken("not tried yet")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a message asks for: the instances that the route wants, and those of them that are not sent yet."""

    pending: PendingEvent
    dues: Sequence[DueInstance]
    wanted: Sequence[DueInstance]
    left: Sequence[DueInstance]


class RouteWorker(HeldWorker):
    """Send to one destination of a route.

    Parameters
    ----------
    route_name : str
        Empty for what people send by hand.
    destination_name : str
    route : node.settings.model.Route
    turns : Turns
        Of the destination, shared by the workers of all routes to it.
    selector : Selector or None
        What the route sends; None: all.
    delete_confirmed : callable () or None
        Deletes what all destinations of the route have confirmed; None: another worker does.
    """

    def __init__(
        self,
        route_name: str,
        destination_name: str,
        route: Route,
        destination: Destination,
        preparer: Preparer,
        turns: Turns,
        index: Index,
        metrics: Metrics,
        audit: Audit,
        ae_title: str,
        selector: Selector | None = None,
        delete_confirmed: Callable[[], None] | None = None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        lane = lane_to(route_name, destination_name)
        events: tuple[LedgerEvent, ...] = (route.when,) if route_name else ()
        super().__init__(lane, route, events, index, now, SOON_SECONDS)
        self.route_name, self.destination_name = route_name, destination_name
        self._destination, self._preparer, self._turns = destination, preparer, turns
        self._metrics, self._audit, self._ae_title, self._delete_confirmed = metrics, audit, ae_title, delete_confirmed
        self._selector = selector
        self._queue: deque[PendingEvent] = deque()  # messages of this step that were not sent with others yet
        self._asked: dict[str, _Asked] = {}  # by the messages that were
        self._due: Mapping[str, Sequence[DueInstance]] = {}
        self._judged: dict[tuple[str, str, int | None], bool] = {}
        self._outcomes: dict[tuple[int, str], NotTaken | None] = {}  # in this step, by row and digest; None: taken
        self._held_back: set[tuple[str, str]] = set()  # series of which an instance was not taken
        self._lasting: Mapping[int, str] = {}  # see `_send`
        self._got_on: set[str] = set()  # messages of which an instance was taken in this step
        self._is_cut = False  # the step ended before all that it asked for was tried
        self._cancelled_by: dict[str, str] = {}  # messages whose workitems somebody cancelled, and who
        self._skipped: set[tuple[int, str]] = set()  # instances that only those ask for, by row and digest
        self._shown: set[str] = set()  # messages of this step that have a row because it says how far they are
        self._taken: dict[str, int] = {}  # instances, by the messages whose workitems say so
        self._unrecorded: list[SentInstance] = []
        self._unrecorded_bytes = 0
        self._record_at = 0.0
        self._outstanding: dict[int, Prepared | None] = {}  # by row; None while it is prepared
        self._is_open = False  # the destination may have an open connection
        self._stepped_at = self._idle_at = self._delete_at = 0.0
        self._sent = metrics.route_instances.labels(route_name, destination_name, "sent")
        self._bytes = metrics.route_bytes.labels(route_name, destination_name)
        self._audited: dict[tuple[str, str], Counter[str]] = {}
        self._audited_at = 0.0

    # Steps

    def step(self) -> float | None:
        """Send what is due; return the seconds until there may be more to do, or None to wait for a commit."""
        self._stepped_at = monotonic()
        self._cancelled_by = self._end_cancelled()
        held = self._held_seconds()
        if held is not None:
            self._rest()
            return min(held, MAX_SLEEP_SECONDS) if held > 0 else None
        due_in = super().step()
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
        self._write_audit()

    def _rests_in(self) -> float | None:
        if not self._is_open and not self._audited:
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
        try:
            return super().work()
        finally:
            self._queue.clear()
            self._held_back.clear()
            self._got_on.clear()
            self._asked, self._due, self._judged, self._outcomes, self._is_cut = {}, {}, {}, {}, False
            self._skipped = set()
            self._taken.clear()
            self._shown.clear()

    def _begin(self, batch: Batch) -> None:
        """Read the instances of all messages about single ones at once."""
        self._queue.extend(batch.again)
        self._queue.extend(one for one in batch.new if one.study_instance_uid not in batch.held)
        singles = [one for one in self._queue if one.sop_instance_uid is not None]
        if singles:
            self._due = self._index.routes.due(self.lane, singles)

    def _attempt(self, pending: PendingEvent) -> Attempt:
        if pending.message_id not in self._asked:
            self._attempt_together(pending)
        asked = self._asked.pop(pending.message_id)
        who = self._cancelled_by.get(pending.message_id)
        if who is not None and not all(due.is_sent or self._is_taken(due) for due in asked.wanted):
            return Attempt(pending, "cancelled", pending.attempts + 1, reason=f"cancelled by {who}")
        if not asked.dues:
            return Attempt(pending, "dropped", pending.attempts, reason="the object was deleted")
        if not asked.wanted:
            return Attempt(pending, "dropped", pending.attempts, reason="the route leaves it out")
        if not asked.left:
            return Attempt(pending, "succeeded", pending.attempts)
        tried = [self._outcomes[key] for due in asked.left if (key := _key(due)) in self._outcomes]
        problems = [problem for problem in tried if problem is not None]
        is_whole = len(tried) == len(asked.left)
        if not is_whole and self._is_cut:
            raise Interrupted
        if is_whole and not problems:
            return Attempt(pending, "succeeded", pending.attempts + 1)
        # A message that gets on is not given up: a connection that often breaks costs a long series many attempts.
        before = 0 if len(tried) > len(problems) else pending.attempts
        if not problems:
            return self._failed(pending, before, "an earlier instance of its series was not taken", is_final=False)
        is_final = is_whole and all(problem.is_final for problem in problems)
        number = f"{len(problems)} of {len(asked.wanted)} instances were not taken: " if len(asked.wanted) > 1 else ""
        return self._failed(pending, before, f"{number}{problems[0]}", is_final=is_final)

    def _attempt_together(self, first: PendingEvent) -> None:
        """Send what a message and those behind it ask for, as far as they are not sent and go together."""
        if self._is_cut:
            raise Interrupted
        left: dict[tuple[int, str], DueInstance] = {}
        lasting: dict[int, str] = {}
        while self._queue and len(left) < GROUP_INSTANCES:
            pending = self._queue.popleft()
            if first.message_id not in self._asked and pending is not first:
                continue  # it waits: an earlier message of its study failed
            asked = self._asks_for(pending)
            self._asked[pending.message_id] = asked
            left |= {_key(due): due for due in asked.left if _key(due) not in left}
            if pending.attempts + 1 >= self._route.attempts:
                lasting |= {due.image_id: pending.message_id for due in asked.left}
        if left:
            self._send(interleaved(left.values(), _series, self._route.connections), lasting)

    def _is_unwanted(self, attempt: Attempt) -> bool:
        """Return whether a message needs no row: the route leaves it out, and no row says how far it is."""
        return attempt.pending.message_id not in self._shown and super()._is_unwanted(attempt)

    def _asks_for(self, pending: PendingEvent) -> _Asked:
        dues = self._due.get(pending.message_id)
        if dues is None:
            dues = self._index.routes.due(self.lane, [pending])[pending.message_id]
        wanted = [due for due in dues if self._is_wanted(pending, due)]
        is_cancelled = pending.message_id in self._cancelled_by
        left = [due for due in wanted if not (is_cancelled or due.is_sent or self._is_taken(due))]
        return _Asked(pending, dues, wanted, left)

    def _is_taken(self, due: DueInstance) -> bool:
        """Return whether an instance was taken in this step."""
        return self._outcomes.get(_key(due), _UNTRIED) is None

    # What the route leaves out

    def _is_wanted(self, pending: PendingEvent, due: DueInstance) -> bool:
        if pending.event == "send":
            return True
        if not self._route.return_to_sender and self._destination.is_origin(due):
            return False
        if pending.event in BY_HAND:
            return True
        key = due.study_instance_uid, due.series_instance_uid, pending.revision
        if key not in self._judged:
            self._judged[key] = self._is_selected(pending, due)
        return self._judged[key]

    def _is_selected(self, pending: PendingEvent, due: DueInstance) -> bool:
        """Return whether the series of an instance is what the route is for."""
        study, series = due.study_instance_uid, due.series_instance_uid
        revision = pending.revision if pending.series_instance_uid is not None else None
        with self._index.reading(wait=False) as index:
            if self._route.when in ("series-complete", "volume-written"):
                row = index.series.row(study, series)
                if row is None or (revision is not None and row["revision"] != revision):
                    return False  # a newer revision has an event of its own
                if self._route.when == "series-complete" and row["verdict"] != "complete":
                    return False
                if self._route.when == "volume-written" and row["state"] != "converted":
                    return False
            if self._selector is None:
                return True
            facts = index.facts.of_series(self._selector.fields, study, series, revision)
        return facts is not None and self._selector.matches(facts)

    # Sending

    def _send(self, dues: Sequence[DueInstance], lasting: Mapping[int, str]) -> None:
        """Send instances, those of a series in their order, and note the outcome of each that was tried.

        Parameters
        ----------
        lasting : mapping of int to str
            Rows of instances whose message is attempted for the last time, and its id: they keep no later one back,
            unless the message got on before.
        """
        self._lasting = lasting
        self._preparer.expect(dues)
        try:
            with self._turn():
                self._is_open = True
                prepared = self._prepared(dues)
                for delivered in self._destination.deliver(prepared, self._cancelled.is_set):
                    self._note(delivered)
        except Unreachable as error:
            self._note_trouble(error)
            self._is_cut = True
        except Interrupted:
            self._is_cut = True
        except VoxelnodeError:
            raise
        except Exception as error:  # a bug must not block all other messages
            if not self._outstanding:
                raise
            log.exception("route_failed", service=self.name)
            problem = NotTaken(f"{type(error).__name__} while sending")
            self._outcomes |= {_key(due): problem for due in dues if due.image_id in self._outstanding}
            self._destination.rest()
            self._is_cut = True
        finally:
            for left in self._outstanding.values():
                if left is not None:
                    self._preparer.release(left)
            self._outstanding.clear()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other route sends to the destination that has the same or a higher priority."""
        while not self._stopping.is_set():
            with self._turns.taken(self._route.priority, TURN_SECONDS) as is_mine:
                if is_mine:
                    yield
                    return
        raise Interrupted

    def _prepared(self, dues: Sequence[DueInstance]) -> Iterator[Prepared]:
        """Yield instances that are ready to leave, until the node stops or the destination is held."""
        for due in dues:
            if self._stopping.is_set():
                raise Interrupted
            if monotonic() >= self._record_at:
                self._record()
                self._show_progress()
                self._note_cancelled()
                if self._held_seconds() is not None:
                    raise Interrupted
            if _series(due) in self._held_back or _key(due) in self._skipped:
                continue
            self._outstanding[due.image_id] = None
            try:
                prepared = self._preparer.take(due)
            except NotTaken as problem:
                self._note_problem(due, problem, is_last=self._is_last(due))
                del self._outstanding[due.image_id]
                continue
            self._outstanding[due.image_id] = prepared
            yield replace(prepared, holds_back=False) if self._is_last(due) else prepared

    def _note(self, delivered: Delivered) -> None:
        prepared, due = delivered.prepared, delivered.prepared.due
        del self._outstanding[due.image_id]
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
        self._unrecorded.append(SentInstance(due, outgoing.sop_class_uid, outgoing.sop_instance_uid, state))
        self._outcomes[_key(due)] = None
        if due.image_id in self._lasting:
            self._got_on.add(self._lasting[due.image_id])
        self._unrecorded_bytes += outgoing.bytes
        study = due.study_instance_uid, due.patient_id or ""
        self._audited.setdefault(study, Counter())[outgoing.sop_class_uid] += 1

    def _note_cancelled(self) -> None:
        """Skip the instances that only messages ask for that somebody has cancelled since the step began."""
        self._cancelled_by = self._index.routes.cancelled(self.lane)
        if self._cancelled_by.keys().isdisjoint(self._asked):
            return
        keys: dict[bool, set[tuple[int, str]]] = {True: set(), False: set()}
        for message_id, asked in self._asked.items():
            keys[message_id in self._cancelled_by].update(map(_key, asked.left))
        self._skipped = keys[True] - keys[False]

    def _is_last(self, due: DueInstance) -> bool:
        """Return whether the message of an instance is given up if the instance is not taken."""
        message_id = self._lasting.get(due.image_id)
        return message_id is not None and message_id not in self._got_on

    def _note_problem(self, due: DueInstance, problem: NotTaken, *, is_last: bool) -> None:
        self._outcomes[_key(due)] = problem
        self._count("given-up" if problem.is_final or is_last else "failed", 1)
        if not problem.is_final and not is_last:
            self._held_back.add(_series(due))

    def _settle(self, outcomes: Outcomes) -> None:
        """Record what was taken before the messages that it belongs to."""
        self._record()
        super()._settle(outcomes)

    def _record(self) -> None:
        if self._unrecorded:
            self._index.routes.record_sent(self.lane, self._unrecorded, self._now())
            self._sent.inc(len(self._unrecorded))
            self._bytes.inc(self._unrecorded_bytes)
            self._unrecorded, self._unrecorded_bytes = [], 0
            reached("forwarded-recorded")
        self._record_at = monotonic() + SETTLE_SECONDS
        if self._audited and monotonic() > self._audited_at + MAX_LINE_SECONDS:
            self._write_audit()

    def _show_progress(self) -> None:
        """Record how far the messages are of which some instances were taken, but not all."""
        progress = []
        for message_id, asked in self._asked.items():
            if not asked.left or asked.pending.sop_instance_uid is not None:
                continue
            missing = sum(not self._is_taken(due) for due in asked.left)
            taken, count = len(asked.wanted) - missing, len(asked.wanted)
            if missing and missing < len(asked.left) and self._taken.get(message_id) != taken:
                progress.append((asked.pending, taken, count))
                self._taken[message_id] = taken
        if progress:
            self._index.routes.show_progress(self.lane, progress, self._now())
            self._shown.update(self._taken)

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

    # Records

    def _count(self, outcome: str, number: int) -> None:
        self._metrics.route_instances.labels(self.route_name, self.destination_name, outcome).inc(number)

    def _write_audit(self) -> None:
        """Record in the audit log what was sent since the last line (PS3.15 A.5.3.8)."""
        self._audited_at = monotonic()
        if not self._audited:
            return
        studies = [
            {"study_instance_uid": study, "patient_id": patient_id, "sop_classes": dict(classes)}
            for (study, patient_id), classes in self._audited.items()
        ]
        participants = [
            Participant(self._ae_title, SOURCE, is_requestor=True),
            Participant(self.destination_name, DESTINATION),
        ]
        detail = f"route {self.route_name}" if self.route_name else "sent by hand"
        if (how := self._preparer.change.deidentification) is not None:
            detail += f", de-identified by [deidentify.{self._route.deidentify}], {how.mark}"
        self._audit.note(
            AuditMessage(AuditEvent.INSTANCES_TRANSFERRED, Action.READ, Result.SUCCESS, participants, studies, detail)
        )
        self._audited = {}


def _key(due: DueInstance) -> tuple[int, str]:
    return due.image_id, due.sha256


def _series(due: DueInstance) -> tuple[str, str]:
    return due.study_instance_uid, due.series_instance_uid
