"""Throttling of password guesses: after some failures, each further try waits twice as long as the one before.

The library `limits` is unsuitable: its windows have no doubling wait, and its memory storage uses the wall clock, which
may be set back, and keeps an unlimited number of keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_WAIT_SECONDS = 300.0
FORGET_SECONDS = 3600.0
MAX_KEYS = 10_000
"""Number of keys remembered; beyond it, the oldest failure is forgotten, so that a flood of keys costs no memory."""


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float


class Throttle:
    """Counts failures by key, such as an address. Its user (`node.web.guesses`) holds a lock.

    Parameters
    ----------
    free_tries : int
        Failures in a row after which tries wait: the next one second, then two, and so on up to `MAX_WAIT_SECONDS`.
    clock : callable
        Returns monotonic seconds.
    """

    def __init__(self, free_tries: int, clock: Callable[[], float]) -> None:
        self._free_tries, self._clock = free_tries, clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_seconds(self, key: str) -> float:
        """Return the seconds until the next try is allowed, or 0 if it is allowed now."""
        failures = self._failures.get(key)
        if failures is None or failures.count < self._free_tries:
            return 0.0
        doublings = min(failures.count - self._free_tries, 60)
        return max(0.0, failures.last_at + min(MAX_WAIT_SECONDS, 2.0**doublings) - self._clock())

    def count(self, key: str) -> None:
        """Count a failure."""
        now, known = self._clock(), self._failures.pop(key, None)
        count = known.count + 1 if known is not None and now - known.last_at < FORGET_SECONDS else 1
        self._failures[key] = _Failures(count, now)
        if len(self._failures) > MAX_KEYS:
            self._failures.popitem(last=False)

    def forgive(self, key: str, count: int | None = None) -> int:
        """Forget `count` failures of a key, or all; return how many were forgotten."""
        known = self._failures.get(key)
        if known is None:
            return 0
        forgiven = known.count if count is None else min(count, known.count)
        known.count -= forgiven
        if not known.count:
            del self._failures[key]
        return forgiven
