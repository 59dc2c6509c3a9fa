"""A worker on the ledger of deliveries: reads the events after its cursors, attempts them in order, records outcomes.

Each subscriber has its own worker thread, so a slow or dead receiver delays no other. A message that fails waits in a
row, and later messages of its study wait behind it; other studies continue. If the process dies between a delivery and
the record of it, the next start delivers the message again with the same id.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic

from node.index.database.follower import FOLLOW_SECONDS, IndexFollower
from node.index.database.index import Index
from node.index.work.deliveries import Batch, turn_of
from node.index.work.ledger import Lane
from node.index.work.messages import Attempt, LedgerEvent, PendingEvent
from node.notify.channel import Interrupted
from node.retries import MAX_WAIT_SECONDS, wait_seconds

MAX_SLEEP_SECONDS = 60.0
"""Longest sleep while messages wait for another attempt, since the clock may be stepped."""

SETTLE_SECONDS = 1.0
"""Longest delay before an outcome is recorded. After a crash, the messages of this period are delivered twice."""

CANCEL_SECONDS = 5.0
"""Longest wait for a cancelled attempt to end. An unanswered DNS lookup may take longer."""

REASON_LENGTH = 500
UNSEEN_EVENTS = 1000
"""Number of unwanted events after which the cursor is recorded."""


class LedgerWorker(IndexFollower):
    """Attempt the messages of one subscriber.

    Parameters
    ----------
    thread_name : str
    lane : Lane
    events : collection of LedgerEvent
        The events that it subscribes to.
    now : callable () -> aware datetime
    within : float, seconds
        Longest delay from a commit to the next step.
    """

    def __init__(
        self,
        thread_name: str,
        lane: Lane,
        events: Collection[LedgerEvent],
        index: Index,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        within: float = FOLLOW_SECONDS,
    ) -> None:
        super().__init__(thread_name, index, within, turn_of(lane))
        self.lane, self._events, self._now = lane, events, now
        self._seen_event = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Cancel the attempt under way; the next start repeats it."""
        self._cancelled.set()

    def step(self) -> float | None:
        """Attempt the due messages; return the seconds until the next one is due, or None if none waits."""
        self._end_cancelled()
        if self.work():
            return 0.0
        due_at = self._index.deliveries.next_due_at(self.lane)
        return min((due_at - self._now()).total_seconds(), MAX_SLEEP_SECONDS) if due_at is not None else None

    def work(self) -> bool:
        """Attempt the due messages; return whether there were any, or may be more."""
        batch = self._index.deliveries.work(self.lane, self._events, self._seen_event, self._now())
        outcomes = Outcomes(batch)
        with suppress(Interrupted):
            self._begin(batch)
            for pending in batch.again:
                if pending.study_instance_uid not in outcomes.failed:
                    self._take(pending, outcomes, is_new=False)
            for pending in batch.new:
                self._take(pending, outcomes, is_new=True)
            outcomes.cursors = batch.end
        self._settle(outcomes)
        return bool(batch.again or batch.new) or batch.end != batch.begin

    def _end_cancelled(self) -> None:
        """End what somebody has cancelled of the messages that wait."""
        if cancelled := self._index.deliveries.cancelled(self.lane):
            self._index.deliveries.end_cancelled(self.lane, cancelled, self._now())

    def _begin(self, batch: Batch) -> None:
        """Prepare the attempts of `batch`."""

    @abstractmethod
    def _attempt(self, pending: PendingEvent) -> Attempt:
        """Attempt one message and return the outcome.

        Raises
        ------
        Interrupted
            The message, and all behind it, are to be attempted in a later step.
        """

    def _take(self, pending: PendingEvent, outcomes: Outcomes, *, is_new: bool) -> None:
        """Attempt one message, or queue it behind an earlier message of its study."""
        study = pending.study_instance_uid
        if is_new and (study in outcomes.failed or study in outcomes.held):
            attempt = Attempt(pending, None, 0, self._now())
        else:
            attempt = self._attempt(pending)
        if attempt.outcome is None:
            outcomes.failed.add(study)
        if not (is_new and self._is_unwanted(attempt)):
            outcomes.attempts.append(attempt)
        outcomes.cursors = replace(
            outcomes.cursors,
            event_id=pending.event_id or outcomes.cursors.event_id,
            image_id=pending.image_id or outcomes.cursors.image_id,
        )
        if monotonic() >= outcomes.settle_at:
            self._settle(outcomes)

    def _is_unwanted(self, attempt: Attempt) -> bool:
        """Return whether the outcome of the first attempt of a message needs no row."""
        return attempt.outcome == "dropped"

    def _again_later(self, pending: PendingEvent, reason: str, retry_after: float | None = None) -> Attempt:
        """Return the outcome of a failed attempt that is to be repeated."""
        attempts = pending.attempts + 1
        due_at = self._now() + dt.timedelta(seconds=jittered_wait_seconds(attempts, retry_after))
        return Attempt(pending, None, attempts, due_at, reason[:REASON_LENGTH])

    def _settle(self, outcomes: Outcomes) -> None:
        """Record outcomes and cursors. Cursors past unwanted events alone are recorded every `UNSEEN_EVENTS` events."""
        attempts, cursors, stored = outcomes.attempts, outcomes.cursors, outcomes.stored
        if attempts or cursors.image_id != stored.image_id or cursors.event_id - stored.event_id >= UNSEEN_EVENTS:
            self._index.deliveries.settle(self.lane, attempts, cursors, self._now())
            outcomes.attempts, outcomes.stored = [], cursors
        outcomes.settle_at = monotonic() + SETTLE_SECONDS
        self._seen_event = cursors.event_id


def stop_workers(workers: Sequence[LedgerWorker], seconds: float) -> None:
    """Start no further attempts. Those not finished within `seconds` are cancelled; the next start repeats them."""
    deadline = monotonic() + seconds
    for worker in workers:
        worker.begin_stop()
    for worker in workers:
        worker.stop(max(0.0, deadline - monotonic()))
    for worker in workers:
        worker.cancel()
    for worker in workers:
        worker.stop(CANCEL_SECONDS)


class Outcomes:
    """The outcomes of one step that are not yet recorded."""

    def __init__(self, batch: Batch) -> None:
        self.stored, self.cursors = batch.stored, batch.begin
        self.attempts: list[Attempt] = []
        self.held = batch.held
        self.failed: set[str] = set()  # studies with a message that failed in this step
        self.settle_at = monotonic() + SETTLE_SECONDS


def jittered_wait_seconds(attempts: int, retry_after: float | None) -> float:
    """Return the seconds to wait after `attempts` failures, randomized so that retries are spread out.

    Parameters
    ----------
    retry_after : float or None
        Wait requested by the receiver; the result is not shorter, up to `MAX_WAIT_SECONDS`.
    """
    longest = wait_seconds(attempts)
    wait = random.uniform(longest / 2, longest)
    return max(wait, min(retry_after or 0.0, MAX_WAIT_SECONDS))
