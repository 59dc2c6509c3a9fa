"""Stored instances and the location of their bytes, for C-MOVE, C-GET, WADO-RS and storage commitment."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select
from sqlalchemy.orm import aliased, join

from node.dicom.keys import Selection
from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.rows import columns_of
from node.index.engine.sql import listed_in
from node.index.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """A stored instance; its data set starts at byte `data_set_offset` of the file `key`."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    number_of_frames: int | None
    key: str
    data_set_offset: int
    bytes: int
    sha256: str
    rows: int | None


_STORED: Select[*tuple[Any, ...]] = (
    select(*columns_of(StoredInstance, ImageRow, SeriesRow, StudyRow))
    .select_from(join(ImageRow, SeriesRow).join(StudyRow))
    .order_by(SeriesRow.id, ImageRow.instance_number.nulls_first(), ImageRow.id)
)


_IS_THERE = ImageRow.file_missing.is_(False)

_ONE = PreparedStatement(  # a viewer asks for each slice by itself
    _STORED.where(
        _IS_THERE,
        StudyRow.study_instance_uid == bindparam("study"),
        SeriesRow.series_instance_uid == bindparam("series"),
        ImageRow.sop_instance_uid == bindparam("instance"),
    )
)


@dataclass(frozen=True, slots=True)
class Selected:
    """Instances by series and Instance Number; `patient_ids`, by Study Instance UID, are for the audit log."""

    instances: list[StoredInstance]
    patient_ids: dict[str, str]


def stored_instances(
    connection: Connection,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uids: Collection[str] = (),
) -> Iterator[StoredInstance]:
    """Yield the instances that match the given UIDs, by Instance Number; an unset UID matches all instances.

    Instances with a file known to be missing are skipped.
    """
    if study_instance_uid is not None and series_instance_uid is not None and len(sop_instance_uids) == 1:
        (instance,) = sop_instance_uids
        uids = {"study": study_instance_uid, "series": series_instance_uid, "instance": instance}
        yield from (StoredInstance(*row) for row in _ONE.execute(connection, uids).fetchall())
        return
    studies = () if study_instance_uid is None else (study_instance_uid,)
    series = () if series_instance_uid is None else (series_instance_uid,)
    query = _of(_STORED.where(_IS_THERE), studies, series, sop_instance_uids)
    for row in connection.execute(query):
        yield StoredInstance(*row)


def selected_instances(connection: Connection, selection: Selection, limit: int | None = None) -> Selected:
    """Return at most `limit` instances of a selection, including those with a file known to be missing.

    A retrieve reports each instance that it cannot send; skipping one would look like success.
    """
    query = _of(
        _STORED.add_columns(PatientRow.patient_id).join(PatientRow, PatientRow.id == StudyRow.patient_id).limit(limit),
        selection.study_instance_uids,
        selection.series_instance_uids,
        selection.sop_instance_uids,
    )
    if selection.patient_id:
        patient = aliased(PatientRow)
        same = select(func.coalesce(patient.merged_into, patient.id)).where(patient.patient_id == selection.patient_id)
        query = query.where(StudyRow.patient_id.in_(same))
    instances, patient_ids = [], {}
    for *fields, patient_id in connection.execute(query):
        instance = StoredInstance(*fields)
        instances.append(instance)
        patient_ids[instance.study_instance_uid] = patient_id or ""
    return Selected(instances, patient_ids)


def _of(
    query: Select[*tuple[Any, ...]], studies: Collection[str], series: Collection[str], sop_instances: Collection[str]
) -> Select[*tuple[Any, ...]]:
    """Restrict a query to these studies, series and instances; an empty collection does not restrict it.

    Each collection is one parameter of the statement, whatever its length.
    """
    for column, uids in (
        (StudyRow.study_instance_uid, studies),
        (SeriesRow.series_instance_uid, series),
        (ImageRow.sop_instance_uid, sop_instances),
    ):
        if len(uids) == 1:
            query = query.where(column == next(iter(uids)))
        elif uids:
            query = query.where(listed_in(column, uids))
    return query
