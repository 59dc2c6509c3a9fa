"""Patients: merge two that someone has decided are the same person."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, select, update

from node.errors import UsageError
from node.index.backend import backend_of
from node.index.events import record_event
from node.index.models import PatientRow, StudyRow
from node.index.records import PatientMerge
from node.index.repository import IndexRepository, on_writer
from node.index.terms import Terms


class NoSuchPatient(UsageError):
    """No patient matches, or several do."""


class PatientRepository(IndexRepository):
    """The patients of an index."""

    @on_writer
    def merge(
        self, connection: Connection, source: int, target: int, now: dt.datetime, terms: Terms | None = None
    ) -> PatientMerge:
        """Move the studies of patient `source` to patient `target`, including studies that arrive later.

        The row of `source` stays and refers to `target`, so that a new study with its Patient ID is added to `target`.
        The instances themselves do not change.

        Parameters
        ----------
        source, target : int
            `id` of `v_patients`.

        Raises
        ------
        NoSuchPatient
            One of them does not exist or was merged into another patient, or both are the same.
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
