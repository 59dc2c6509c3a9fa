"""Refusals for `v_rejections`: collected in memory and written every few seconds, so that a flood costs little."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from node.background import BackgroundService
from node.index.database import Index
from node.index.records import CountedRefusal, Refused

WRITE_SECONDS = 2.0
"""Between two writes to the index."""

MAX_KINDS = 32
"""Different refusals that are listed between two writes; further ones are counted together."""


class Rejections(BackgroundService):
    """Take refusals from any thread, and write them to the index on a thread of its own.

    Parameters
    ----------
    index : Index
    on_news : callable (Refused)
        Called for each refusal that got a row of its own, on the thread that writes.
    now : callable () -> aware datetime
    """

    def __init__(
        self,
        index: Index,
        on_news: Callable[[Refused], None] = lambda refused: None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("rejections")
        self._index, self._on_news, self._now = index, on_news, now
        self._lock = threading.Lock()
        self._collected: dict[Refused, CountedRefusal] = {}
        self._written_at = -WRITE_SECONDS

    def record(self, refused: Refused) -> None:
        """Count a refusal; never waits for the disk and never raises."""
        now = self._now()
        with self._lock:
            if refused not in self._collected and len(self._collected) >= MAX_KINDS:
                refused = Refused(
                    refused.what,
                    "too many kinds",
                    f"too many different refusals at once; only the first {MAX_KINDS} are listed",
                    "look at the others of this moment, and at what a firewall may keep away",
                )
            before = self._collected.pop(refused, None)
            count, first_at = (before.count + 1, before.first_at) if before else (1, now)
            self._collected[refused] = CountedRefusal(refused, count, first_at, now)
        self.wake(self._written_at + WRITE_SECONDS - monotonic())

    def stop(self, seconds: float | None = None) -> None:
        """Write what is collected, and stop."""
        super().stop(seconds)
        self._checked_step()

    def step(self) -> None:
        """Write what is collected; what the index does not take is written with the next step."""
        with self._lock:
            collected, self._collected = self._collected, {}
        if not collected:
            return
        self._written_at = monotonic()
        try:
            news = self._index.rejections.record(list(collected.values()))
        except BaseException:
            with self._lock:
                for refused, later in self._collected.items():
                    if (earlier := collected.get(refused)) is not None:
                        later = replace(later, count=later.count + earlier.count, first_at=earlier.first_at)
                    collected[refused] = later
                self._collected = collected
            raise
        for refused in news:
            self._on_news(refused)
