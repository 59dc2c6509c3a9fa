"""Deletions: remove a study, a series or an instance from the index, and record which files are to be deleted.

One transaction removes the rows and adds a tombstone. After its commit, nothing lists, converts or serves the deleted
instances. Into the trash go files of instances, which stay where they are (`node.index.rules.custody.trash`); what was
made from them goes at once. An instance that is sent again meanwhile is new: it gets its own file and row, which the
deletion does not touch. (If the rows were removed last, that instance would be acknowledged as already stored, and then
deleted.) If the process dies before the files are gone, the next start finds the unfinished tombstone with their names.
"""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, and_, delete, func, or_, select, union, update
from sqlalchemy.orm import join

from node.errors import UsageError
from node.index.rows.extension_tables import every_table, forget_study
from node.index.rows.files import folders_of
from node.index.rows.models.history import (
    ConflictRow,
    ConversionRow,
    EventRow,
    FailureRow,
    LostInstanceRow,
    RevisionFileRow,
    TombstoneRow,
    TrashRow,
    VolumeRow,
)
from node.index.rows.models.levels import ImageRow, PatientRow, SeriesRow, StatementRow, StudyRow
from node.index.rows.models.work import OwedEventRow, OwedImageRow, ResultRow, WorkRow
from node.index.rows.records import UIDS, Deletion, DeletionPlan, Level
from node.index.rows.repositories import IndexRepository, Terms, on_reader, on_writer, reads
from node.index.rows.sql import insert, looked_up_in
from node.index.rules.custody.leaving import (
    add_tombstone,
    conversions_holding,
    delete_series_rows,
    drop_volumes_of,
    newest_look,
)
from node.index.rules.custody.lost import of_plan
from node.index.rules.intake.documents import rebase
from node.index.rules.intake.levels import delete_empty_levels
from node.index.rules.intake.stated import person_below, settle, settle_person
from node.index.rules.series.reopening import reopen
from node.index.rules.work.deliveries import CHANGES
from node.index.rules.work.events import forget_images, owe_removals, record_event
from node.index.rules.work.messages import after_deletion

FOLDERS = frozenset({"objects", "quarantine", "volumes"})
"""Folders below the root in which files may be deleted."""


def is_deletable(path: str) -> bool:
    """Return whether a path, relative to the root, is one that a deletion may remove."""
    parts = PurePath(path).parts
    return len(parts) >= 2 and parts[0] in FOLDERS and ".." not in parts


FILES = "images", "conflicts"
"""Tables whose rows name a file of an instance."""

NAMING = (*FILES, "volumes")
"""Tables whose rows name what is removed with them: files of instances, and folders of revisions."""

_BY_VALUE: Mapping[Any, Any] = {
    OwedImageRow.__table__.c.image_id: ImageRow.__table__.c.id,
    StatementRow.__table__.c.number: ImageRow.__table__.c.stated,
    ResultRow.__table__.c.sop_instance_uid: ImageRow.__table__.c.sop_instance_uid,
}
"""Columns that name a row of another table by a column of it, without a foreign key."""

_NOT_KEPT = frozenset({"open_associations", "project_series"})
"""Tables whose rows are not those of the deleted: an association ends meanwhile, and projects say what is in them now.
"""

PERSON_COLUMNS = StudyRow.patient_id, StudyRow.named_patient_id, StudyRow.corrected_patient_id

Rows = Sequence[dict[str, Any]]


class NotThere(UsageError):
    """The study, series or instance is not in the index."""


class SeveralSeries(UsageError):
    """The Series Instance UID occurs in several studies: name the study too."""


def plan_deletion(
    connection: Connection, level: Level, uid: str, study_instance_uid: str | None = None
) -> DeletionPlan:
    """Return what a deletion would remove.

    `study_instance_uid`: the study; required if the Series Instance UID occurs in several studies. Raises SeveralSeries
    if the series is in several studies, and `study_instance_uid` is None.
    """
    row = {"study": StudyRow, "series": SeriesRow, "instance": ImageRow}[level]
    query = (
        select(ImageRow.bytes, SeriesRow.id.label("series"), StudyRow.id.label("study"), StudyRow.study_instance_uid)
        .add_columns(PatientRow.patient_id, PatientRow.patient_name, StudyRow.accession_number)
        .select_from(join(ImageRow, SeriesRow).join(StudyRow).join(PatientRow))
        .where(row.__table__.c[UIDS[level]] == uid)
    )
    if study_instance_uid is not None:
        query = query.where(StudyRow.study_instance_uid == study_instance_uid)
    rows = connection.execute(query).all()
    if not rows:
        raise NotThere(f"no {level} {uid} in the index: it may have been deleted; `voxelnode series --uids` lists all")
    if len({row.study for row in rows}) > 1:
        studies = ", ".join(sorted({row.study_instance_uid for row in rows}))
        raise SeveralSeries(f"series {uid} is in several studies: choose one with --study: {studies}")
    known = {name: getattr(rows[0], name) or "" for name in ("patient_id", "patient_name", "accession_number")}
    return DeletionPlan(
        level, uid, rows[0].study_instance_uid, **known,
        series=len({row.series for row in rows}), instances=len(rows), bytes=sum(row.bytes for row in rows),
    )  # fmt: skip


def plans_of_patient(connection: Connection, patient_id: str) -> list[DeletionPlan]:
    """Return what a deletion of each study of a patient would remove; no studies, no plans.

    Raises UsageError if several people have the Patient ID.
    """
    studies = select(StudyRow.patient_id, StudyRow.study_instance_uid).join(PatientRow)
    rows = connection.execute(studies.where(PatientRow.patient_id == patient_id).order_by(StudyRow.id)).all()
    if len({row.patient_id for row in rows}) > 1:
        raise UsageError("several people have this Patient ID: delete the studies of one of them by their UIDs")
    return [plan_deletion(connection, "study", row.study_instance_uid, None) for row in rows]


class DeletionRepository(IndexRepository):
    """Deletions, from the plan until every file is gone."""

    plan = reads(plan_deletion)

    @on_writer
    def order(
        self,
        connection: Connection,
        plan: DeletionPlan,
        reason: str,
        now: dt.datetime,
        terms: Terms | None = None,
        trash_until: dt.datetime | None = None,
        *,
        forgets: bool = False,
        listed: str | None = None,
    ) -> Deletion:
        """Remove the rows and add a tombstone that names the files, those of volumes alone if it is for the trash.

        `forgets`: also who somebody has decided that its patients are. `listed`: see `Deletion`.
        Raises NotThere if it was deleted after the plan was made.
        """
        study_id = connection.execute(
            select(StudyRow.id).where(StudyRow.study_instance_uid == plan.study_instance_uid)
        ).scalar()
        series = select(SeriesRow.id).where(SeriesRow.study_id == study_id)
        is_it = ImageRow.sop_instance_uid == plan.uid
        if plan.level == "series":
            series = series.where(SeriesRow.series_instance_uid == plan.uid)
        elif plan.level == "instance":
            series = select(SeriesRow.id).join(ImageRow, ImageRow.series_id == SeriesRow.id).where(is_it)
        held = _hold(connection, series)
        if terms is not None:
            if plan.level == "instance":  # no other writer replaces it
                connection.execute(select(ImageRow.id).where(is_it).with_for_update())
            terms(connection)
        received = select(func.max(ImageRow.received_at), func.count()).where(
            is_it if plan.level == "instance" else ImageRow.series_id.in_(held)
        )
        last, instances = connection.execute(received).one()
        ordered_at = max(now, last or now)  # the clock of another host may be ahead
        delete_rows = _delete_instance if plan.level == "instance" else _delete_series
        trash: Trash = None
        if trash_until is not None:
            trash_until += max(now, newest_look(connection) or now) - now  # the clock may be behind
            uids = select(SeriesRow.series_instance_uid).where(SeriesRow.id.in_(held))
            series_uid = connection.scalar(uids) if plan.level != "study" else None
            content = content_of(connection, plan.study_instance_uid, series_uid)
            others = ImageRow.series_id.in_(held), ImageRow.sop_instance_uid != plan.uid
            content["stays"] = plan.level == "instance" and _any(connection, *others)
            trash = leaving(connection, plan, held, stays=content["stays"])
        versions: set[str] = set()
        person, stated = person_below(connection, study_id)
        paths = delete_rows(connection, held, plan, now, trash, versions)
        if not paths and not (trash and trash["images"]):
            raise NotThere(f"{plan.level} {plan.uid} has already been deleted")
        connection.execute(delete(LostInstanceRow).where(*of_plan(plan)))
        delete_empty_levels(connection, study_id, forgets=forgets)
        if study_id is not None and person is not None:
            settle(connection, study_id, now)
            settle_person(connection, person, stated)
        after_deletion(connection, plan.study_instance_uid, now, forgets=trash is None)
        about: dict[str, Any] = {UIDS[plan.level]: plan.uid, "study_instance_uid": plan.study_instance_uid}
        record_event(connection, "deleted", now, detail=f"{plan.level}, {reason}", **about)
        tombstone = add_tombstone(connection, plan.level, plan.uid, reason, paths, ordered_at, listed)
        deletion = Deletion(
            tombstone, tuple(paths), plan.level, plan.uid, listed, trash is not None, instances, tuple(versions)
        )
        if trash is not None:
            in_trash = update(TombstoneRow).where(TombstoneRow.id == tombstone)
            connection.execute(in_trash.values(trash_until=trash_until, content=content))
            put_in_trash(connection, tombstone, trash)
        else:
            forget_study(connection, plan.study_instance_uid)
        return deletion

    @on_reader
    def unfinished(self, connection: Connection) -> list[Deletion]:
        """Return the deletions whose files may still exist."""
        went_to_trash = and_(TombstoneRow.trash_until.is_not(None), TombstoneRow.restored_at.is_(None))
        unfinished = select(TombstoneRow.__table__, went_to_trash.label("went_to_trash"))
        rows = connection.execute(unfinished.where(TombstoneRow.finished_at.is_(None)))
        return [
            Deletion(row.id, tuple(row.paths), row.level, row.uid, row.listed, bool(row.went_to_trash)) for row in rows
        ]

    @on_reader
    def deleted_among(self, connection: Connection, keys: Collection[str]) -> set[str]:
        """Return those of `keys` that a deletion has named; reads all deletions if there are any keys."""
        if not keys:
            return set()
        wanted = set(keys)
        return {path for paths in connection.scalars(select(TombstoneRow.paths)) for path in paths if path in wanted}

    def deleted_by_others(self, keys: Collection[str]) -> set[str]:
        """Return those of `keys` that another host may have deleted, which could not remove them from this disk."""
        return set() if self._sharing.holder is None else self.deleted_among(keys)

    @on_writer
    def finish(self, connection: Connection, deletion: Deletion, now: dt.datetime) -> None:
        """Record that every file of a deletion is gone."""
        connection.execute(update(TombstoneRow).where(TombstoneRow.id == deletion.id).values(finished_at=now))


def _hold(connection: Connection, series: Select[int]) -> list[int]:
    """Return the ids of series. Until the end of the transaction, no other writer adds an instance to one of them.

    Without that, an instance could be committed between the SELECT that names the files and the DELETE of the rows.
    """
    return list(connection.scalars(series.order_by(SeriesRow.id).with_for_update(of=SeriesRow)))


def _any(connection: Connection, *which: ColumnElement[bool]) -> bool:
    return connection.execute(select(ImageRow.id).where(*which).limit(1)).first() is not None


Trash = dict[str, Rows] | None
"""The rows that go to the trash, by their tables; None: the files are removed at once."""


def _delete_series(
    connection: Connection,
    series: Sequence[int],
    plan: DeletionPlan,
    now: dt.datetime,
    trash: Trash,
    versions: set[str],
) -> list[str]:
    """Delete whole series with their conversions and failures; return their files, volumes first.

    `versions`: gets the digests of the versions in conflicts that go with them.
    """
    images = connection.execute(
        select(ImageRow.sop_instance_uid, ImageRow.key).where(ImageRow.series_id.in_(series)).order_by(ImageRow.key)
    ).all()
    if not images:
        return []
    in_scope = ConflictRow.study_instance_uid == plan.study_instance_uid
    if plan.level == "series":
        in_scope = and_(in_scope, ConflictRow.series_instance_uid == plan.uid)
    uids = [image.sop_instance_uid for image in images]
    losers = _delete_conflicts(connection, uids, trash, versions, in_scope)
    folders = delete_series_rows(connection, series, now, keeps_files=trash is not None)
    return [*folders, *sorted(losers), *(image.key for image in images if trash is None)]


def _delete_instance(
    connection: Connection,
    series: Sequence[int],
    plan: DeletionPlan,
    now: dt.datetime,
    trash: Trash,
    versions: set[str],
) -> list[str]:
    """Delete one instance and the volumes made from it. Reopen its series, or delete the series if it is now empty."""
    is_it = ImageRow.sop_instance_uid == plan.uid
    image = connection.execute(select(ImageRow).where(is_it, ImageRow.series_id.in_(series))).first()
    if image is None:
        return []
    if not _any(connection, ImageRow.series_id == image.series_id, ImageRow.id != image.id):
        return _delete_series(connection, [image.series_id], plan, now, trash, versions)
    folders = drop_volumes_of(connection, image.series_id, plan.uid, now, keeps_files=trash is not None)
    losers = _delete_conflicts(connection, [plan.uid], trash, versions)
    if trash is None:
        owe_removals(connection, ImageRow.id == image.id, now)
    forget_images(connection, ImageRow.id == image.id)
    connection.execute(delete(ImageRow).where(ImageRow.id == image.id))
    rebase(connection, image.series_id)
    reopen(connection, image.series_id, plan.study_instance_uid, plan.uid, now, "an instance was deleted")
    return [*folders, *sorted(losers), *([image.key] if trash is None else [])]


def _delete_conflicts(
    connection: Connection,
    sop_instance_uids: Sequence[str],
    trash: Trash,
    versions: set[str],
    in_scope: ColumnElement[bool] | None = None,
) -> set[str]:
    """Delete the conflicts of the instances, and those in scope; return the keys of the files that go with them."""
    keys: set[str] = set()
    of_instances = looked_up_in(ConflictRow.sop_instance_uid, sop_instance_uids)
    for condition in (of_instances, *([in_scope] if in_scope is not None else [])):
        gone = connection.execute(delete(ConflictRow).where(condition).returning(ConflictRow)).all()
        versions.update(row.sha256 for row in gone if row.sha256 is not None)
        if trash is None:
            keys.update(row.key for row in gone if row.key is not None)
        else:
            trash["conflicts"] = [*trash.get("conflicts", ()), *(dict(row._mapping) for row in gone)]
    return keys


def content_of(connection: Connection, study_instance_uid: str, series_instance_uid: str | None) -> dict[str, Any]:
    """Return what people know a study by; it is kept while the study, or a part of it, is in the trash.

    `series_instance_uid`: of a deletion of a series or of an instance.
    """
    row = connection.execute(
        select(
            *(PatientRow.patient_id, PatientRow.patient_name),
            *(StudyRow.study_date, StudyRow.study_description, StudyRow.accession_number),
        )
        .join(StudyRow, StudyRow.patient_id == PatientRow.id)
        .where(StudyRow.study_instance_uid == study_instance_uid)
    ).first()
    known = {name: _encoded(value) for name, value in row._mapping.items()} if row is not None else {}
    return {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid, **known}


def put_in_trash(connection: Connection, deletion: int, rows: Mapping[str, Rows]) -> None:
    """Add rows to the trash, by their tables."""
    gone = {row["id"] for row in rows.get("conversions", ()) if row["files_removed_at"] is not None}
    values = [
        {"deletion": deletion, "kind": kind, **_file_of(kind, row, gone)}
        | {"content": {name: _encoded(value) for name, value in row.items()}}
        for kind, of_kind in rows.items()
        for row in of_kind
    ]
    if values:
        connection.execute(insert(TrashRow), values)


def _file_of(kind: str, row: dict[str, Any], gone: Collection[int]) -> dict[str, Any]:
    """Return the columns of the trash about the file of a row; an earlier deletion has those of conversions in `gone`.

    A series is looked up by its UID.
    """
    key = row["key"] if kind in (*FILES, "revision_files") else row["series_instance_uid"] if kind == "series" else None
    if kind == "volumes":
        [key] = folders_of([row["path"]])
    return {
        "key": None if row.get("conversion_id") in gone else key,
        "bytes": row["bytes"] if kind in ("images", "volumes") else 0,
        "place": row["place"] if kind in ("images", "revision_files") else None,
        "holder": row.get("spool_host", row.get("host")) if kind in FILES else None,
    }


def leaving(connection: Connection, plan: DeletionPlan, series: Sequence[int], *, stays: bool) -> dict[str, Rows]:
    """Return the rows that a deletion is about to remove or to change, by their tables; without those of conflicts.

    `stays`: the series of a deleted instance has others: it stays, and is converted without it.
    """
    of_series = SeriesRow.id.in_(series)
    study = StudyRow.id.in_(select(SeriesRow.study_id).where(of_series))
    persons = (
        union(*(select(column).where(study, column.is_not(None)) for column in PERSON_COLUMNS)).subquery().select()
    )
    which: dict[str, ColumnElement[bool]] = {
        "patients": or_(PatientRow.id.in_(persons), PatientRow.merged_into.in_(persons)),
        "studies": study,
        "series": of_series,
        "images": ImageRow.sop_instance_uid == plan.uid if stays else ImageRow.series_id.in_(series),
        **_pending(plan),
    }
    followed = {"images"} if stays else set(which)
    if stays:  # the other revisions keep their files
        holding = conversions_holding(series[0], plan.uid)
        which |= {row.__tablename__: row.series_id.in_(series) for row in (ConversionRow, FailureRow)}
        which |= {row.__tablename__: row.conversion_id.in_(holding) for row in (VolumeRow, RevisionFileRow)}
    found: dict[str, Rows] = {}
    for name, table in every_table().items():
        if name not in which and name not in _NOT_KEPT:
            above = [(column, other) for column, other, goes in references_of_table(table) if goes]
            above = [(column, other) for column, other in above if other.table.name in followed]
            below = [column.in_(select(other).where(which[other.table.name])) for column, other in above]
            if below:
                which[name] = or_(*below)
                followed.add(name)
        if name in which:
            found[name] = [dict(row) for row in connection.execute(select(table).where(which[name])).mappings()]
    return found


def _pending(plan: DeletionPlan) -> dict[str, ColumnElement[bool]]:
    """Return what is lost, owed to subscribers and worked on of what is deleted."""
    work, events = (
        (row.study_instance_uid == plan.study_instance_uid, getattr(row, UIDS[plan.level]) == plan.uid)
        for row in (WorkRow, EventRow)
    )
    return {
        "lost_instances": and_(*of_plan(plan)),
        "owed_events": OwedEventRow.event_id.in_(select(EventRow.id).where(*events, EventRow.kind.not_in(CHANGES))),
        "work": and_(*work, WorkRow.outcome.is_(None), WorkRow.kind.in_(("hook", "route", "job"))),
    }


def references_of_table(table: Table) -> list[tuple[Column[Any], Column[Any], bool]]:
    """Return the columns of a table that name a row of another one, how, and whether a row goes with the other one."""
    named = [(key.parent, key.column, key.ondelete != "SET NULL") for key in table.foreign_keys]
    by_value = {column: other for column, other in _BY_VALUE.items() if column.table is table}
    return named + [(column, other, True) for column, other in by_value.items()]


def _encoded(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value
