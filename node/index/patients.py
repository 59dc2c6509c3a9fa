"""Patients: merge two that a person has decided are the same."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, select, update

from node.errors import UsageError
from node.index.events import record_event
from node.index.models import PatientRow, StudyRow
from node.index.records import PatientMerge
from node.index.repository import IndexRepository, on_writer


class NoSuchPatient(UsageError):
    """The index holds no such patient, or several of them."""


class PatientRepository(IndexRepository):
    """The patients of an index."""

    @on_writer
    def merge(self, connection: Connection, source: int, target: int, now: dt.datetime) -> PatientMerge:
        """Give the studies of patient `source` to patient `target`, now and whenever more of them arrive.

        The row of `source` stays and names `target`, so that a study that arrives under its Patient ID becomes one of
        `target`. The instances themselves do not change.

        Parameters
        ----------
        source, target : int
            `id` of `v_patients`.

        Raises
        ------
        NoSuchPatient
            One of them is not there, was merged into another one, or they are the same.
        """
        both = select(PatientRow).where(PatientRow.id.in_((source, target)))
        rows = {row.id: row for row in connection.execute(both)}
        for wanted in (source, target):
            if wanted not in rows:
                raise NoSuchPatient(f"there is no patient #{wanted}")
            if (into := rows[wanted].merged_into) is not None:
                raise NoSuchPatient(f"patient #{wanted} was merged into #{into}: name that one")
        if source == target:
            raise NoSuchPatient(f"#{source} is one patient already")
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
        return PatientMerge(rows[source].patient_id or "", rows[target].patient_id or "", studies)
