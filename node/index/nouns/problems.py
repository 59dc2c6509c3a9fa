"""Problems of series that a person has to settle, and what people say about them.

An acknowledgment holds for what a person saw: `PROBLEM` as it was then. If the state, the verdict or the revision of
the series changes, the problem is open again.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, Update, select, text, update

from node.index.converted import SeriesKey
from node.index.engine.repository import IndexRepository, on_writer
from node.index.engine.rows import ReadRepository, Row
from node.index.models import SeriesRow, StudyRow
from node.index.nouns.events import EventKind, record_event
from node.index.search.certainty import certainty_of

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


BEYOND_MENDING = ("not-an-image", "tiled-slide", "duplicate-slice")
"""Reasons of failures about which nobody can do anything: such instances are stored, and no volume is missing."""

_BEYOND_MENDING = ", ".join(f"'{reason}'" for reason in BEYOND_MENDING)
# The conditions are those of the partial indexes ix_series_doubted and ix_failures_of_images.
_IDS = f"""
    SELECT id FROM series WHERE verdict IN ('suspect', 'incomplete')
        AND state NOT IN ('receiving', 'converting')
    UNION
    SELECT f.series_id FROM failures f JOIN series ON series.id = f.series_id
        WHERE f.reason <> 'not-an-image' AND f.reason NOT IN ({_BEYOND_MENDING})
        AND series.state NOT IN ('receiving', 'converting')
"""
_IS_OPEN = f"(series.acknowledged_problem IS NULL OR series.acknowledged_problem <> {PROBLEM})"


class ReadProblems(ReadRepository):
    """Series that are suspect or incomplete, or that lack a volume that somebody can help to make."""

    def count(self) -> int:
        """Count the series with a problem that nobody has acknowledged."""
        rows = self._rows(f"SELECT count(*) AS count FROM series WHERE id IN ({_IDS}) AND {_IS_OPEN}")
        return int(rows[0]["count"])

    def open(self, limit: int, skip: int = 0) -> list[Row]:
        """Return the series with a problem that nobody has acknowledged, the last to receive an instance first.

        ``problem`` is what `ProblemRepository.acknowledge` takes; ``failures`` are ``reason``, ``stack`` and
        ``detail`` of each stack without a volume.
        """
        return self._listed(_IS_OPEN, "series.last_received_at DESC, series.id DESC", limit, skip)

    def acknowledged(self, limit: int, skip: int = 0) -> list[Row]:
        """Return the series with a problem that was acknowledged, the last acknowledgment first."""
        return self._listed(f"NOT {_IS_OPEN}", "series.acknowledged_at DESC NULLS LAST, series.id DESC", limit, skip)

    def _listed(self, condition: str, order: str, limit: int, skip: int) -> list[Row]:
        rows = self._rows(
            f"""
            SELECT series.id, st.study_instance_uid, series.series_instance_uid, series.series_number,
                series.series_description, series.modality, series.state, series.revision, series.verdict,
                {certainty_of("series")} AS certainty, series.verdict_reason, series.missing_detail,
                series.last_received_at, series.attempts, series.error, p.patient_name, p.patient_id, st.study_date,
                series.acknowledged_reason, series.acknowledged_by, series.acknowledged_at, {PROBLEM} AS problem
            FROM series JOIN studies st ON st.id = series.study_id JOIN patients p ON p.id = st.patient_id
            WHERE series.id IN ({_IDS}) AND {condition} ORDER BY {order} LIMIT :limit OFFSET :skip
            """,
            limit=limit,
            skip=skip,
        )
        return [{**row, "failures": self._failures(row["id"])} for row in rows]

    def _failures(self, series_id: int) -> list[Row]:
        return self._rows(
            "SELECT reason, stack, detail FROM failures WHERE series_id = :series AND reason <> 'not-an-image' "
            f"AND reason NOT IN ({_BEYOND_MENDING}) ORDER BY stack IS NULL, stack",
            series=series_id,
        )
