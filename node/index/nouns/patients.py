"""Patients, and the merge of two that someone has decided are the same person."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, column, func, literal_column, select, table, update

from node.errors import UsageError
from node.index.engine.backend import backend_of
from node.index.engine.rows import PagedRepository, Row
from node.index.engine.sql import contains_words, starts_with
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import PatientRow, StudyRow
from node.index.nouns.events import record_event
from node.index.nouns.records import PatientMerge
from node.index.nouns.terms import Terms
from node.index.nouns.views import PatientViews


class NoSuchPatient(UsageError):
    """No patient matches, or several do."""


class PatientRepository(IndexRepository):
    """The patients of an index."""

    @on_writer
    def merge(
        self, connection: Connection, source: int, target: int, now: dt.datetime, terms: Terms | None = None
    ) -> PatientMerge:
        """Move the studies of patient `source` to patient `target`, including studies that are received later.

        The row of `source` stays and refers to `target`, so that a new study with its Patient ID is added to `target`.
        The instances themselves do not change.

        `source`, `target`: `id` of `v_patients`. Raises NoSuchPatient if one of them does not exist or was merged into
        another patient, or both are the same.
        """
        both = select(PatientRow).where(PatientRow.id.in_((source, target)))
        # No other writer adds a study to one of them meanwhile, or merges them the other way round.
        backend_of(connection).hold(connection, [row.identity for row in connection.execute(both)])
        if terms is not None:
            terms.require(connection)
        rows = {row.id: row for row in connection.execute(both)}
        for wanted in (source, target):
            if wanted not in rows:
                raise NoSuchPatient(f"there is no patient #{wanted}")
            if (into := rows[wanted].merged_into) is not None:
                raise NoSuchPatient(f"patient #{wanted} was merged into #{into}: use that number")
        if source == target:
            raise NoSuchPatient(f"#{source} cannot be merged into itself")
        moved = connection.execute(
            update(StudyRow)
            .where(StudyRow.patient_id == source)
            .values(patient_id=target)
            .returning(StudyRow.study_instance_uid)
        )
        studies = tuple(sorted(moved.scalars()))
        connection.execute(update(PatientRow).where(PatientRow.merged_into == source).values(merged_into=target))
        connection.execute(update(PatientRow).where(PatientRow.id == source).values(merged_into=target))
        for uid in studies:
            detail = f"patient #{source} is now #{target}"
            record_event(connection, "patient-merged", now, study_instance_uid=uid, detail=detail)
        merged = PatientMerge(rows[source].patient_id or "", rows[target].patient_id or "", studies)
        if terms is not None:
            terms.fulfil(connection, merged)
        return merged


_NAME: ColumnElement[str] = column("patient_name")


class ReadPatients(PagedRepository, PatientViews):
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
