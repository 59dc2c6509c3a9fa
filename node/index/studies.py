"""Studies: when each became quiet, and what retention needs to know."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, Connection, and_, case, func, select, update

from node.index.events import record_event
from node.index.models import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.records import StoredStudy
from node.index.repository import IndexRepository, on_reader, on_writer

SETTLED_STATES = ("converted", "not-an-image")


class StudyRepository(IndexRepository):
    """The studies of an index."""

    def mark_quiet(self, quiet: dt.timedelta, now: dt.datetime) -> int:
        """Mark the studies that have had no open series for `quiet`; return how many became quiet."""
        if not self._has_quiet(quiet, now):  # polled often: usually no write is needed
            return 0
        return self._mark_quiet(quiet, now)

    @on_reader
    def next_quiet_at(self, connection: Connection, quiet: dt.timedelta) -> dt.datetime | None:
        """Return when `mark_quiet` will next find a study if nothing else arrives, or None if no study is pending."""
        first = select(func.min(StudyRow.closed_at)).where(StudyRow.closed_at.is_not(None), ~_is_open())
        closed_at = connection.execute(first).scalar()
        return closed_at and closed_at + quiet

    @on_reader
    def _has_quiet(self, connection: Connection, quiet: dt.timedelta, now: dt.datetime) -> bool:
        return connection.execute(select(StudyRow.id).where(_is_quiet(quiet, now)).limit(1)).first() is not None

    @on_writer
    def _mark_quiet(self, connection: Connection, quiet: dt.timedelta, now: dt.datetime) -> int:
        studies = connection.execute(
            update(StudyRow)
            .where(_is_quiet(quiet, now))
            .values(closed_at=None, quiet_at=now)
            .returning(StudyRow.id, StudyRow.study_instance_uid)
        ).all()
        for study in studies:
            count = connection.execute(select(func.count()).where(SeriesRow.study_id == study.id)).scalar_one()
            detail = f"{count} series, none of them open"
            record_event(connection, "study-quiet", now, study_instance_uid=study.study_instance_uid, detail=detail)
        return len(studies)

    @on_reader
    def stored(self, connection: Connection) -> list[StoredStudy]:
        """Return every study as retention sees it, in the order of their last arrivals."""
        return stored_studies(connection)


def stored_studies(connection: Connection) -> list[StoredStudy]:
    """Return every study as retention sees it, in the order of their last arrivals."""
    titles: dict[int, set[str]] = {}
    senders = (
        select(SeriesRow.study_id, ImageRow.calling_ae_title)
        .join(ImageRow, ImageRow.series_id == SeriesRow.id)
        .distinct()
    )
    for study_id, title in connection.execute(senders):
        titles.setdefault(study_id, set()).add(title or "")
    last = func.max(SeriesRow.last_received_at)
    settled = func.min(case((SeriesRow.state.in_(SETTLED_STATES), 1), else_=0))
    rows = connection.execute(
        select(StudyRow.id, StudyRow.study_instance_uid, last, settled)
        .join(SeriesRow, SeriesRow.study_id == StudyRow.id)
        .group_by(StudyRow.id)
        .order_by(last, StudyRow.id)
    )
    return [
        StoredStudy(uid, last_received_at, bool(is_settled), frozenset(titles.get(study_id, ())))
        for study_id, uid, last_received_at, is_settled in rows
    ]


def _is_quiet(quiet: dt.timedelta, now: dt.datetime) -> ColumnElement[bool]:
    return and_(StudyRow.closed_at <= now - quiet, ~_is_open())


def _is_open() -> ColumnElement[bool]:
    return select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id, SeriesRow.state.in_(OPEN_STATES)).exists()
