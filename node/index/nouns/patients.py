"""Patients, as people look for them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, column, func, literal_column, select, table

from node.errors import UsageError
from node.index.engine.rows import PagedRepository, Row
from node.index.engine.sql import contains_words, starts_with
from node.index.models.levels import PatientRow, StudyRow
from node.index.nouns.views import PatientViews


class NoSuchPatient(UsageError):
    """No patient matches, or several do."""


_NAME: ColumnElement[str] = column("patient_name")


class ReadPatients(PagedRepository, PatientViews):
    """Rows of ``patients`` and ``v_patients``."""

    listing = select(PatientRow.__table__)
    filters = (PatientRow.id, PatientRow.patient_id)

    def page(self, after: int | None, limit: int, *, name: str | None = None, **wanted: Any) -> list[Row]:
        """Return the next page of patients with their numbers of studies, newest first.

        `name`: beginning of the name; case is ignored.
        """
        rows = self._page(after, limit, name=name, **wanted)
        return self._with_counts(rows, "studies", select(StudyRow.patient_id, func.count()), StudyRow.patient_id)

    def _matching(self, *, name: str | None = None, **wanted: Any) -> Any:
        query = super()._matching(**wanted)
        return query if name is None else query.where(starts_with(PatientRow.patient_name, name))

    def named(self, text: str, limit: int) -> list[Row]:
        """Return at most `limit` rows of ``v_patients`` whose name contains `text`, whose case is ignored, by name.

        A space in `text` stands for the separator between parts of a name.
        """
        patients: Select[Any] = select(literal_column("*")).select_from(table("v_patients"))
        named = patients.where(contains_words(_NAME, text.split())).order_by(_NAME.nulls_first(), column("id"))
        return self._plain(self._connection.execute(named.limit(limit)))
