"""Entries of the modality worklist."""

from __future__ import annotations

from sqlalchemy import func, or_, select

from node.index.models import PatientRow, PerformedStepRow, ScheduledStepRow, SeriesRow, StudyRow
from node.index.read.rows import PagedRepository, Row

MAX_SHOWN = 5
"""Studies and performed steps that are shown of one entry."""

_COLUMNS = tuple(column for column in ScheduledStepRow.__table__.columns if column.name != "attributes")


class ReadScheduledSteps(PagedRepository):
    """Rows of ``scheduled_steps``."""

    listing = select(*_COLUMNS)
    filters = (
        ScheduledStepRow.id,
        ScheduledStepRow.state,
        ScheduledStepRow.start_date,
        ScheduledStepRow.modality,
        ScheduledStepRow.station_ae_title,
        ScheduledStepRow.patient_id,
        ScheduledStepRow.accession_number,
    )

    def with_studies(self, limit: int, skip: int = 0) -> list[Row]:
        """Return entries, the last day first, with what was performed and received for each.

        ``performed`` are rows of the steps that modalities report of its study; ``studies`` are the studies with its
        Study Instance UID or Accession Number: ``study_instance_uid``, ``patient_id`` and the number of ``series``.
        """
        query = self.listing.order_by(ScheduledStepRow.start_date.desc(), ScheduledStepRow.id.desc())
        rows = [dict(row) for row in self._connection.execute(query.limit(limit).offset(skip)).mappings()]
        return [{**row, "performed": self._performed(row), "studies": self._studies(row)} for row in rows]

    def _performed(self, row: Row) -> list[Row]:
        if not row["study_instance_uid"]:
            return []
        step = PerformedStepRow
        query = select(step.state, step.modality, step.series, step.instances)
        of_study = query.where(step.study_instance_uid == row["study_instance_uid"]).order_by(step.id).limit(MAX_SHOWN)
        return [dict(found) for found in self._connection.execute(of_study).mappings()]

    def _studies(self, row: Row) -> list[Row]:
        named = [StudyRow.study_instance_uid == row["study_instance_uid"]] if row["study_instance_uid"] else []
        named += [StudyRow.accession_number == row["accession_number"]] if row["accession_number"] else []
        if not named:
            return []
        series = select(func.count()).where(SeriesRow.study_id == StudyRow.id).correlate(StudyRow).scalar_subquery()
        query = select(StudyRow.study_instance_uid, PatientRow.patient_id, series.label("series")).join(PatientRow)
        found = query.where(or_(*named)).order_by(StudyRow.id).limit(MAX_SHOWN)
        return [dict(study) for study in self._connection.execute(found).mappings()]

    def entry(self, id: int) -> Row | None:
        """Return an entry with its attributes, or None."""
        row = self._connection.execute(select(ScheduledStepRow.__table__).where(ScheduledStepRow.id == id)).first()
        return None if row is None else dict(row._mapping)
