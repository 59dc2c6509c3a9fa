"""Deletions: remove a study, a series or an instance from the index, and record which files are to be deleted.

One transaction removes the rows and adds a tombstone. After its commit, nothing lists, converts or serves the deleted
instances. An instance that is sent again meanwhile is new: it gets its own file and row, which the deletion does not
touch. (If the rows were removed last, that instance would be acknowledged as already stored, and then deleted.) If the
process dies before the files are gone, the next start finds the unfinished tombstone with their names.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update
from sqlalchemy.orm import join

from node.errors import UsageError
from node.index.arrivals import revoke_claim
from node.index.conversions import folders_of
from node.index.deliveries import after_deletion
from node.index.events import record_event
from node.index.models import (
    ConflictRow,
    ConversionRow,
    ExclusionRow,
    FailureRow,
    ImageRow,
    PatientRow,
    SeriesRow,
    StudyRow,
    TombstoneRow,
    VolumeRow,
    VolumeSourceRow,
)
from node.index.records import Deletion, DeletionPlan, Level
from node.index.repository import IndexRepository, on_reader, on_writer

MAX_VALUES = 500
"""Values per statement; SQLite allows 32766."""

LIVE = ConversionRow.files_removed_at.is_(None)

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


class DeletionRepository(IndexRepository):
    """Deletions, from the plan until every file is gone."""

    @on_reader
    def plan(
        self, connection: Connection, level: Level, uid: str, study_instance_uid: str | None = None
    ) -> DeletionPlan:
        """Return what a deletion would remove; see `plan_deletion`."""
        return plan_deletion(connection, level, uid, study_instance_uid)

    @on_writer
    def order(self, connection: Connection, plan: DeletionPlan, reason: str, now: dt.datetime) -> Deletion:
        """Remove the rows and add a tombstone that names the files.

        Raises
        ------
        NotThere
            It was deleted after the plan was made.
        """
        study_id = connection.execute(
            select(StudyRow.id).where(StudyRow.study_instance_uid == plan.study_instance_uid)
        ).scalar()
        of_study = select(SeriesRow.id).where(SeriesRow.study_id == study_id)
        if plan.level == "instance":
            paths = _delete_instance(connection, plan, now)
        else:
            if plan.level == "series":
                of_study = of_study.where(SeriesRow.series_instance_uid == plan.uid)
            paths = _delete_series(connection, list(connection.scalars(of_study)), plan)
        if not paths:
            raise NotThere(f"{plan.level} {plan.uid} has already been deleted")
        _delete_empty_levels(connection, study_id)
        after_deletion(connection, plan.study_instance_uid)
        record_event(
            connection,
            "deleted",
            now,
            study_instance_uid=plan.study_instance_uid,
            series_instance_uid=plan.uid if plan.level == "series" else None,
            sop_instance_uid=plan.uid if plan.level == "instance" else None,
            detail=f"{plan.level}, {reason}",
        )
        tombstone = insert(TombstoneRow).values(
            level=plan.level, uid=plan.uid, reason=reason, paths=paths, ordered_at=now
        )
        return Deletion(connection.execute(tombstone.returning(TombstoneRow.id)).scalar_one(), tuple(paths))

    @on_reader
    def unfinished(self, connection: Connection) -> list[Deletion]:
        """Return the deletions whose files may still exist.

        Tombstones of older versions name the folder of all revisions of a series. If the series was sent and converted
        again before the next start, that folder is in use and omitted here; `sweep` removes the old files in it.
        """
        rows = connection.execute(select(TombstoneRow.id, TombstoneRow.paths).where(TombstoneRow.finished_at.is_(None)))
        return [Deletion(row.id, tuple(path for path in row.paths if not _in_use(connection, path))) for row in rows]

    @on_writer
    def finish(self, connection: Connection, deletion: Deletion, now: dt.datetime) -> None:
        """Record that every file of a deletion is gone."""
        connection.execute(update(TombstoneRow).where(TombstoneRow.id == deletion.id).values(finished_at=now))


def plan_deletion(connection: Connection, level: Level, uid: str, study_instance_uid: str | None) -> DeletionPlan:
    """Return what a deletion would remove.

    Parameters
    ----------
    study_instance_uid : str or None
        The study; required if the Series Instance UID occurs in several studies.

    Raises
    ------
    NotThere
    SeveralSeries
        The series is in several studies, and `study_instance_uid` is None.
    """
    column = {
        "study": StudyRow.study_instance_uid,
        "series": SeriesRow.series_instance_uid,
        "instance": ImageRow.sop_instance_uid,
    }[level]
    query = (
        select(
            ImageRow.id, ImageRow.bytes, SeriesRow.id, StudyRow.id, StudyRow.study_instance_uid, PatientRow.patient_id
        )
        .select_from(join(ImageRow, SeriesRow).join(StudyRow).join(PatientRow))
        .where(column == uid)
    )
    if study_instance_uid is not None:
        query = query.where(StudyRow.study_instance_uid == study_instance_uid)
    rows = connection.execute(query).all()
    if not rows:
        raise NotThere(f"no {level} {uid} in the index: it may have been deleted; `voxelnode series` lists all")
    if len({row[3] for row in rows}) > 1:
        studies = ", ".join(sorted({row.study_instance_uid for row in rows}))
        raise SeveralSeries(f"series {uid} is in several studies: choose one with --study: {studies}")
    return DeletionPlan(
        level=level,
        uid=uid,
        study_instance_uid=rows[0].study_instance_uid,
        patient_id=rows[0].patient_id or "",
        series=len({row[2] for row in rows}),
        instances=len(rows),
        bytes=sum(row.bytes for row in rows),
    )


def _in_use(connection: Connection, path: str) -> bool:
    """Return whether a conversion has a volume in this folder."""
    inside = VolumeRow.path.startswith(f"{path}/", autoescape=True)
    return connection.execute(select(VolumeRow.id).join(ConversionRow).where(inside, LIVE).limit(1)).first() is not None


def _delete_series(connection: Connection, series: Sequence[int], plan: DeletionPlan) -> list[str]:
    """Delete whole series with their conversions and failures; return their files, volumes first."""
    images = connection.execute(
        select(ImageRow.sop_instance_uid, ImageRow.key).where(ImageRow.series_id.in_(series)).order_by(ImageRow.key)
    ).all()
    if not images:
        return []
    conversions = list(connection.scalars(select(ConversionRow.id).where(ConversionRow.series_id.in_(series))))
    folders = folders_of(connection.scalars(select(VolumeRow.path).where(VolumeRow.conversion_id.in_(conversions))))
    in_scope = ConflictRow.study_instance_uid == plan.study_instance_uid
    if plan.level == "series":
        in_scope = and_(in_scope, ConflictRow.series_instance_uid == plan.uid)
    losers = _delete_conflicts(connection, [image.sop_instance_uid for image in images], in_scope)
    for table in (VolumeRow, VolumeSourceRow, ExclusionRow):
        connection.execute(delete(table).where(table.conversion_id.in_(conversions)))
    for owned in (ConversionRow, FailureRow, ImageRow):
        connection.execute(delete(owned).where(owned.series_id.in_(series)))
    connection.execute(delete(SeriesRow).where(SeriesRow.id.in_(series)))
    return [*sorted(folders), *sorted(losers), *(image.key for image in images)]


def _delete_instance(connection: Connection, plan: DeletionPlan, now: dt.datetime) -> list[str]:
    """Delete one instance and the volumes made from it. Reopen its series, or delete the series if it is now empty."""
    image = connection.execute(select(ImageRow).where(ImageRow.sop_instance_uid == plan.uid)).first()
    if image is None:
        return []
    others = select(ImageRow.id).where(ImageRow.series_id == image.series_id, ImageRow.id != image.id)
    if connection.execute(others.limit(1)).first() is None:
        return _delete_series(connection, [image.series_id], plan)
    sources = select(VolumeSourceRow.conversion_id).where(VolumeSourceRow.sop_instance_uid == plan.uid)
    holds_it = and_(ConversionRow.series_id == image.series_id, ConversionRow.id.in_(sources))
    folders = folders_of(connection.scalars(select(VolumeRow.path).join(ConversionRow).where(holds_it)))
    losers = _delete_conflicts(connection, [plan.uid])
    connection.execute(update(ConversionRow).where(holds_it, LIVE).values(superseded=True, files_removed_at=now))
    connection.execute(delete(ImageRow).where(ImageRow.id == image.id))
    connection.execute(update(SeriesRow).where(SeriesRow.id == image.series_id).values(arrivals=SeriesRow.arrivals + 1))
    closed = and_(SeriesRow.id == image.series_id, SeriesRow.state.not_in(("receiving", "converting")))
    again = update(SeriesRow).where(closed).values(state="receiving", open_since=now, due_at=now, attempts=0)
    for series_instance_uid in connection.scalars(again.returning(SeriesRow.series_instance_uid)):
        record_event(
            connection,
            "series-reopened",
            now,
            study_instance_uid=plan.study_instance_uid,
            series_instance_uid=series_instance_uid,
            sop_instance_uid=plan.uid,
            detail="an instance was deleted",
        )
    revoke_claim(connection, image.series_id)
    return [*sorted(folders), *sorted(losers), image.key]


def _delete_conflicts(
    connection: Connection, sop_instance_uids: Sequence[str], in_scope: ColumnElement[bool] | None = None
) -> set[str]:
    """Delete the conflicts of the instances, and those in scope; return the keys of the files kept for them."""
    keys: set[str] = set()
    conditions = [ConflictRow.sop_instance_uid.in_(some) for some in _batches(sop_instance_uids)]
    for condition in (*conditions, *([in_scope] if in_scope is not None else [])):
        gone = connection.scalars(delete(ConflictRow).where(condition).returning(ConflictRow.key))
        keys.update(key for key in gone if key is not None)
    return keys


def _delete_empty_levels(connection: Connection, study_id: int | None) -> None:
    """Delete a study without series; then its patient, if left without studies, and patients merged into that one."""
    patient_id = connection.execute(
        delete(StudyRow)
        .where(StudyRow.id == study_id, ~select(SeriesRow.id).where(SeriesRow.study_id == StudyRow.id).exists())
        .returning(StudyRow.patient_id)
    ).scalar()
    if patient_id is None:
        return
    if connection.execute(select(StudyRow.id).where(StudyRow.patient_id == patient_id).limit(1)).first() is None:
        connection.execute(delete(PatientRow).where(PatientRow.merged_into == patient_id))
        connection.execute(delete(PatientRow).where(PatientRow.id == patient_id))


def _batches(values: Collection[str]) -> Iterable[list[str]]:
    rest = list(values)
    return [rest[start : start + MAX_VALUES] for start in range(0, len(rest), MAX_VALUES)]
