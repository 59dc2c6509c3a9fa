"""Patients, also those that were merged into others."""

from __future__ import annotations

from sqlalchemy import func, select

from node.index.models import PatientRow, StudyRow
from node.index.read.rows import ReadRepository, Row, equal


class ReadPatients(ReadRepository):
    """Rows of ``patients`` and ``v_patients``."""

    def page(
        self, after: int | None, limit: int, *, patient_id: str | None = None, name: str | None = None
    ) -> list[Row]:
        """Return the next patients with their number of studies, the newest first.

        Parameters
        ----------
        name : str or None
            Beginning of a name, in any case.
        """
        query = select(
            PatientRow.id,
            PatientRow.patient_id,
            PatientRow.issuer_of_patient_id,
            PatientRow.patient_name,
            PatientRow.patient_birth_date,
            PatientRow.patient_sex,
            PatientRow.merged_into,
        ).where(*equal((PatientRow.patient_id, patient_id)))
        if name is not None:
            query = query.where(PatientRow.patient_name.istartswith(name, autoescape=True))
        rows = self._page(query, PatientRow.id, after, limit)
        return self._with_counts(rows, "studies", select(StudyRow.patient_id, func.count()), StudyRow.patient_id)

    def all(self) -> list[Row]:
        """Return every row of ``v_patients``, by name."""
        return self._rows("SELECT * FROM v_patients ORDER BY patient_name, patient_id, id")

    def with_patient_id(self, patient_id: str) -> list[Row]:
        """Return the rows of ``v_patients`` with a Patient ID; several where issuers differ."""
        return self._rows("SELECT * FROM v_patients WHERE patient_id = :patient_id ORDER BY id", patient_id=patient_id)
