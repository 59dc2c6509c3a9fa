"""When something is owed: what moves the `due_at` of a series besides its instances, and when a study is quiet.

All of it is rows, so that a restart forgets nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select, update

from node.completeness import C_FIND
from node.index.events import EventKind, record_event
from node.index.models import ImageRow, SeriesRow, StudyRow
from node.index.records import SeriesPlace, UnconfirmedSeries

OPEN = ("receiving", "converting")


def wait_after_abort(
    connection: Connection, places: Iterable[SeriesPlace], grace: dt.timedelta, why: str, now: dt.datetime
) -> None:
    """Give the sender of an association that was not released time to come back.

    Parameters
    ----------
    grace : timedelta
        Wait after the last instance; a longer wait stays.
    why : str
        How the association ended, in a word.
    """
    for place in places:
        for row in connection.execute(_series(place).where(SeriesRow.state.in_(OPEN))).all():
            last = min(row.last_received_at, now)  # the clock may have been set back since
            due_at = max(last + grace, row.due_at or last)
            connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(due_at=due_at))
            detail = f"the association ended otherwise than by release: {why}"
            _record(connection, "sender-aborted", place, now, detail)


def owe_conversions(connection: Connection, places: Iterable[SeriesPlace], now: dt.datetime) -> int:
    """Make series due, whatever became of them; returns how many were not open anyway."""
    owed = 0
    for place in places:
        for row in connection.execute(_series(place).where(SeriesRow.state.not_in(OPEN))).all():
            values = {"state": "receiving", "due_at": now, "open_since": now, "attempts": 0}
            connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(values))
            _record(connection, "series-reopened", place, now, "another conversion was asked for")
            owed += 1
    return owed


def unconfirmed_series(connection: Connection, calling_ae_titles: Collection[str]) -> list[UnconfirmedSeries]:
    """Series that wait and came last from one of these senders, unless the count that it told has arrived."""
    newest = (
        select(ImageRow.calling_ae_title)
        .where(ImageRow.series_id == SeriesRow.id)
        .order_by(ImageRow.received_at.desc(), ImageRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    received = select(func.count()).where(ImageRow.series_id == SeriesRow.id).scalar_subquery()
    rows = connection.execute(
        select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid, newest, received)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(SeriesRow.state == "receiving", SeriesRow.attempts == 0, newest.in_(calling_ae_titles))
    )
    return [UnconfirmedSeries((study, series), title, count) for study, series, title, count in rows]


def confirm_count(connection: Connection, place: SeriesPlace, count: int, now: dt.datetime) -> bool:
    """Note how many instances the sender has; returns whether all of them are here, and the series is due at once."""
    row = connection.execute(_series(place).where(SeriesRow.state == "receiving")).first()
    if row is None:
        return False
    received = connection.execute(select(func.count()).where(ImageRow.series_id == row.id)).scalar_one()
    values: dict[str, Any] = {"expected_instances": count, "expected_source": C_FIND}
    if received >= count:
        values["due_at"] = now
    if (row.expected_instances, row.expected_source) != (count, C_FIND):
        _record(connection, "series-confirmed", place, now, f"the sender has {count} instances, {received} are here")
    connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(values))
    return received >= count


def find_quiet_studies(connection: Connection, quiet: dt.timedelta, now: dt.datetime) -> int:
    """Mark the studies none of whose series has been open for so long; returns how many became quiet."""
    found = connection.execute(
        update(StudyRow)
        .where(_has_become_quiet(quiet, now))
        .values(closed_at=None, quiet_at=now)
        .returning(StudyRow.id, StudyRow.study_instance_uid)
    ).all()
    for study in found:
        count = connection.execute(select(func.count()).where(SeriesRow.study_id == study.id)).scalar_one()
        detail = f"{count} series, none of them open"
        record_event(connection, "study-quiet", now, study_instance_uid=study.study_instance_uid, detail=detail)
    return len(found)


def has_quiet_study(connection: Connection, quiet: dt.timedelta, now: dt.datetime) -> bool:
    """Whether there is one for `find_quiet_studies` to mark."""
    return connection.execute(select(StudyRow.id).where(_has_become_quiet(quiet, now)).limit(1)).first() is not None


def _has_become_quiet(quiet: dt.timedelta, now: dt.datetime) -> ColumnElement[bool]:
    is_open = select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id, SeriesRow.state.in_(OPEN)).exists()
    return and_(StudyRow.closed_at <= now - quiet, ~is_open)


def shift_times(connection: Connection, step: dt.timedelta) -> None:
    """Follow a step of the system clock, so that what was due in ten seconds still is."""
    for row in connection.execute(select(SeriesRow).where(SeriesRow.state.in_(OPEN))).all():
        _shift_series(connection, row, step)
    for study in connection.execute(
        select(StudyRow.id, StudyRow.closed_at).where(StudyRow.closed_at.is_not(None))
    ).all():
        connection.execute(update(StudyRow).where(StudyRow.id == study.id).values(closed_at=study.closed_at + step))


def rearm(connection: Connection, now: dt.datetime) -> None:
    """At a start: what came in the future came before the clock was set back; its wait begins again now."""
    ahead = select(SeriesRow).where(SeriesRow.state.in_(OPEN), SeriesRow.last_received_at > now)
    for row in connection.execute(ahead).all():
        _shift_series(connection, row, now - row.last_received_at)
    connection.execute(update(StudyRow).where(StudyRow.closed_at > now).values(closed_at=now))


def _shift_series(connection: Connection, row: Row[Any], step: dt.timedelta) -> None:
    moved = {name: getattr(row, name) for name in ("due_at", "open_since")}
    values = {name: moment + step for name, moment in moved.items() if moment is not None}
    if values:
        connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(values))


def _series(place: SeriesPlace) -> Select[Any]:
    """The row of a series; a Series Instance UID may be in two studies."""
    study_instance_uid, series_instance_uid = place
    columns: list[Any] = [getattr(SeriesRow, name) for name in ("id", "last_received_at", "due_at")]
    return (
        select(*columns, SeriesRow.expected_instances, SeriesRow.expected_source)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(StudyRow.study_instance_uid == study_instance_uid, SeriesRow.series_instance_uid == series_instance_uid)
    )


def _record(connection: Connection, kind: EventKind, place: SeriesPlace, now: dt.datetime, detail: str) -> None:
    record_event(connection, kind, now, study_instance_uid=place[0], series_instance_uid=place[1], detail=detail)
