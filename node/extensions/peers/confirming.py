"""Ask senders how many instances their series have, so that a complete series need not wait to become quiet.

A sender that is still acquiring a series counts what it has so far. A count is therefore trusted only if two answers in
a row agree.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator
from time import monotonic

import structlog

from node.association.client.association import peer_addresses
from node.errors import VoxelnodeError
from node.extensions.peers.find import FindFailed, find_instance_count
from node.index.database.index import Index
from node.index.database.work_loop import IndexFollower
from node.index.nouns.converted import SeriesKey
from node.index.nouns.records import UnconfirmedSeries
from node.settings.model import Settings

log = structlog.get_logger()

ASK_SECONDS = 3.0
"""Interval between two questions about the same series."""

SILENCE_SECONDS = 60.0
"""Wait before asking a sender again that did not answer."""

CONFIRM_SECONDS = 10.0
"""Longest wait for the answer of a sender."""

Ask = Callable[[str, SeriesKey], int | None]
"""(calling AE title, series) -> number of instances that the sender has, or None if it gives no number."""


class Confirmer(IndexFollower):
    """Ask the senders of waiting series, in a thread of its own.

    Parameters
    ----------
    index : Index
    calling_ae_titles : collection of str
        Senders that may be asked.
    ask : callable (calling AE title, (Study Instance UID, Series Instance UID)) -> int or None
        Raises `VoxelnodeError` if the sender does not answer.
    """

    def __init__(
        self,
        index: Index,
        calling_ae_titles: Collection[str],
        ask: Ask,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("confirmer", index, ASK_SECONDS, "confirmer")
        self._titles, self._ask, self._now = frozenset(calling_ae_titles), ask, now
        self._last_counts: dict[SeriesKey, int] = {}
        self._silent_until: dict[str, float] = {}

    def step(self) -> float | None:
        """Ask once about each waiting series; return the seconds until the next question, None if no series waits."""
        waiting = self._index.series.unconfirmed(self._titles)
        self._last_counts = {
            series.key: self._last_counts[series.key] for series in waiting if series.key in self._last_counts
        }
        for series in waiting:
            if self._stopping.is_set():
                return None
            if monotonic() >= self._silent_until.get(series.calling_ae_title, 0.0):
                self._confirm(series)
        if not waiting:
            return None
        may_ask_at = min(self._silent_until.get(series.calling_ae_title, 0.0) for series in waiting)
        return max(ASK_SECONDS, may_ask_at - monotonic())

    def _confirm(self, series: UnconfirmedSeries) -> None:
        try:
            count = self._ask(series.calling_ae_title, series.key)
        except VoxelnodeError as error:
            self._silent_until[series.calling_ae_title] = monotonic() + SILENCE_SECONDS
            log.warning("sender_not_asked", calling_ae_title=series.calling_ae_title, reason=str(error))
            return
        if count is None:
            self._last_counts.pop(series.key, None)
        elif self._last_counts.get(series.key) != count:
            self._last_counts[series.key] = count
        elif self._index.series.confirm_count(series.key, count, self._now()):
            log.info("series_confirmed", series_instance_uid=series.key[1], instances=count)


def confirmers(settings: Settings, index: Index) -> Iterator[Confirmer]:
    """Yield the service that asks senders with ``[peers.NAME] confirm_by_find``, if there are any."""
    senders = [peer.ae_title for peer in settings.peers.values() if peer.confirm_by_find]
    addresses = peer_addresses(settings)

    def ask_sender(calling_ae_title: str, series: SeriesKey) -> int | None:
        peer, ours = addresses[calling_ae_title], settings.dicom.ae_title
        try:
            return find_instance_count(peer, ours, *series, timeout=CONFIRM_SECONDS)
        except FindFailed as error:
            log.warning("series_not_confirmed", series_instance_uid=series[1], reason=str(error))
            return None

    if senders:
        yield Confirmer(index, senders, ask_sender, index.now)
