"""Slows down whoever guesses passwords: after some failures each further try has to wait, twice as long each time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

FREE_TRIES = 5
"""Failures in a row that cost nothing: people mistype."""

LONGEST_WAIT_SECONDS = 300.0
FORGET_SECONDS = 3600.0
MOST_KEYS = 10_000
"""The key that failed longest ago gives way, so that a flood of names or addresses costs no memory."""


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float

    @property
    def wait_until(self) -> float:
        return self.last_at + min(LONGEST_WAIT_SECONDS, 2.0 ** (self.count - FREE_TRIES))


class Throttle:
    """Counts failures by key, such as an address; safe to use from many threads."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_seconds(self, key: str) -> float:
        """How long until a try may be made; 0 when it may be made now."""
        with self._lock:
            return self._wait_seconds(key)

    def _wait_seconds(self, key: str) -> float:
        failures = self._failures.get(key)
        if failures is None or failures.count < FREE_TRIES:
            return 0.0
        return max(0.0, failures.wait_until - self._clock())

    def begin(self, key: str) -> float:
        """Begin a try, which counts as a failure until `succeeded`; the seconds to wait where none may be made now."""
        with self._lock:
            wait = self._wait_seconds(key)
            if wait > 0:
                return wait
            now, known = self._clock(), self._failures.pop(key, None)
            count = known.count + 1 if known is not None and now - known.last_at < FORGET_SECONDS else 1
            self._failures[key] = _Failures(count, now)
            if len(self._failures) > MOST_KEYS:
                self._failures.popitem(last=False)
            return 0.0

    def succeeded(self, key: str) -> None:
        """Forget the failures of a key."""
        with self._lock:
            self._failures.pop(key, None)
