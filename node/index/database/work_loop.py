"""The loop that does the work of the ledger that is due: one at a time in each lane, each lane on a thread of its own.

If the process ends, work under way stays running in its row; the next start, or another host, does it again.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import structlog

from node.errors import VoxelnodeError
from node.index.database.follower import IndexFollower
from node.index.work.ledger import Decision, Ended, Lane, Postponed, Work
from node.index.work.states import Kind
from node.retries import wait_seconds

if TYPE_CHECKING:
    from node.index.database.index import Index

log = structlog.get_logger()

MAX_LANES = 50
"""Lanes in which work is done at the same time."""

MAX_SLEEP_SECONDS = 60.0
"""Longest sleep while work waits: the clock may be stepped."""

STOP_SECONDS = 5.0
"""Longest wait for the work under way when the node stops. What waits for a connection may take longer."""

RETRY_SECONDS = 5.0
"""Pause before a beginning or an outcome that could not be recorded is recorded again."""


class Step(Protocol):
    """What does the work of one kind.

    `max_attempts`: attempts after which work is given up, also of work that ends the process each time.
    """

    max_attempts: int

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Do the work; return what becomes of it, or None if the node stops before that is known."""

    def recorded(self, work: Work, decision: Decision) -> None:
        """Tell others what became of work, once it is recorded."""


class WorkLoop(IndexFollower):
    """Does the work of some kinds.

    `name`: of its thread, and of the work that one host does at a time.
    """

    def __init__(self, name: str, index: Index, steps: Mapping[Kind, Step], now: Callable[[], dt.datetime]) -> None:
        super().__init__(name, index, turn=name)
        self._steps, self._now = steps, now
        self._lock = threading.Lock()
        self._threads: dict[Lane, threading.Thread] = {}

    def _take_up(self) -> None:
        """Let the work wait again that the last process left under way."""
        limits = {kind: step.max_attempts for kind, step in self._steps.items()}
        self._index.work.resume(limits, self._now())

    def step(self) -> float | None:
        """Begin the first due work of each lane that has none under way; return the seconds until more is due."""
        with self._lock:
            busy = set(self._threads)
        now = self._now()
        for work in self._index.work.due(self._steps.keys(), now, busy)[: MAX_LANES - len(busy)]:
            thread = threading.Thread(target=self._do, args=(work,), name=f"{work.lane.kind} {work.lane.name}")
            thread.daemon = True
            with self._lock:
                thread.start()
                self._threads[work.lane] = thread
        due_at = self._index.work.next_due_at(self._steps.keys(), now)
        return min((due_at - now).total_seconds(), MAX_SLEEP_SECONDS) if due_at is not None else None

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
            return self.again(work, "an unexpected error in the node: see its log")

    def again(self, work: Work, reason: str) -> Decision:
        """Return what becomes of work whose attempt failed: another one, or it is given up."""
        if work.attempts >= self._steps[work.lane.kind].max_attempts:
            return Ended("failed", reason)
        return Postponed(self._now() + dt.timedelta(seconds=wait_seconds(work.attempts)), reason)

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
