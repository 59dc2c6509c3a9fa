"""The files of instances, versions that lost and volumes, by their rows; and the patient whom a leaving copy names."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, func, literal, or_, select, union_all
from sqlalchemy.orm import aliased, join

from node.dicom.attributes import PATIENT
from node.dicom.coercion import Identity
from node.dicom.keys import Selection
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import HAS_FILE, ConflictRow, ConversionRow, RevisionFileRow, TrashRow, VolumeRow
from node.index.rows.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.rows.models.work import HostRemovalRow, ObjectRemovalRow
from node.index.rows.records import InstanceFile, RevisionFile
from node.index.rows.repositories import columns_of
from node.index.rows.sql import listed_in, looked_up_in


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


@dataclass(frozen=True, slots=True)
class VolumeFile(RevisionFile):
    """A file of a revision that should exist, with that revision. `data_set_offset`: all of its bytes are compared."""

    data_set_offset: ClassVar[int] = 0
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    revision: int = 0
    superseded: bool = False


REVISION_FILES = select(*columns_of(RevisionFile, RevisionFileRow, holder=RevisionFileRow.spool_host))


def revision_files(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[RevisionFile]:
    """Return the rows of a query for `REVISION_FILES`."""
    return [RevisionFile(*row) for row in connection.execute(query)]


def revision_file(connection: Connection, path: str) -> RevisionFile | None:
    """Return a file of a revision by its path, if its place is noted; see `RevisionFileRow`."""
    return next(iter(revision_files(connection, REVISION_FILES.where(RevisionFileRow.key == path))), None)


def volume_files(
    connection: Connection, after: str = "", limit: int | None = None, since: int = 0
) -> Iterator[VolumeFile]:
    """Yield every file of a revision that should exist and has a digest, sorted by path: of all, or behind a path.

    `since`: leave out conversions up to this one, by its id.

    Where there is an object store, those are all files; elsewhere, what lies beside a volume is not in the index.
    """
    newer = (ConversionRow.id > since,) if since else ()  # else, SQLite would not go by the paths
    rows = VolumeRow, RevisionFileRow, ConversionRow, SeriesRow, StudyRow
    columns = columns_of(VolumeFile, *rows, key=VolumeRow.path, holder=RevisionFileRow.spool_host)
    volumes = (
        select(*columns)
        .select_from(join(VolumeRow, ConversionRow).join(SeriesRow).join(StudyRow))
        .outerjoin(RevisionFileRow, RevisionFileRow.key == VolumeRow.path)
        .where(ConversionRow.files_removed_at.is_(None), *newer, VolumeRow.path > after)
    )
    beside = (
        select(*REVISION_FILES.selected_columns, *columns[len(RevisionFile.__match_args__) :])
        .select_from(join(RevisionFileRow, ConversionRow).join(SeriesRow).join(StudyRow))
        .where(
            *newer,
            RevisionFileRow.key > after,
            ~select(VolumeRow.id)
            .where(VolumeRow.path == RevisionFileRow.key, VolumeRow.conversion_id == ConversionRow.id)
            .exists(),
        )
    )
    for row in connection.execute(union_all(volumes, beside).order_by("path").limit(limit)):
        yield VolumeFile(*row)


def folders_of(paths: Iterable[str]) -> set[str]:
    """Return the folders of files of conversions: each conversion has one of its own."""
    return {path.rpartition("/")[0] for path in paths}


FILES: Select[*tuple[Any, ...]] = select(*columns_of(InstanceFile, ImageRow, holder=ImageRow.spool_host))


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that is kept under a SOP Instance UID: the current version, or a version that lost against it.

    The length and the offset of a loser are not in the index. `holder` is the only host that has the file.
    """

    key: str
    sha256: str
    data_set_offset: int | None = None
    bytes: int | None = None
    file_missing: bool = False
    place: str | None = None
    holder: str | None = None


def named_keys(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return those of `keys` that rows name: of images, of conflicts, or of the trash."""
    images = connection.scalars(select(ImageRow.key).where(ImageRow.key.in_(keys)))
    conflicts = connection.scalars(select(ConflictRow.key).where(ConflictRow.key.in_(keys)))
    trashed = connection.scalars(select(TrashRow.key).where(TrashRow.key.in_(keys)))
    return {*images, *(key for key in (*conflicts, *trashed) if key is not None)}


def unknown_keys(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Return those of `keys` that no row names: of images, of conflicts, or of objects to be removed."""
    removals = connection.scalars(select(ObjectRemovalRow.key).where(ObjectRemovalRow.key.in_(keys)))
    local = connection.scalars(select(HostRemovalRow.path).where(HostRemovalRow.path.in_(keys)))
    named = {*named_keys(connection, keys), *removals, *local}
    return [key for key in keys if key not in named]


def instance_files(
    connection: Connection, folder: str | None = None, after: str | None = None, limit: int | None = None
) -> Iterator[InstanceFile]:
    """Yield the files of instances in the order of their keys: of all, of one folder, or of `limit` behind a key."""
    query = FILES.order_by(ImageRow.key)
    if folder is not None:
        query = query.where(ImageRow.key > f"{folder}/", ImageRow.key < f"{folder}0")  # "0" follows "/"
    if after is not None:
        query = query.where(ImageRow.key > after)
    for row in connection.execute(query.limit(limit)):
        yield InstanceFile(*row)


def current_files(connection: Connection, sop_instance_uids: Collection[str]) -> list[InstanceFile]:
    """Return the current files of those of some instances that have one, in any order."""
    found = connection.execute(FILES.where(looked_up_in(ImageRow.sop_instance_uid, sop_instance_uids)))
    return [InstanceFile(*row) for row in found]


def current_file(connection: Connection, sop_instance_uid: str) -> InstanceFile | None:
    """Return the current file of an instance, or None."""
    row = connection.execute(FILES.where(ImageRow.sop_instance_uid == sop_instance_uid)).first()
    return None if row is None else InstanceFile(*row)


def losers(connection: Connection, sop_instance_uids: Collection[str] | None = None) -> list[HeldFile]:
    """Return the files that lost, have a digest and are not known to be damaged: of all instances, or of some."""
    query = select(ConflictRow.key, ConflictRow.sha256, ConflictRow.host).where(*HAS_FILE)
    if sop_instance_uids is not None:
        query = query.where(ConflictRow.sop_instance_uid.in_(sop_instance_uids))
    return [HeldFile(row.key or "", row.sha256 or "", holder=row.host) for row in connection.execute(query)]


def wanted_files(connection: Connection, keys: Sequence[str]) -> Iterator[HeldFile]:
    """Yield the files with these keys that are kept: also of versions that lost, and in the trash.

    Only those of instances have an offset. The digest of a file that no row knows is empty.
    """
    held = columns_of(HeldFile, ImageRow, holder=ImageRow.spool_host)
    for row in connection.execute(select(*held).where(ImageRow.key.in_(keys))):
        yield HeldFile(*row)
    lost = select(ConflictRow.key, ConflictRow.sha256).where(ConflictRow.key.in_(keys))
    for row in connection.execute(lost.where(ConflictRow.sha256.is_not(None))):
        yield HeldFile(row.key or "", row.sha256 or "")
    trashed = select(TrashRow.key, TrashRow.bytes, TrashRow.content).where(TrashRow.key.in_(keys))
    for key, size, content in connection.execute(trashed.where(TrashRow.kind.in_(("images", "conflicts")))):
        yield HeldFile(key, content["sha256"] or "", bytes=size or None)


def volumes_in_trash(connection: Connection) -> set[str]:
    """Return the folders of revisions that are in the trash."""
    folders = connection.scalars(select(TrashRow.key).where(TrashRow.kind == "volumes"))
    return {folder for folder in folders if folder is not None}


def loser_keys(connection: Connection, host: str | None = None) -> set[str]:
    """Return the keys of the files that lost against another file of their SOP Instance UID; some are in the trash.

    `host`: leave out those that only another host has.
    """
    query = select(ConflictRow.key).where(ConflictRow.key.is_not(None)).distinct()
    if host is not None:
        query = query.where(or_(ConflictRow.host.is_(None), ConflictRow.host == host))
    trashed = select(TrashRow.key).where(TrashRow.kind == "conflicts", TrashRow.key.is_not(None))
    if host is not None:
        trashed = trashed.where(or_(TrashRow.holder.is_(None), TrashRow.holder == host))
    keys = connection.scalars(query)
    return {*(key for key in keys if key is not None), *connection.scalars(trashed)}


_NAME_LENGTH = len("0123456789abcdef0123456789abcdef.dcm")


def aside_of_order() -> ColumnElement[str]:
    """Return the key that the object of an order has in quarantine, if a conflict wants it there."""
    name = func.substr(ObjectRemovalRow.key, func.length(ObjectRemovalRow.key) - _NAME_LENGTH + 1)
    return literal("quarantine/") + name
