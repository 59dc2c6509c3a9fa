"""Deletions: remove a study, a series or an instance from the index, and record which files are to be deleted.

One transaction removes the rows and adds a tombstone. After its commit, nothing lists, converts or serves the deleted
instances. Into the trash go files of instances, which stay where they are (`node.index.nouns.trash`); what was made
from them goes at once. An instance that is sent again meanwhile is new: it gets its own file and row, which the
deletion does not touch. (If the rows were removed last, that instance would be acknowledged as already stored, and then
deleted.) If the process dies before the files are gone, the next start finds the unfinished tombstone with their names.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, func, select, update
from sqlalchemy.orm import join

from node.errors import UsageError
from node.index.engine.extension_tables import forget_study
from node.index.engine.rows import ReadRepository
from node.index.engine.writer import IndexRepository, Terms, on_reader, on_writer, reads
from node.index.models.history import ConflictRow, TombstoneRow
from node.index.models.levels import ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.models.work import SentInstanceRow
from node.index.nouns.documents import rebase
from node.index.nouns.emptied import add_tombstone, delete_series_rows, drop_volumes_of
from node.index.nouns.events import forget_images, record_event
from node.index.nouns.instance_files import owe_removals
from node.index.nouns.levels import delete_empty_levels
from node.index.nouns.lost import forget_lost
from node.index.nouns.records import Deletion, DeletionPlan, Level
from node.index.nouns.reopening import reopen
from node.index.nouns.retention import newest_look
from node.index.nouns.trash import Rows, content_of, leaving, put_in_trash
from node.index.nouns.views import DeletionViews
from node.index.work.jobs import after_deletion

MAX_VALUES = 500
"""Values per statement; SQLite allows 32766."""

FOLDERS = frozenset({"objects", "quarantine", "volumes"})
"""Folders below the root in which files may be deleted."""


def is_deletable(path: str) -> bool:
    """Return whether a path, relative to the root, is one that a deletion may remove."""
    parts = PurePath(path).parts
    return len(parts) >= 2 and parts[0] in FOLDERS and ".." not in parts


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
    column = {
        "study": StudyRow.study_instance_uid,
        "series": SeriesRow.series_instance_uid,
        "instance": ImageRow.sop_instance_uid,
    }[level]
    query = (
        select(
            *(ImageRow.id, ImageRow.bytes, SeriesRow.id, StudyRow.id, StudyRow.study_instance_uid),
            *(PatientRow.patient_id, PatientRow.patient_name, StudyRow.accession_number),
        )
        .select_from(join(ImageRow, SeriesRow).join(StudyRow).join(PatientRow))
        .where(column == uid)
    )
    if study_instance_uid is not None:
        query = query.where(StudyRow.study_instance_uid == study_instance_uid)
    rows = connection.execute(query).all()
    sent = query.with_only_columns(SentInstanceRow.destination).distinct().order_by(SentInstanceRow.destination)
    if not rows:
        raise NotThere(f"no {level} {uid} in the index: it may have been deleted; `voxelnode series --uids` lists all")
    if len({row[3] for row in rows}) > 1:
        studies = ", ".join(sorted({row.study_instance_uid for row in rows}))
        raise SeveralSeries(f"series {uid} is in several studies: choose one with --study: {studies}")
    return DeletionPlan(
        level=level,
        uid=uid,
        study_instance_uid=rows[0].study_instance_uid,
        patient_id=rows[0].patient_id or "",
        patient_name=rows[0].patient_name or "",
        accession_number=rows[0].accession_number or "",
        series=len({row[2] for row in rows}),
        instances=len(rows),
        bytes=sum(row.bytes for row in rows),
        sent_to=tuple(connection.scalars(sent.join(SentInstanceRow, SentInstanceRow.image_id == ImageRow.id))),
    )


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
    ) -> Deletion:
        """Remove the rows and add a tombstone that names the files, those of volumes alone if it is for the trash.

        `forgets`: also who somebody has decided that its patients are.
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
        paths = delete_rows(connection, held, plan, now, trash, versions)
        if not paths and not (trash and trash["images"]):
            raise NotThere(f"{plan.level} {plan.uid} has already been deleted")
        forget_lost(connection, plan)
        delete_empty_levels(connection, study_id, forgets=forgets)
        after_deletion(connection, plan.study_instance_uid, now, forgets=trash is None)
        record_event(
            connection,
            "deleted",
            now,
            study_instance_uid=plan.study_instance_uid,
            series_instance_uid=plan.uid if plan.level == "series" else None,
            sop_instance_uid=plan.uid if plan.level == "instance" else None,
            detail=f"{plan.level}, {reason}",
        )
        tombstone = add_tombstone(connection, plan.level, plan.uid, reason, paths, ordered_at)
        deletion = Deletion(
            tombstone, tuple(paths), plan.level, plan.uid, ordered_at, trash is not None, instances, tuple(versions)
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
        rows = connection.execute(select(TombstoneRow).where(TombstoneRow.finished_at.is_(None)))
        return [
            Deletion(
                row.id,
                tuple(row.paths),
                row.level,
                row.uid,
                row.ordered_at,
                went_to_trash=row.trash_until is not None and row.restored_at is None,
            )
            for row in rows
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
    conditions = [ConflictRow.sop_instance_uid.in_(some) for some in _batches(sop_instance_uids)]
    for condition in (*conditions, *([in_scope] if in_scope is not None else [])):
        gone = connection.execute(delete(ConflictRow).where(condition).returning(ConflictRow)).all()
        versions.update(row.sha256 for row in gone if row.sha256 is not None)
        if trash is None:
            keys.update(row.key for row in gone if row.key is not None)
        else:
            trash["conflicts"] = [*trash.get("conflicts", ()), *(dict(row._mapping) for row in gone)]
    return keys


def _batches(values: Collection[str]) -> Iterable[list[str]]:
    rest = list(values)
    return [rest[start : start + MAX_VALUES] for start in range(0, len(rest), MAX_VALUES)]


class ReadDeletions(ReadRepository, DeletionViews):
    """Rows of ``v_deletions``, and plans of further deletions."""

    plan = reads(plan_deletion)

    def plans_of_patient(self, patient_id: str) -> list[DeletionPlan]:
        """Return what a deletion of each study of a patient would remove; no studies, no plans.

        Raises UsageError if several people have the Patient ID.
        """
        studies = select(StudyRow.patient_id, StudyRow.study_instance_uid).join(PatientRow)
        rows = self._connection.execute(studies.where(PatientRow.patient_id == patient_id).order_by(StudyRow.id)).all()
        if len({row.patient_id for row in rows}) > 1:
            raise UsageError("several people have this Patient ID: delete the studies of one of them by their UIDs")
        return [plan_deletion(self._connection, "study", row.study_instance_uid, None) for row in rows]

    def has_deleted(self, *uids: str) -> bool:
        """Return whether any of these UIDs, of any level, was deleted."""
        return any(self._rows("SELECT 1 FROM v_deletions WHERE uid = :uid LIMIT 1", uid=uid) for uid in uids)
