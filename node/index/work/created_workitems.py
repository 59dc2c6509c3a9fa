"""Workitems that have a row: those of clients, and what the node sends and retrieves, and has hooks do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row as Selected
from sqlalchemy import Select, or_, select

from node.dicom.json_model import Json, elements
from node.dicom.unified_steps import FINAL, State
from node.index.engine.rows import PagedRepository, Row
from node.index.engine.sql import Unindexed
from node.index.models import ImageRow, PatientRow, SeriesRow, StudyRow, WorkitemRow
from node.index.work.own_workitems import Kind

_COLUMNS = (
    WorkitemRow.id,
    WorkitemRow.sop_instance_uid,
    WorkitemRow.state,
    WorkitemRow.attributes,
    WorkitemRow.work,
    WorkitemRow.work_of,
    WorkitemRow.work_key,
    WorkitemRow.study_instance_uid,
    WorkitemRow.series_instance_uid,
    StudyRow.accession_number,
    PatientRow.patient_name,
    PatientRow.patient_id.label("current_patient_id"),
    PatientRow.issuer_of_patient_id,
    PatientRow.patient_birth_date,
    PatientRow.patient_sex,
)


@dataclass(frozen=True, slots=True)
class CreatedWorkitem:
    """A workitem that has a row; `attributes` are in the DICOM JSON Model, without its UIDs.

    Attributes
    ----------
    work : str or None
        What the node does; None: a client created the workitem. The attributes from here on are None as well then.
    work_of, work_key : str or None
        See `node.index.work.own_workitems.OwnWork`.
    study_instance_uid, series_instance_uid : str or None
    """

    id: int
    sop_instance_uid: str
    state: State
    attributes: Json
    work: Kind | None = None
    work_of: str | None = None
    work_key: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None


class ReadCreatedWorkitems(PagedRepository):
    """Rows of ``workitems``; see `node.index.database.reading.ReadIndex`."""

    listing = select(
        WorkitemRow.id,
        WorkitemRow.sop_instance_uid,
        WorkitemRow.state,
        WorkitemRow.attributes,
        WorkitemRow.created_by,
        WorkitemRow.created_at,
        WorkitemRow.ended_at,
    ).where(WorkitemRow.work.is_(None))
    """Those of clients."""

    filters = (WorkitemRow.sop_instance_uid, WorkitemRow.state)

    def under_way(self, limit: int) -> list[Row]:
        """Return workitems that somebody performs, the newest first."""
        return self.page(None, limit, state="IN PROGRESS")

    def is_any_under_way(self) -> bool:
        """Return whether somebody performs a workitem."""
        its = select(WorkitemRow.id).where(WorkitemRow.state == "IN PROGRESS", WorkitemRow.work.is_(None)).limit(1)
        return self._connection.execute(its).first() is not None

    def one(self, uid: str) -> CreatedWorkitem | None:
        """Return the workitem with a UID, or None."""
        row = self._connection.execute(_with_patient(_COLUMNS).where(WorkitemRow.sop_instance_uid == uid)).first()
        return None if row is None else _workitem(row)

    def all(
        self, states: Collection[State], uids: Sequence[str] | None = None, patient_id: str | None = None
    ) -> Iterator[CreatedWorkitem]:
        """Yield the workitems in one of `states`: first those that have not ended, then the newest.

        Parameters
        ----------
        uids : sequence of str or None
            Yield only these.
        patient_id : str or None
            Yield only those of this Patient ID.
        """
        query = _with_patient(_COLUMNS).order_by(WorkitemRow.id.desc())
        if uids is not None:
            query = query.where(WorkitemRow.sop_instance_uid.in_(uids))
        if patient_id is not None:
            query = query.where(or_(WorkitemRow.patient_id == patient_id, PatientRow.patient_id == patient_id))
        for is_final in (False, True):
            wanted = [state for state in states if (state in FINAL) == is_final]
            if wanted:
                yield from self._in_states(query, wanted)

    def _in_states(self, query: Select[Any], states: Collection[State]) -> Iterator[CreatedWorkitem]:
        # Without the index on states, SQLite reads backwards, and stops with the reader.
        listed = query.where(Unindexed(WorkitemRow.state).in_(states))
        for row in self._connection.execute(listed):
            yield _workitem(row)

    def instances(self, workitem: CreatedWorkitem, limit: int) -> list[tuple[str, str]]:
        """Return SOP Class and SOP Instance UIDs of at most `limit` instances that a workitem of the node is about."""
        its = [StudyRow.study_instance_uid == workitem.study_instance_uid]
        if workitem.series_instance_uid is not None:
            its.append(SeriesRow.series_instance_uid == workitem.series_instance_uid)
        rows = select(ImageRow.sop_class_uid, ImageRow.sop_instance_uid).join_from(ImageRow, SeriesRow).join(StudyRow)
        ordered = rows.where(*its).order_by(
            SeriesRow.id, ImageRow.instance_number.nulls_first(), ImageRow.sop_instance_uid
        )
        return [(row[0], row[1]) for row in self._connection.execute(ordered.limit(limit))]


def _with_patient(columns: Sequence[Any]) -> Select[Any]:
    return (
        select(*columns)
        .select_from(WorkitemRow)
        .outerjoin(StudyRow, StudyRow.study_instance_uid == WorkitemRow.study_instance_uid)
        .outerjoin(PatientRow, PatientRow.id == StudyRow.patient_id)
    )


def _workitem(row: Selected[Any]) -> CreatedWorkitem:
    attributes = row.attributes if row.work is None else _of_patient(row)
    uids = row.study_instance_uid, row.series_instance_uid
    return CreatedWorkitem(
        row.id, row.sop_instance_uid, row.state, attributes, row.work, row.work_of, row.work_key, *uids
    )


def _of_patient(row: Selected[Any]) -> Json:
    """Return the attributes of a workitem of the node with those of the patient and the request."""
    request = {
        "StudyInstanceUID": row.study_instance_uid,
        "AccessionNumber": row.accession_number,
        "RequestedProcedureID": None,
    }
    known = elements(
        {
            "PatientName": row.patient_name,
            "PatientID": row.current_patient_id,
            "IssuerOfPatientID": row.issuer_of_patient_id,
            "PatientBirthDate": row.patient_birth_date,
            "PatientSex": row.patient_sex,
            "ReferencedRequestSequence": [request],
        }
    )
    return dict(sorted({**row.attributes, **known}.items()))
