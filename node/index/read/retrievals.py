"""Retrievals from peers."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import PatientRow, RetrievalRow, SeriesRow, StudyRow
from node.index.read.rows import PagedRepository, Row


class ReadRetrievals(PagedRepository):
    """Rows of ``retrievals``."""

    listing = select(RetrievalRow.__table__)
    filters = (
        RetrievalRow.retrieval_id,
        RetrievalRow.peer,
        RetrievalRow.state,
        RetrievalRow.study_instance_uid,
        RetrievalRow.series_instance_uid,
    )

    def newest(self, limit: int) -> list[Row]:
        """Return the newest retrievals, with what is known here of their studies and series."""
        rows = self._connection.execute(
            self.listing.add_columns(
                PatientRow.patient_name,
                SeriesRow.series_description,
                StudyRow.id.is_not(None).label("is_study_here"),
                SeriesRow.id.is_not(None).label("is_series_here"),
            )
            .outerjoin(StudyRow, StudyRow.study_instance_uid == RetrievalRow.study_instance_uid)
            .outerjoin(PatientRow, PatientRow.id == StudyRow.patient_id)
            .outerjoin(
                SeriesRow,
                (SeriesRow.study_id == StudyRow.id)
                & (SeriesRow.series_instance_uid == RetrievalRow.series_instance_uid),
            )
            .order_by(RetrievalRow.id.desc())
            .limit(limit)
        )
        return [dict(row) for row in rows.mappings()]
