"""The loop that does the work of the ledger: what is due is done, then it sleeps until more is due or is committed.

There are three such loops. `RequestLoop` does what people and peers ask for, such as retrievals, reports of commitment
and downloads: the first due work of each lane, each lane on a thread of its own. `MessageLoop` does the messages of one
hook, or of one destination of a route; each has a thread of its own, so a slow or dead receiver delays no other.
`node.extensions.results` ends jobs, which hooks do.

If the process ends, work under way stays in its row as it is; the next start, or another host, does it again.
"""

from __future__ import annotations

import datetime as dt
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import structlog

from node.errors import VoxelnodeError
from node.index.rows.records import Lane
from node.index.rows.states import Kind
from node.index.rules.work.deliveries import Batch, lease_of
from node.index.rules.work.ledger import Decision, Postponed, Work, after_failure
from node.index.rules.work.messages import Attempt, LedgerEvent, PendingEvent
from node.runtime.background import BackgroundService
from node.runtime.failpoints import reached
from node.settings.model import Settings

if TYPE_CHECKING:
    from node.index.database import Index


log = structlog.get_logger()

MAX_LANES = 50
"""Lanes in which requested work is done at the same time."""

MAX_SLEEP_SECONDS = 60.0
"""Longest sleep while work waits: the clock may be stepped."""

STOP_SECONDS = 5.0
"""Longest wait for the work under way when the node stops. What waits for a connection may take longer."""

RETRY_SECONDS = 5.0
"""Pause before a beginning or an outcome that could not be recorded is recorded again."""

CANCEL_SECONDS = 5.0
"""Longest wait for a cancelled attempt to end. An unanswered DNS lookup may take longer."""

RECORD_SECONDS = 1.0
"""Longest delay before outcomes of messages are recorded. After a crash, those of this period are delivered twice."""

CHANGE_SECONDS = 2.0
"""Longest wait for an attempt of a subscriber that changes; then it is cancelled, and is made again."""

FOLLOW_SECONDS = 0.25
"""Longest delay from a commit to the next step; one step serves all commits of this time."""


class IndexFollower(BackgroundService):
    """A background service that wakes after each commit to the index, or after those that note something of `notes`.

    A step that commits wakes its own service again. It must therefore commit only if it had something to do.

    `within` (seconds): longest delay from a commit to the next step. `lease`: the lease that a host needs for
    the work, if several share the index; None: every host does it.
    """

    notes: Collection[str] = ()

    def __init__(self, name: str, index: Index, within: float = FOLLOW_SECONDS, lease: str | None = None) -> None:
        super().__init__(name)
        self._index, self._within, self.lease = index, within, lease

    def start(self) -> None:
        self._index.commit_listeners.append(self._follow)
        super().start()

    def _is_ours(self) -> bool:
        return self.lease is None or self._index.sharing.has(self.lease)

    def _close(self) -> None:
        self._index.commit_listeners.remove(self._follow)

    def _follow(self) -> None:
        if not self.notes or any([self._index.take_note(what) for what in self.notes]):
            self.wake(self._within)


class Interrupted(VoxelnodeError):
    """The node is stopping. Whether the message arrived is unknown; the next start delivers it again."""


class WorkLoop(IndexFollower):
    """Does work when it is due.

    `name`: of its thread.
    `lease`: the lease that a host needs for the work; None: every host does it.
    `within`: longest delay from a commit to the next step.
    """

    def __init__(
        self, name: str, index: Index, now: Callable[[], dt.datetime], lease: str | None, within: float = FOLLOW_SECONDS
    ) -> None:
        super().__init__(name, index, within, lease)
        self._now = now

    def step(self) -> float | None:
        """Do what is due; return the seconds until more is, or None to wait for a commit."""
        if self.work():
            return 0.0
        due_at = self._next_due_at()
        return min((due_at - self._now()).total_seconds(), MAX_SLEEP_SECONDS) if due_at is not None else None

    @abstractmethod
    def work(self) -> bool:
        """Do, or begin, what is due; return whether there may be more at once."""

    @abstractmethod
    def _next_due_at(self) -> dt.datetime | None:
        """Return when more is due; None if nothing waits."""


class Step(Protocol):
    """What does the work of one kind.

    `max_attempts`: attempts after which work is given up, also of work that ends the process each time.
    """

    max_attempts: int

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Do the work; return what becomes of it, or None if the node stops before that is known."""

    def recorded(self, work: Work, decision: Decision) -> None:
        """Tell others what became of work, once it is recorded."""


class RequestLoop(WorkLoop):
    """Does the work of some kinds, each piece of it by the step of its kind.

    `name`: of its thread, and of the work that one host does at a time.
    `lanes`: lanes in which work is done at the same time.
    `host`: each host does its own work, whose lanes have this destination.
    """

    def __init__(
        self,
        name: str,
        index: Index,
        steps: Mapping[Kind, Step],
        now: Callable[[], dt.datetime],
        *,
        lanes: int = MAX_LANES,
        host: str | None = None,
    ) -> None:
        super().__init__(name, index, now, lease=name if host is None else None)
        self._steps, self._looked_at = steps, now()
        self.notes = tuple(steps)  # most commits, such as those of received instances, let no work wait
        self._lanes, self._destination = lanes, host or ""
        self._lock = threading.Lock()
        self._threads: dict[Lane, threading.Thread] = {}

    def _take_up(self) -> None:
        """Let the work wait again that the last process left under way."""
        limits = {kind: step.max_attempts for kind, step in self._steps.items()}
        self._index.work.resume(limits, self._now(), self._destination)

    def work(self) -> bool:
        """Begin the first due work of each lane that has none under way; its end wakes the loop."""
        with self._lock:
            busy = set(self._threads)
        self._looked_at = self._now()
        due = self._index.work.due(self._steps.keys(), self._looked_at, busy, self._destination)
        for work in due[: self._lanes - len(busy)]:
            thread = threading.Thread(target=self._do, args=(work,), name=f"{work.lane.kind} {work.lane.name}")
            thread.daemon = True
            with self._lock:
                thread.start()
                self._threads[work.lane] = thread
        return False

    def _next_due_at(self) -> dt.datetime | None:
        return self._index.work.next_due_at(self._steps.keys(), self._looked_at, self._destination)

    def stop(self, seconds: float | None = None) -> None:
        """Begin no further work, and abort what is under way."""
        super().stop(seconds)
        deadline = monotonic() + STOP_SECONDS
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))

    def _do(self, work: Work) -> None:
        pause = RETRY_SECONDS
        try:
            is_begun = self._index.work.begin(work.id, self._now())
            pause = 0.0
            if is_begun:  # else it was cancelled meanwhile
                begun = replace(work, state="running", attempts=work.attempts + 1)
                decision = self._decided(begun)
                if decision is not None and self._is_recorded(begun, decision):
                    self._steps[work.lane.kind].recorded(begun, decision)
        except Exception:  # a bug, or no room in the index, must not keep the lane busy until the node stops
            log.exception("work_failed", kind=work.lane.kind, detail=work.lane.name)
        finally:
            with self._lock:
                del self._threads[work.lane]
            self.wake(pause)

    def _decided(self, work: Work) -> Decision | None:
        try:
            return self._steps[work.lane.kind].perform(work, self._stopping)
        except Exception:  # a bug, or an index that cannot be read now
            log.exception("work_failed", kind=work.lane.kind, detail=work.lane.name)
            limit, reason = self._steps[work.lane.kind].max_attempts, "an unexpected error in the node: see its log"
            return after_failure(work.attempts, limit, reason, self._now())

    def _is_recorded(self, work: Work, decision: Decision) -> bool:
        """Record a decision, as soon as the index has room; return False if the node stops before that."""
        while not self._stopping.is_set():
            try:
                self._index.work.record(work.id, decision, self._now())
            except VoxelnodeError:  # no room in the index, or it cannot be read
                self._stopping.wait(RETRY_SECONDS)
            else:
                return True
        return False


class MessageLoop(WorkLoop):
    """Does the work of one subscriber: the messages of a hook, or of a destination of a route, in the order of events.

    It attempts the messages that are due and those of what it is owed, and records the outcomes. A message that fails
    waits in a row, and later messages of its study wait behind it; other studies continue. If the process dies between
    a delivery and the record of it, the next start delivers the message again with the same id.

    `events`: the events that it subscribes to.
    """

    def __init__(
        self,
        name: str,
        lane: Lane,
        events: Collection[LedgerEvent],
        index: Index,
        now: Callable[[], dt.datetime],
        within: float = FOLLOW_SECONDS,
    ) -> None:
        super().__init__(name, index, now, lease_of(lane), within)
        self.lane, self.events = lane, events
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Cancel the attempt under way; the next start repeats it."""
        self._cancelled.set()

    def work(self) -> bool:
        """Attempt the due messages; return whether there were any, or may be more."""
        self._index.work.end_cancelled(self.lane, self._now())
        batch = self._index.deliveries.work(self.lane, self.events, self._now())
        outcomes = Outcomes(batch)
        with suppress(Interrupted):
            self._begin(batch)
            for pending in batch.again:
                if pending.study_instance_uid not in outcomes.failed:
                    self._take(pending, outcomes, is_new=False)
            for pending in batch.new:
                self._take(pending, outcomes, is_new=True)
        self._record_outcomes(outcomes)
        return bool(batch.again or batch.new or batch.known)

    def _next_due_at(self) -> dt.datetime | None:
        return self._index.deliveries.next_due_at(self.lane)

    def _begin(self, batch: Batch) -> None:
        """Prepare the attempts of `batch`."""

    @abstractmethod
    def _attempt(self, pending: PendingEvent) -> Attempt:
        """Attempt one message and return the outcome.

        Raises Interrupted if the message, and all behind it, are to be attempted in a later step.
        """

    def _take(self, pending: PendingEvent, outcomes: Outcomes, *, is_new: bool) -> None:
        """Attempt one message, or queue it behind an earlier message of its study."""
        study = pending.study_instance_uid
        if is_new and (study in outcomes.failed or study in outcomes.held):
            attempt = self._unwanted(pending) or Attempt(pending, Postponed(self._now()), 0)
        else:
            attempt = self._attempt(pending)
        if attempt.outcome is None:
            outcomes.failed.add(study)
        if not (is_new and self._is_unwanted(attempt)):
            outcomes.attempts.append(attempt)
        if is_new:
            outcomes.taken.append(pending)
        if monotonic() >= outcomes.record_at:
            self._record_outcomes(outcomes)

    def _unwanted(self, pending: PendingEvent) -> Attempt | None:
        """Return the end of a message that the subscriber does not want, or None: it need not queue to be dropped."""
        return None

    def _is_unwanted(self, attempt: Attempt) -> bool:
        """Return whether the outcome of the first attempt of a message needs no row."""
        return attempt.outcome == "dropped"

    def _record_outcomes(self, outcomes: Outcomes) -> None:
        """Record outcomes, and remove from the outbox what they cover."""
        if outcomes.attempts or outcomes.taken:
            self._index.deliveries.record(self.lane, outcomes.attempts, outcomes.taken, self._now())
            outcomes.attempts, outcomes.taken = [], []
        outcomes.record_at = monotonic() + RECORD_SECONDS


def stop_loops(loops: Sequence[MessageLoop], seconds: float) -> None:
    """Start no further attempts. Those not finished within `seconds` are cancelled; the next start repeats them."""
    deadline = monotonic() + seconds
    for loop in loops:
        loop.begin_stop()
    for loop in loops:
        loop.stop(max(0.0, deadline - monotonic()))
    for loop in loops:
        loop.cancel()
    for loop in loops:
        loop.stop(CANCEL_SECONDS)


class Outcomes:
    """The outcomes of one step that are not yet recorded."""

    def __init__(self, batch: Batch) -> None:
        self.attempts: list[Attempt] = []
        self.taken = list(batch.known)  # to be removed from the outbox
        self.held = batch.held
        self.failed: set[str] = set()  # studies with a message that failed in this step
        self.record_at = monotonic() + RECORD_SECONDS


Plan = TypeVar("Plan")
Loop = TypeVar("Loop", bound=MessageLoop)


class MessageLoops(ABC, Generic[Plan, Loop]):
    """Work for every subscriber of a kind, continuing where the last process stopped.

    A plan is what a loop is built from: if nothing of it changes (`Settings.follow`), the loop goes on. The index has
    what waits, so that a kill at any time leaves the loops of the old or of the new plans to the next start.
    """

    kind: Kind

    def __init__(self, settings: Settings, index: Index) -> None:
        self._settings, self._index = settings, index
        self._following = threading.Lock()
        self._is_running = False
        self._planned = self._plans()
        self.workers = self._built(self._planned)

    @abstractmethod
    def _plans(self) -> dict[Lane, Plan]:
        """Return what the settings have now, by the lanes of the subscribers."""

    @abstractmethod
    def _built(self, plans: Mapping[Lane, Plan]) -> list[Loop]:
        """Return loops, which are not started. Raises UsageError if a file that one needs cannot be used."""

    def start(self) -> None:
        """Start every loop. A new subscriber receives events from now on."""
        with self._following:
            self._is_running = True
            self._begin_lanes(self.workers, f"their {self.kind} is no longer there")
            for worker in self.workers:
                worker.start()
        self._settings.follow(self._follow)

    def _follow(self) -> None:
        """Work by what the settings have now.

        A subscriber of which nothing has changed goes on. Another one ends after the attempt under way, and begins anew
        where the index says that it is. What waits for one that is gone is dropped.
        """
        with self._following:
            if not self._is_running:
                return
            plans = self._plans()
            if plans == self._planned:
                return
            stay = [worker for worker in self.workers if plans.get(worker.lane) == self._planned[worker.lane]]
            new = self._built({lane: plan for lane, plan in plans.items() if plan != self._planned.get(lane)})
            gone = [worker for worker in self.workers if worker not in stay]
            self.workers, self._planned = stay, {worker.lane: plans[worker.lane] for worker in stay}
            stop_loops(gone, CHANGE_SECONDS)
            reached("workers-ended")
            self._begin_lanes([*stay, *new], f"their {self.kind} was changed or removed")
            self.workers, self._planned = [*stay, *new], plans
            for worker in new:
                worker.start()

    def begin_stop(self) -> None:
        """Begin no further attempt, and follow no further change; return once one under way is made."""
        with self._following:
            self._is_running = False
        for worker in self.workers:
            worker.begin_stop()

    def stop(self, seconds: float) -> None:
        """Begin no further attempt; see `stop_loops`."""
        self.begin_stop()
        stop_loops(self.workers, seconds)

    def _begin_lanes(self, workers: Sequence[Loop], reason: str) -> None:
        dropped = self._index.deliveries.begin(self.kind, {worker.lane: worker.events for worker in workers})
        if dropped:
            log.warning(f"{self.kind}_messages_dropped", count=dropped, reason=reason)
