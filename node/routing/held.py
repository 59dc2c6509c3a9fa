"""What all workers of destinations have in common: a pause, the hours and trouble of the destination hold everything.

None of them costs an attempt.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import replace

import structlog

from node.index.database.index import Index
from node.index.work.ledger import Lane
from node.index.work.messages import Attempt, LedgerEvent, PendingEvent
from node.notify.ledger import REASON_LENGTH, LedgerWorker
from node.retries import MAX_WAIT_SECONDS, wait_seconds
from node.routing.hours import seconds_until_open
from node.settings.model import Route

log = structlog.get_logger()

MAX_HELD_SECONDS = 300.0
"""Longest wait before a destination that cannot be reached is tried again."""


class HeldWorker(LedgerWorker):
    """The worker of one destination of a route.

    Parameters
    ----------
    lane : Lane
    within : float, seconds
        Longest delay from a commit to the next step.
    """

    def __init__(
        self,
        lane: Lane,
        route: Route,
        events: Collection[LedgerEvent],
        index: Index,
        now: Callable[[], dt.datetime],
        within: float,
    ) -> None:
        super().__init__(f"route {lane.name}/{lane.destination}", lane, events, index, now, within)
        self._route = route
        self._failures_in_a_row = 0
        self._trouble = True  # of the process before this one

    @property
    def wants_instances(self) -> bool:
        """Whether there are messages of single instances."""
        return "instance-stored" in self._events

    def _held_seconds(self) -> float | None:
        """Return the seconds for which everything is held; 0: until somebody lets it go on; None: nothing is."""
        state, now = self._index.routes.state(self.lane), self._now()
        if state.is_paused:
            return 0.0
        if state.retry_at is not None and state.retry_at > now:
            return (state.retry_at - now).total_seconds()
        return seconds_until_open(self._route.between, now) or None

    def _failed(self, pending: PendingEvent, before: int, reason: str, *, is_final: bool) -> Attempt:
        """Return the outcome of an attempt that failed, after so many before it that count."""
        attempts = before + 1
        is_final = is_final or attempts >= self._route.attempts
        log.warning(
            "route_given_up" if is_final else "route_failed", service=self.name, kind=pending.event, attempt=attempts,
            reason=reason, study_instance_uid=pending.study_instance_uid,
            series_instance_uid=pending.series_instance_uid,
        )  # fmt: skip
        if is_final:
            return Attempt(pending, "failed", attempts, reason=reason[:REASON_LENGTH])
        return self._again_later(replace(pending, attempts=before), reason)

    def _hold(self, reason: str, retry_after: float | None = None) -> None:
        """Record that the destination cannot be reached, and when it is tried again.

        Parameters
        ----------
        retry_after : float or None, seconds
            Wait that the destination requested.
        """
        self._failures_in_a_row += 1
        seconds = max(min(wait_seconds(self._failures_in_a_row), MAX_HELD_SECONDS), retry_after or 0.0)
        now = self._now()
        retry_at = now + dt.timedelta(seconds=min(seconds, MAX_WAIT_SECONDS))
        self._index.routes.note_trouble(self.lane, reason[:REASON_LENGTH], now, retry_at)
        if self._failures_in_a_row == 1:
            log.warning("route_held", service=self.name, reason=reason[:REASON_LENGTH])
        self._trouble = True

    def _note_reached(self) -> None:
        """Record that the destination can be reached again."""
        self._index.routes.note_reached(self.lane)
        if self._failures_in_a_row:
            log.info("route_goes_on", service=self.name, failed=self._failures_in_a_row)
        self._failures_in_a_row, self._trouble = 0, False
