"""Throttling of password guesses: after some failures, each further try waits twice as long as the one before.

The library `limits` is unsuitable: its windows have no doubling wait, and its memory storage uses the wall clock, which
may be set back, and keeps an unlimited number of keys.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

FREE_TRIES = 5
"""Failures in a row from one address without a wait, since people mistype."""

MAX_WAIT_SECONDS = 300.0
FORGET_SECONDS = 3600.0
MAX_KEYS = 10_000
"""Number of keys remembered; beyond it, the oldest failure is forgotten, so that a flood of keys costs no memory."""


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


def _monotonic() -> float:
    return monotonic()


class Throttle:
    """Counts failures by key, such as an address. Thread-safe.

    Parameters
    ----------
    free_tries : int
        Failures in a row after which tries wait: the next one second, then two, and so on up to `MAX_WAIT_SECONDS`.
    """

    def __init__(self, free_tries: int = FREE_TRIES, clock: Callable[[], float] | None = None) -> None:
        self._free_tries, self._clock = free_tries, clock or _monotonic
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_seconds(self, key: str) -> float:
        """Return the seconds until the next try is allowed, or 0 if it is allowed now."""
        with self._lock:
            return self._wait_seconds(key)

    def _wait_seconds(self, key: str) -> float:
        failures = self._failures.get(key)
        if failures is None or failures.count < self._free_tries:
            return 0.0
        doublings = min(failures.count - self._free_tries, 60)
        return max(0.0, failures.last_at + min(MAX_WAIT_SECONDS, 2.0**doublings) - self._clock())

    def begin(self, key: str) -> float:
        """Begin a try, which counts as a failure until `succeeded`; return the seconds to wait if it is refused."""
        with self._lock:
            wait = self._wait_seconds(key)
            if wait > 0:
                return wait
            now, known = self._clock(), self._failures.pop(key, None)
            count = known.count + 1 if known is not None and now - known.last_at < FORGET_SECONDS else 1
            self._failures[key] = _Failures(count, now)
            if len(self._failures) > MAX_KEYS:
                self._failures.popitem(last=False)
            return 0.0

    def succeeded(self, key: str) -> None:
        """Forget the failures of a key."""
        with self._lock:
            self._failures.pop(key, None)
