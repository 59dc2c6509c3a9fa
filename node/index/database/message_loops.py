"""The loops of all subscribers of a kind, hooks or destinations of routes, which follow changes of them at once."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import structlog

from node.failpoints import reached
from node.index.database.index import Index
from node.index.database.work_loop import MessageLoop, stop_loops
from node.index.work.ledger import Lane
from node.index.work.states import Kind
from node.settings.model import Settings

log = structlog.get_logger()

FOLLOW_SECONDS = 2.0
"""Longest wait for an attempt of a subscriber that changes; then it is cancelled, and is made again."""

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
            stop_loops(gone, FOLLOW_SECONDS)
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
        """Begin no further attempt; see `node.index.database.work_loop.stop_loops`."""
        self.begin_stop()
        stop_loops(self.workers, seconds)

    def _begin_lanes(self, workers: Sequence[Loop], reason: str) -> None:
        dropped = self._index.deliveries.begin(self.kind, {worker.lane: worker.events for worker in workers})
        if dropped:
            log.warning(f"{self.kind}_messages_dropped", count=dropped, reason=reason)
