"""Stored instances and the location of their bytes, for C-MOVE, C-GET, WADO-RS and storage commitment."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, func, or_, select
from sqlalchemy.orm import aliased, join

from node.dicom.attributes import PATIENT
from node.dicom.coercion import Identity
from node.dicom.keys import Selection
from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.rows import columns_of
from node.index.engine.sql import listed_in
from node.index.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """A stored instance; its data set starts at byte `data_set_offset` of the file `key`.

    `identity`: of its patient, if somebody has decided who that is: a copy that leaves has it. None: it is as stored.
    """

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
    columns: int | None
    identity: Identity | None

    @property
    def version(self) -> str:
        """A digest that is another one for other bytes of a copy that leaves."""
        return self.sha256 if self.identity is None else self.identity.version(self.sha256)


IDENTIFIED = case((StudyRow.identified_at.is_not(None), StudyRow.id))
"""In place of an identity, the row of the study if somebody has decided who its patient is; see `Identities`."""


class Identities:
    """The one place that says who the patient of an instance is, for whatever leaves. On one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[int, Identity] = {}

    def of(self, identified: int | None) -> Identity | None:
        """Return the identity that `IDENTIFIED` stands for."""
        if identified is None:
            return None
        if identified not in self._known:
            named = aliased(PatientRow)
            columns = [getattr(PatientRow, attribute.column) for attribute in PATIENT]
            is_corrected = or_(StudyRow.corrected_patient_id.is_not(None), named.id.is_(None), named.is_corrected)
            row = self._connection.execute(
                select(*columns, is_corrected.label("is_corrected"), StudyRow.identified_at)
                .select_from(join(StudyRow, PatientRow, PatientRow.id == StudyRow.patient_id))
                .outerjoin(named, named.id == StudyRow.named_patient_id)
                .where(StudyRow.id == identified)
            ).one()
            self._known[identified] = Identity(
                row.patient_name or "",
                row.patient_id or "",
                row.issuer_of_patient_id or "",
                f"{row.patient_birth_date:%Y%m%d}" if row.patient_birth_date else "",
                (row.patient_birth_time or "").replace(":", ""),
                row.patient_sex or "",
                "CORRECT" if row.is_corrected else "COERCE",
                row.identified_at,
            )
        return self._known[identified]

    def by_study(self) -> dict[str, Identity]:
        """Return all identities that somebody has decided, by Study Instance UID."""
        query = select(StudyRow.study_instance_uid, StudyRow.id).where(StudyRow.identified_at.is_not(None))
        return {uid: identity for uid, row in self._connection.execute(query) if (identity := self.of(row))}


_STORED: Select[*tuple[Any, ...]] = (
    select(*columns_of(StoredInstance, ImageRow, SeriesRow, StudyRow, identity=IDENTIFIED))
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
        yield from _with_identities(connection, _ONE.execute(connection, uids).fetchall())
        return
    studies = () if study_instance_uid is None else (study_instance_uid,)
    series = () if series_instance_uid is None else (series_instance_uid,)
    query = _of(_STORED.where(_IS_THERE), studies, series, sop_instance_uids)
    yield from _with_identities(connection, connection.execute(query))


def _with_identities(connection: Connection, rows: Iterable[Any]) -> Iterator[StoredInstance]:
    identities = Identities(connection)
    for row in rows:
        yield StoredInstance(*(*row[:-1], identities.of(row[-1])))


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
    rows = connection.execute(query).all()
    instances = list(_with_identities(connection, (row[:-1] for row in rows)))
    ids = {instance.study_instance_uid: row[-1] or "" for instance, row in zip(instances, rows, strict=True)}
    return Selected(instances, ids)


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
