"""How long a series waits after an instance of a sender: as configured, or as learnt from the sender.

A sender may need longer from one image to the next than that. While its association is open, more of the series is to
be expected: the series that it has brought last is not quiet until the association ends, brings another series, or is
idle for `OPEN_SECONDS`.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

import structlog

from node.errors import VoxelnodeError
from node.index.nouns.converted import SeriesKey
from node.receive.association_notes import AssociationNotes
from node.settings.model import QuietTime

OPEN_SECONDS = 60.0
"""How long an open association that sends nothing keeps its last series waiting."""

MAX_COUNTED = 100_000
"""Instances of one association that are counted; their UIDs are in memory until it ends."""


@dataclass(slots=True)
class Brought:
    """What an open association has brought.

    `series`: how many instances of each are stored, each UID once. `was_asked`: whether that may have kept a series
    waiting.
    """

    calling_ae_title: str
    last: SeriesKey
    active_at: float
    began_at: dt.datetime | None = None
    series: dict[SeriesKey, int] = field(default_factory=dict)
    sop_instance_uids: set[str] = field(default_factory=set)
    was_asked: bool = False


class OpenAssociations:
    """The open associations that have brought instances, by name. Thread-safe.

    `notes`: where a start after a crash finds them.
    """

    def __init__(self, now: Callable[[], float] = monotonic, notes: AssociationNotes | None = None) -> None:
        self._now, self._notes = now, notes
        self._lock = threading.Lock()
        self._brought: dict[str, Brought] = {}

    def note_bytes(self, association: str) -> None:
        """Note that bytes of a data set come in: whose they are is known at its end, most likely of the last series."""
        if (brought := self._brought.get(association)) is not None:
            brought.active_at = self._now()

    def brought(
        self, association: str, calling_ae_title: str, series: SeriesKey, began_at: dt.datetime | None = None
    ) -> None:
        """Note that an association, which began at `began_at`, brings an instance of a series."""
        now = self._now()
        with self._lock:
            brought = self._brought.setdefault(association, Brought(calling_ae_title, series, now, began_at))
            if series not in brought.series and self._notes is not None:
                self._notes.brought(association, calling_ae_title, series)
            brought.series.setdefault(series, 0)
            brought.last, brought.active_at = series, now

    def stored(self, association: str, series: SeriesKey, sop_instance_uid: str) -> None:
        """Note that an instance that an association has brought is stored, or was already."""
        with self._lock:
            brought = self._brought.get(association)
            if brought is None or sop_instance_uid in (uids := brought.sop_instance_uids) or len(uids) >= MAX_COUNTED:
                return
            uids.add(sop_instance_uid)
            brought.series[series] += 1

    def ended(self, association: str) -> Brought | None:
        """Forget an association; return what it has brought, if anything."""
        with self._lock:
            return self._brought.pop(association, None)

    def note_end(self, association: str) -> None:
        """Let the next start know that an association has ended, and that the index has how."""
        if self._notes is not None:
            with self._lock:
                self._notes.ended(association)

    def asked_seconds(self) -> Mapping[SeriesKey, float]:
        """Return the series that open associations keep waiting, and for how long each will if nothing more comes."""
        now = self._now()
        asked: dict[SeriesKey, float] = {}
        with self._lock:
            for brought in self._brought.values():
                brought.was_asked = True
                seconds = brought.active_at + OPEN_SECONDS - now
                if seconds > 0:
                    asked[brought.last] = max(seconds, asked.get(brought.last, 0.0))
        return asked


log = structlog.get_logger()

UNKNOWN_SECONDS = 60.0
"""Quiet time of a sender about which too little is known."""

REFRESH_SECONDS = 10.0


def quiet_seconds_of(
    default: QuietTime,
    by_calling_ae_title: Mapping[str, QuietTime],
    learnt: Callable[[str], float | None] = lambda calling_ae_title: None,
) -> Callable[[str], float]:
    """Return the function that gives the quiet time of a sender.

    `learnt`: what is learnt of a sender, for those with ``auto``.
    """
    table = {title.strip(): time for title, time in by_calling_ae_title.items()}
    known = _Remembered(learnt)

    def seconds(calling_ae_title: str) -> float:
        time = table.get(calling_ae_title.strip(), default)
        return known(calling_ae_title) if time == "auto" else time

    return seconds


class _Remembered:
    """Ask for the quiet time of a sender once in `REFRESH_SECONDS`; receiving never waits for the index."""

    def __init__(self, learnt: Callable[[str], float | None]) -> None:
        self._learnt = learnt
        self._known: dict[str, tuple[float, float]] = {}

    def __call__(self, calling_ae_title: str) -> float:
        seconds, until = self._known.get(calling_ae_title, (UNKNOWN_SECONDS, 0.0))
        if monotonic() >= until:
            try:
                seconds = self._learnt(calling_ae_title) or UNKNOWN_SECONDS
            except VoxelnodeError as error:  # the last answer stands
                log.warning("quiet_time_not_read", reason=str(error))
            self._known[calling_ae_title] = seconds, monotonic() + REFRESH_SECONDS
        return seconds
