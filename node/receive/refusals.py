"""What was refused, for `v_rejections`: collected in memory and written now and then, so that a flood costs little."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable

import structlog

from node.errors import VoxelnodeError
from node.index.database import Index
from node.index.records import CountedRefusal, Refused

log = structlog.get_logger()

PAUSE_SECONDS = 2.0
"""Between two writes to the index."""

MOST_KINDS = 32
"""Different refusals that are told one by one between two writes; the others are counted together."""


class Rejections:
    """Takes refusals from any thread and writes them to the index on its own.

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
        self._index, self._on_news, self._now = index, on_news, now
        self._lock = threading.Lock()
        self._collected: dict[Refused, CountedRefusal] = {}
        self._any, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="rejections", daemon=True)
        self._thread.start()

    def record(self, refused: Refused) -> None:
        """Count a refusal; never waits for the disk and never raises."""
        now = self._now()
        with self._lock:
            if refused not in self._collected and len(self._collected) >= MOST_KINDS:
                refused = Refused(
                    refused.what,
                    "too many kinds",
                    "more different refusals at once than are told one by one",
                    "look at the others of this moment, and at what a firewall may keep away",
                )
            before = self._collected.pop(refused, None)
            count, first_at = (before.count + 1, before.first_at) if before else (1, now)
            self._collected[refused] = CountedRefusal(refused, count, first_at, now)
        self._any.set()

    def close(self) -> None:
        """Write what is collected, and stop."""
        self._stopping.set()
        self._any.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._any.wait()
            self._any.clear()
            self._write()
            self._stopping.wait(PAUSE_SECONDS)
        self._write()

    def _write(self) -> None:
        with self._lock:
            collected, self._collected = list(self._collected.values()), {}
        if not collected:
            return
        try:
            for refused in self._index.rejections.record(collected):
                self._on_news(refused)
        except VoxelnodeError:  # refusing goes on, whatever becomes of its record; the log has told each one
            log.exception("rejections_not_recorded", count=sum(one.count for one in collected))
