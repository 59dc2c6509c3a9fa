"""Ask senders how many instances their series have, so that a whole one need not wait until it is quiet.

A sender that still makes a series counts what it has so far: a count is believed when it comes twice.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Collection
from time import monotonic

import structlog

from node.errors import VoxelnodeError
from node.index.database import Index
from node.index.records import SeriesKey, UnconfirmedSeries

log = structlog.get_logger()

POLL_SECONDS = 3.0
SILENCE_SECONDS = 60.0
"""How long a sender that did not answer is left alone."""

Ask = Callable[[str, SeriesKey], int | None]
"""(calling AE title, series) -> how many instances its sender has, None if it does not tell."""


class Confirmer:
    """Asks the senders of waiting series, on a thread of its own.

    Parameters
    ----------
    index : Index
    calling_ae_titles : collection of str
        Senders that may be asked.
    ask : callable (calling AE title, (Study Instance UID, Series Instance UID)) -> int or None
        Raises a `VoxelnodeError` where the sender does not answer.
    """

    def __init__(
        self,
        index: Index,
        calling_ae_titles: Collection[str],
        ask: Ask,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._index, self._titles, self._ask, self._now = index, frozenset(calling_ae_titles), ask, now
        self._poll_seconds = poll_seconds
        self._told: dict[SeriesKey, int] = {}
        self._silent_until: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="confirm", daemon=True)

    def start(self) -> None:
        """Begin to ask, if there is anyone to be asked."""
        if self._titles:
            self._thread.start()

    def stop(self) -> None:
        """Ask no more; returns when the question under way is answered or times out."""
        self._stopping.set()
        if self._titles:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.poll()
            except VoxelnodeError:  # the index may be back in a moment
                log.exception("confirmation_failed")

    def poll(self) -> None:
        """Ask once for each series that waits."""
        waiting = self._index.series.unconfirmed(self._titles)
        self._told = {one.key: self._told[one.key] for one in waiting if one.key in self._told}
        for one in waiting:
            if self._stopping.is_set():
                return
            if monotonic() >= self._silent_until.get(one.calling_ae_title, 0.0):
                self._confirm(one)

    def _confirm(self, series: UnconfirmedSeries) -> None:
        try:
            count = self._ask(series.calling_ae_title, series.key)
        except VoxelnodeError as error:
            self._silent_until[series.calling_ae_title] = monotonic() + SILENCE_SECONDS
            log.warning("sender_not_asked", calling_ae_title=series.calling_ae_title, reason=str(error))
            return
        if count is None:
            self._told.pop(series.key, None)
        elif self._told.get(series.key) != count:
            self._told[series.key] = count
        elif self._index.series.confirm_count(series.key, count, self._now()):
            log.info("series_confirmed", series_instance_uid=series.key[1], instances=count)
