"""Patients, including those merged into others."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from node.index.models import PatientRow, StudyRow
from node.index.read.rows import PagedRepository, Row


class ReadPatients(PagedRepository):
    """Rows of ``patients`` and ``v_patients``."""

    listing = select(
        PatientRow.id,
        PatientRow.patient_id,
        PatientRow.issuer_of_patient_id,
        PatientRow.patient_name,
        PatientRow.patient_birth_date,
        PatientRow.patient_sex,
        PatientRow.merged_into,
    )
    filters = (PatientRow.id, PatientRow.patient_id)

    def page(self, after: int | None, limit: int, *, name: str | None = None, **wanted: Any) -> list[Row]:
        """Return the next page of patients with their numbers of studies, newest first.

        Parameters
        ----------
        name : str or None
            Beginning of the name; case is ignored.
        """
        rows = self._page(after, limit, name=name, **wanted)
        return self._with_counts(rows, "studies", select(StudyRow.patient_id, func.count()), StudyRow.patient_id)

    def _matching(self, *, name: str | None = None, **wanted: Any) -> Any:
        query = super()._matching(**wanted)
        return query if name is None else query.where(PatientRow.patient_name.istartswith(name, autoescape=True))

    def all(self) -> list[Row]:
        """Return all rows of ``v_patients``, sorted by name."""
        return self._rows("SELECT * FROM v_patients ORDER BY patient_name, patient_id, id")

    def named(self, text: str, limit: int) -> list[Row]:
        """Return at most `limit` rows of ``v_patients`` whose name contains `text`, whose case is ignored, by name.

        A space in `text` stands for the separator between parts of a name.
        """
        words = text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_").split()
        return self._rows(
            r"SELECT * FROM v_patients WHERE patient_name LIKE :name ESCAPE '\' ORDER BY patient_name, id LIMIT :limit",
            name=f"%{'_'.join(words)}%",
            limit=limit,
        )

    def with_patient_id(self, patient_id: str) -> list[Row]:
        """Return the rows of ``v_patients`` with a Patient ID: one for each issuer."""
        return self._rows("SELECT * FROM v_patients WHERE patient_id = :patient_id ORDER BY id", patient_id=patient_id)
