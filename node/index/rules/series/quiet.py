"""When a study is quiet, and for how long senders are silent between the instances of a series."""

import datetime as dt
from collections.abc import Mapping, Sequence
from math import ceil

from sqlalchemy import ColumnElement, Connection, func, select, update

from node.index.rows.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import SenderRow
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import insert
from node.index.rules.work.events import record_event

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


class StudyRepository(IndexRepository):
    """The studies of an index."""

    def mark_quiet(self, quiet: dt.timedelta, now: dt.datetime) -> int:
        """Mark the studies that have had no open series for `quiet`; return how many became quiet."""
        next_at = self.next_quiet_at(quiet)
        if next_at is None or next_at > now:  # polled often: usually no write is needed
            return 0
        return self._mark_quiet(quiet, now)

    @on_reader
    def next_quiet_at(self, connection: Connection, quiet: dt.timedelta) -> dt.datetime | None:
        """Return when `mark_quiet` will next find a study if nothing is received, or None if none is pending."""
        closed_at = connection.execute(_FIRST_CLOSED_AT).scalar()
        return closed_at and closed_at + quiet

    @on_writer
    def _mark_quiet(self, connection: Connection, quiet: dt.timedelta, now: dt.datetime) -> int:
        studies = connection.execute(
            update(StudyRow)
            .where(StudyRow.closed_at <= now - quiet, ~_is_open())
            .values(closed_at=None, quiet_at=now)
            .returning(StudyRow.id, StudyRow.study_instance_uid)
        ).all()
        for study in studies:
            count = connection.execute(select(func.count()).where(SeriesRow.study_id == study.id)).scalar_one()
            detail = f"{count} series, none of them open"
            record_event(connection, "study-quiet", now, study_instance_uid=study.study_instance_uid, detail=detail)
        return len(studies)


def _is_open() -> ColumnElement[bool]:
    return select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id, SeriesRow.state.in_(OPEN_STATES)).exists()


_FIRST_CLOSED_AT = select(func.min(StudyRow.closed_at)).where(StudyRow.closed_at.is_not(None), ~_is_open())
