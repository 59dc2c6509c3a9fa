"""What people say about the problems of a series.

An acknowledgment holds for what a person saw: `PROBLEM` as it was then. If the state, the verdict or the revision of
the series changes, the problem is open again.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, Update, select, text, update

from node.index.converted import SeriesKey
from node.index.events import EventKind, record_event
from node.index.models import SeriesRow, StudyRow
from node.index.repository import IndexRepository, on_writer

PROBLEM = "series.state || ' ' || coalesce(series.verdict, 'unknown') || ' ' || series.revision"
"""SQL of what an acknowledgment is about; migration 0018 has it in ``v_series``."""


class ProblemRepository(IndexRepository):
    """The problems of series that a person has to settle."""

    @on_writer
    def acknowledge(
        self, connection: Connection, key: SeriesKey, problem: str, reason: str, who: str, now: dt.datetime
    ) -> bool:
        """Record that a person has seen the problem of a series and leaves it as it is.

        Parameters
        ----------
        problem : str
            The ``problem`` of the row that the person saw.
        reason : str
            Why nothing is to be done, in the words of the person.

        Returns
        -------
        bool
            False, and nothing is recorded, if the series is not there or has changed since.
        """
        values = {
            "acknowledged_problem": problem,
            "acknowledged_reason": reason,
            "acknowledged_by": who,
            "acknowledged_at": now,
        }
        is_same = text(f"{PROBLEM} = :problem").bindparams(problem=problem)
        changed = connection.execute(_change(key).where(is_same).values(values)).rowcount == 1
        if changed:
            _record(connection, "problem-acknowledged", key, who, now)
        return changed

    @on_writer
    def withdraw(self, connection: Connection, key: SeriesKey, who: str, now: dt.datetime) -> None:
        """Withdraw the acknowledgment of the problem of a series, if there is one."""
        names = ("acknowledged_problem", "acknowledged_reason", "acknowledged_by", "acknowledged_at")
        is_acknowledged = SeriesRow.acknowledged_problem.is_not(None)
        change = _change(key).where(is_acknowledged).values(dict.fromkeys(names))
        if connection.execute(change).rowcount == 1:
            _record(connection, "problem-reopened", key, who, now)


def _change(key: SeriesKey) -> Update:
    study_instance_uid, series_instance_uid = key
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid).scalar_subquery()
    return update(SeriesRow).where(SeriesRow.study_id == study, SeriesRow.series_instance_uid == series_instance_uid)


def _record(connection: Connection, kind: EventKind, key: SeriesKey, who: str, now: dt.datetime) -> None:
    study_instance_uid, series_instance_uid = key
    detail = f"by {who}"  # the reason may name a patient
    record_event(
        connection,
        kind,
        now,
        detail=detail,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
    )
