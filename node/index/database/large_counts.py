"""Counts that read whole tables.

Pages and monitoring ask for them again and again, and in a large index they take seconds. They are therefore kept for
a while, with the moment at which they were taken.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from node.index.database.reading import ReadIndex
from node.index.models import OPEN_STATES

LARGE_ROWS = 100_000
"""Rows up to which a table is counted each time."""

KEPT_SECONDS = 60.0
"""Shortest time for which the counts of a larger table are kept."""

KEPT_FACTOR = 50.0
"""Counts are kept for this many times as long as counting took, so it takes at most a fiftieth of a processor."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Numbers of rows by name, and when they were counted; None: now."""

    numbers: Mapping[str, int]
    at: dt.datetime | None = None


class LargeCounts:
    """The counts of one index. Thread-safe; a thread waits while another one counts the same.

    Parameters
    ----------
    clock : callable () -> float
        Seconds that only increase.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._levels, self._states, self._failures = _Kept(clock), _Kept(clock), _Kept(clock)

    def levels(self, index: ReadIndex) -> Counted:
        """Return the numbers of patients, studies, series and instances."""
        return self._levels.get(index.count_levels)

    def states(self, index: ReadIndex) -> Counted:
        """Return the number of series in each state; those that wait or are being converted are always of now."""
        counted = self._states.get(index.series.count_by_state)
        if counted.at is None:
            return counted
        others = {state: number for state, number in counted.numbers.items() if state not in OPEN_STATES}
        return Counted({**others, **index.series.count_open_by_state()}, counted.at)

    def failures(self, index: ReadIndex) -> Counted:
        """Return the number of failures by reason."""
        return self._failures.get(index.failures.count_by_reason)


class _Kept:
    """Numbers that are kept for a while if they are large."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept = Counted({})
        self._until = clock()

    def get(self, count: Callable[[], Mapping[str, int]]) -> Counted:
        with self._lock:
            began = self._clock()
            if began < self._until:
                return self._kept
            numbers = count()
            if sum(numbers.values()) > LARGE_ROWS:
                ended = self._clock()
                self._kept = Counted(numbers, dt.datetime.now(dt.UTC))
                self._until = ended + max(KEPT_SECONDS, KEPT_FACTOR * (ended - began))
                return self._kept
            return Counted(numbers)
