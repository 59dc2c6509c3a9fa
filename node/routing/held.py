"""What all workers of destinations have in common: a pause, the hours and trouble hold everything; and kinds of them.

None of them costs an attempt. Hours are such as ``20:00-06:00``, in the time zone of the machine.
"""

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from node.archive.filesystem import Archive
from node.audit.audit_log import Audit
from node.index.database import Index
from node.index.rules.work.ledger import REASON_LENGTH, Ended, after_failure
from node.index.rules.work.messages import Attempt, LedgerEvent, PendingEvent
from node.index.rules.work.routes import lane_to
from node.index.work_loop import MAX_SLEEP_SECONDS, MessageLoop
from node.registry import opened_by
from node.routing.destination import Destination as Receiver
from node.runtime.background import MAX_WAIT_SECONDS, wait_seconds
from node.runtime.metrics import Metrics
from node.selector import Selector
from node.settings.core import DestinationSettings, Route
from node.settings.model import Settings

log = structlog.get_logger()

MAX_HELD_SECONDS = 300.0
"""Longest wait before a destination that cannot be reached is tried again."""


@dataclass(frozen=True, slots=True)
class RouteParts:
    """What the worker of one destination of a route is given.

    `route_name`: empty for what people send by hand.
    `destination`: name in [peers] or [destinations].
    `selector`: what the route sends; None: all.
    """

    settings: Settings
    route_name: str
    route: Route
    destination: str
    selector: Selector | None
    archive: Archive
    index: Index
    metrics: Metrics
    audit: Audit


class HeldWorker(MessageLoop):
    """The worker of one destination of a route.

    `within`: longest delay from a commit to the next step.
    """

    def __init__(self, parts: RouteParts, events: Collection[LedgerEvent], within: float) -> None:
        lane, index = lane_to(parts.route_name, parts.destination), parts.index
        super().__init__(f"route {lane.name}/{lane.destination}", lane, events, index, index.now, within)
        self._route, self._selector = parts.route, parts.selector
        self._metrics = parts.metrics
        for outcome in ("sent", "failed", "given-up"):
            self._count(outcome, 0)  # from 0, or the first of all is no increase
        self._failures_in_a_row = 0
        self._trouble = True  # of the process before this one

    def step(self) -> float | None:
        """Do what is due, unless everything is held; return the seconds until there may be more to do."""
        held = self._held_seconds()
        if held is None:
            return self._step_freely()
        self._index.work.end_cancelled(self.lane, self._now())
        self._rest()
        return min(held, MAX_SLEEP_SECONDS) if held > 0 else None

    def _step_freely(self) -> float | None:
        return super().step()

    def _rest(self) -> None:
        """Close what is open to the destination, which nothing goes to at present."""

    def _held_seconds(self) -> float | None:
        """Return the seconds for which everything is held; 0: until somebody lets it go on; None: nothing is."""
        state, now = self._index.routes.state(self.lane), self._now()
        if state.is_paused:
            return 0.0
        if state.retry_at is not None and state.retry_at > now:
            return (state.retry_at - now).total_seconds()
        return self._route.seconds_until_open(now) or None

    def _failed(self, pending: PendingEvent, before: int, reason: str, *, is_final: bool) -> Attempt:
        """Return the outcome of a failed attempt, given the number of earlier attempts that count."""
        attempts = before + 1
        decision = after_failure(attempts, self._route.attempts, reason, self._now(), is_final=is_final)
        log.warning(
            "route_given_up" if isinstance(decision, Ended) else "route_failed", service=self.name, kind=pending.event,
            attempt=attempts, reason=reason, study_instance_uid=pending.study_instance_uid,
            series_instance_uid=pending.series_instance_uid,
        )  # fmt: skip
        return Attempt(replace(pending, attempts=before), decision, attempts)

    def _hold(self, reason: str, retry_after: float | None = None) -> None:
        """Record that the destination cannot be reached, and when it is tried again.

        `retry_after` (seconds): wait that the destination requested.
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

    def _count(self, outcome: str, number: int) -> None:
        """Count instances, or volumes, with an outcome."""
        self._metrics.route_instances.labels(self.lane.name, self.lane.destination, outcome).inc(number)


OpenReceiver = Callable[[DestinationSettings, bool], Receiver]
"""Opens a destination that takes instances one by one, such as a folder or a server. It takes a table
[destinations.NAME], and whether its route wants proof of what was taken; it returns what sends there, or raises
`UsageError` if a file that the table names cannot be used."""


class DestinationKind(Protocol):
    """Destinations of routes that do not take instances one by one, such as folders that follow the node."""

    def check(self, destination: DestinationSettings) -> None:
        """Raise `UsageError` if a destination cannot be used."""

    def events(self, route: Route) -> Collection[LedgerEvent]:
        """Return the events that such a destination of a route has messages about."""

    def worker(self, parts: RouteParts) -> HeldWorker:
        """Return the service that does what the messages to a destination of a route ask for."""


def kind_that_follows(settings: Settings, name: str) -> DestinationKind | None:
    """Return the kind of a destination that cannot take single instances; None: it can, or is a peer.

    Raises UsageError if its extension is switched off, as the function below does.
    """
    described = settings.destinations.get(name)
    if described is None or described.takes_instances:
        return None
    kind: DestinationKind = opened_by(settings, "destinations", described.kind)
    return kind


def open_receiver(settings: Settings, kind: str) -> OpenReceiver:
    """Return what opens the destinations of a kind that takes instances one by one."""
    found: OpenReceiver = opened_by(settings, "destinations", kind)
    return found
