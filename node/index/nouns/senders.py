"""Senders: the quiet time that each needs, learnt from the gaps that it makes.

When a series is claimed, the longest gap between two of its instances from one sender is noted. A gap that exceeded the
quiet time, so that the series was converted too early, counts as well: it is noted when the series is claimed again.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from math import ceil

from sqlalchemy import ColumnElement, Connection, Subquery, func, select

from node.index.engine.rows import IndexRepository, ReadRepository, on_reader
from node.index.engine.sql import insert
from node.index.models.levels import ImageRow
from node.index.models.work import SenderRow
from node.index.nouns.views import SenderViews

MAX_SERIES = 50
"""Longest gaps of a sender that are kept, one for each of its last series."""

MIN_SERIES = 5
"""With fewer series, nothing is known about a sender."""

MAX_GAP_SECONDS = 3600.0
"""A longer gap lies between two sendings."""

SHARE = 0.95
"""Share of the series whose longest gap the quiet time covers, by `FACTOR`."""

FACTOR = 2.0
MIN_QUIET_SECONDS = 10.0
MAX_QUIET_SECONDS = 600.0


class SenderRepository(IndexRepository):
    """What is known about the senders."""

    @on_reader
    def quiet_seconds(self, connection: Connection, calling_ae_title: str) -> float | None:
        """Return the quiet time learnt for a sender, or None while too little is known."""
        query = select(SenderRow.quiet_seconds).where(SenderRow.calling_ae_title == calling_ae_title)
        return connection.execute(query).scalar()


def learn_gaps(connection: Connection, series_id: int, since: dt.datetime | None, now: dt.datetime) -> None:
    """Note the longest gap of each sender of a series, for those instances that no conversion has seen.

    `since`: when the first of them was received; None if there is none.
    """
    if since is None:
        return
    rows = connection.execute(
        select(ImageRow.calling_ae_title, ImageRow.received_at)
        .where(ImageRow.series_id == series_id, ImageRow.calling_ae_title.is_not(None))
        .order_by(ImageRow.received_at)
    )
    receptions = [(sender, received_at) for sender, received_at in rows if sender is not None]
    for sender, gap in _longest_gaps(receptions, since).items():
        _note_gap(connection, sender, gap, now)


def quiet_seconds_after(gaps: Sequence[float]) -> float | None:
    """Return the quiet time for a sender whose last series had these longest gaps."""
    if len(gaps) < MIN_SERIES:
        return None
    covered = sorted(gaps)[ceil(SHARE * len(gaps)) - 1]
    return min(max(FACTOR * covered, MIN_QUIET_SECONDS), MAX_QUIET_SECONDS)


def _longest_gaps(receptions: Sequence[tuple[str, dt.datetime]], since: dt.datetime) -> Mapping[str, float]:
    last: dict[str, dt.datetime] = {}
    longest: dict[str, float] = {}
    for sender, received_at in receptions:
        if sender in last and received_at >= since:
            gap = (received_at - last[sender]).total_seconds()
            if gap <= MAX_GAP_SECONDS:
                longest[sender] = max(gap, longest.get(sender, 0.0))
        last[sender] = received_at
    return longest


def _note_gap(connection: Connection, sender: str, gap: float, now: dt.datetime) -> None:
    known = connection.execute(select(SenderRow.gaps).where(SenderRow.calling_ae_title == sender)).scalar() or []
    gaps = [*known, round(gap, 3)][-MAX_SERIES:]
    values = {"gaps": gaps, "quiet_seconds": quiet_seconds_after(gaps), "learnt_at": now}
    row = insert(SenderRow).values(calling_ae_title=sender, **values)
    connection.execute(row.on_conflict_do_update(index_elements=["calling_ae_title"], set_=values))


LAST_IMAGES = 50_000
"""Newest images that are looked at for what came lately, since no index has their times: read in 0.1 s."""


class ReadSenders(ReadRepository, SenderViews):
    """Rows of ``senders``, and what they sent lately."""

    def received(self, since: dt.datetime, until: dt.datetime) -> list[tuple[dt.datetime, int]]:
        """Return when each of the last images was received, and its bytes."""
        newest, within = _newest(since, until)
        rows = self._connection.execute(select(newest.c.received_at, newest.c.bytes).where(*within))
        return [(received_at, size) for received_at, size in rows]

    def heard(self, since: dt.datetime, until: dt.datetime) -> list[tuple[str, str, dt.datetime, int]]:
        """Return AE title, address, last time and number of images of who sent the last images, the earliest first.

        What came otherwise than by an association has its source, such as ``import``, for the AE title.
        """
        newest, within = _newest(since, until)
        sender, last = (newest.c.sender, newest.c.peer), func.max(newest.c.received_at)
        found = select(*sender, last, func.count()).where(*within).group_by(*sender).order_by(last)
        return [(title, peer or "", at, count) for title, peer, at, count in self._connection.execute(found)]


def _newest(since: dt.datetime, until: dt.datetime) -> tuple[Subquery, tuple[ColumnElement[bool], ...]]:
    sender = func.coalesce(ImageRow.calling_ae_title, ImageRow.source).label("sender")
    columns = sender, ImageRow.peer, ImageRow.received_at, ImageRow.bytes
    newest = select(*columns).order_by(ImageRow.id.desc()).limit(LAST_IMAGES).subquery()
    return newest, (newest.c.received_at >= since, newest.c.received_at < until)
