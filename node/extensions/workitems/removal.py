"""Workitems of clients do not stay for ever after their end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from node.background import BackgroundService
from node.index.work.workitems import WorkitemRepository

LOOK_SECONDS = 3600.0


class Removal(BackgroundService):
    """Removes workitems that ended before the days of [worklist] keep_days."""

    def __init__(self, workitems: WorkitemRepository, keep_days: float, now: Callable[[], dt.datetime]) -> None:
        super().__init__("workitems")
        self._workitems, self._kept, self._now = workitems, dt.timedelta(days=keep_days), now
        self._removed_before: dt.date | None = None

    def step(self) -> float:
        """Remove those of a day once; return the seconds until the next look."""
        before = (self._now() - self._kept).date()
        if before != self._removed_before:
            self._workitems.remove_ended(before)
            self._removed_before = before
        return LOOK_SECONDS
