"""The ledger of work as lists show it, newest first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, func, select

from node.index.engine.rows import PagedRepository, Row
from node.index.models.levels import PatientRow, SeriesRow, StudyRow
from node.index.models.work import WorkRow

_STATE = func.coalesce(WorkRow.outcome, WorkRow.state).label("state")
_COLUMNS = [column for column in WorkRow.__table__.columns if column.name not in ("state", "outcome")]


class ReadWork(PagedRepository):
    """Rows of ``work``, with what their payloads have; ``state`` is the outcome of what has ended."""

    listing = select(*_COLUMNS, _STATE)
    filters = (
        WorkRow.id,
        WorkRow.kind,
        WorkRow.name,
        WorkRow.destination,
        WorkRow.key,
        WorkRow.study_instance_uid,
        WorkRow.series_instance_uid,
        _STATE,
    )

    def page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return at most `limit` rows below the id `after`, newest first; `wanted` are filters, None matches all."""
        return [_flat(row) for row in self._page(after, limit, **wanted)]

    def counts(self) -> dict[tuple[str, str], int]:
        """Count the rows by kind and state."""
        rows = self._connection.execute(select(WorkRow.kind, _STATE, func.count()).group_by(WorkRow.kind, _STATE))
        return {(kind, state): count for kind, state, count in rows}

    def newest(self, limit: int, offset: int = 0, **wanted: Any) -> list[Row]:
        """Return a page of the newest rows, with what is known here of their studies and series."""
        rows = self._connection.execute(
            self._matching(**wanted)
            .add_columns(
                PatientRow.patient_name,
                PatientRow.patient_id,
                SeriesRow.series_description,
                SeriesRow.modality,
                SeriesRow.series_number,
                SeriesRow.revision.label("newest_revision"),
                StudyRow.id.is_not(None).label("is_study_here"),
                SeriesRow.id.is_not(None).label("is_series_here"),
            )
            .select_from(WorkRow)
            .outerjoin(StudyRow, StudyRow.study_instance_uid == WorkRow.study_instance_uid)
            .outerjoin(PatientRow, PatientRow.id == StudyRow.patient_id)
            .outerjoin(
                SeriesRow,
                and_(SeriesRow.study_id == StudyRow.id, SeriesRow.series_instance_uid == WorkRow.series_instance_uid),
            )
            .order_by(WorkRow.id.desc())
            .limit(limit)
            .offset(offset)
        )
        return [_flat(dict(row)) for row in rows.mappings()]


def _flat(row: Row) -> Row:
    return {**row.pop("payload"), **row}
