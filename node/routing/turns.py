"""Turns: of several routes to one destination, one sends at a time, and the one of the highest priority goes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

RANKS = {"high": 0, "medium": 1, "low": 2}


class Turns:
    """Hands out turns at one destination. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int]] = []
        self._is_taken = False
        self._count = 0

    @contextmanager
    def taken(self, priority: str, seconds: float) -> Iterator[bool]:
        """Wait at most `seconds` for a turn; yield whether it came, and hand it on at the end."""
        with self._changed:
            self._count += 1
            turn = RANKS[priority], self._count
            self._waiting.append(turn)
            is_mine = self._changed.wait_for(lambda: not self._is_taken and min(self._waiting) == turn, seconds)
            self._waiting.remove(turn)
            self._is_taken |= is_mine
            if not is_mine:
                self._changed.notify_all()
        try:
            yield is_mine
        finally:
            if is_mine:
                with self._changed:
                    self._is_taken = False
                    self._changed.notify_all()
