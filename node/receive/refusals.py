"""Refusals for `v_rejections`: collected in memory and written every few seconds, so that a flood costs little."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from node.index.database.index import Index
from node.index.nouns.records import CountedRefusal, Refused, RefusedLevel
from node.runtime.background import BackgroundService
from node.runtime.metrics import Metrics

WRITE_SECONDS = 2.0
"""Between two writes to the index."""

LISTED_SECONDS = 60.0
"""For how long a refusal counts as one of those that are listed."""

MAX_KINDS = 128
"""Different refusals of one level (`Refused.what`) that are listed in `LISTED_SECONDS`; further ones are counted
together. Refused contexts therefore never hide a rejected association."""

MAX_KINDS_OF_PEER = 32
"""As `MAX_KINDS`, of one address: one sender hides no other."""


class Rejections(BackgroundService):
    """Take refusals from any thread, and write them to the index on a thread of its own.

    `on_news`: called for each refusal that got a row of its own, on the thread that writes.
    """

    def __init__(
        self,
        index: Index,
        metrics: Metrics,
        on_news: Callable[[Refused], None] = lambda refused: None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("rejections")
        self._index, self._metrics, self._on_news, self._now = index, metrics, on_news, now
        self._lock = threading.Lock()
        self._collected: dict[Refused, CountedRefusal] = {}
        self._listed_at: dict[Refused, float] = {}  # the one that was seen last at the end
        self._written_at = -WRITE_SECONDS

    def record(self, refused: Refused) -> None:
        """Count a refusal; never waits for the disk and never raises."""
        now = self._now()
        self._metrics.rejections.labels(what=refused.what, rule=refused.rule).inc()
        with self._lock:
            refused = self._listed(refused)
            before = self._collected.pop(refused, None)
            count, first_at = (before.count + 1, before.first_at) if before else (1, now)
            self._collected[refused] = CountedRefusal(refused, count, first_at, now)
        self.wake(self._written_at + WRITE_SECONDS - monotonic())

    def _listed(self, refused: Refused) -> Refused:
        """Return a refusal or, when too many different ones were listed, the one by which it is counted."""
        now, listed = monotonic(), self._listed_at
        while listed and listed[oldest := next(iter(listed))] < now - LISTED_SECONDS:
            del listed[oldest]
        if refused not in listed:
            level = [one for one in listed if one.what == refused.what]
            if sum(one.peer == refused.peer for one in level) >= MAX_KINDS_OF_PEER:
                refused = _too_many(refused.what, MAX_KINDS_OF_PEER, refused.peer)
            if len(level) >= MAX_KINDS and refused not in listed:
                refused = _too_many(refused.what, MAX_KINDS)
        listed.pop(refused, None)
        listed[refused] = now
        return refused

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


def _too_many(what: RefusedLevel, listed: int, peer: str = "") -> Refused:
    whose = "of this address " if peer else ""
    return Refused(
        what,
        "too many kinds",
        f"too many different refusals {whose}at once; only the first {listed} of a minute are listed",
        "look at the others of this moment, and at what a firewall may keep away",
        peer=peer,
    )
