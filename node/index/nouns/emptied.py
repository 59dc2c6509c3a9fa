"""What goes with an instance that leaves its series: volumes that contain it, the series if it is empty then, files.

It leaves when it is deleted, and when another version takes its place or moves it to another study.
"""

import datetime as dt
from collections.abc import Sequence

from sqlalchemy import Connection, Select, delete, select, update

from node.index.engine.sql import insert
from node.index.models.history import (
    ConversionRow,
    ExclusionRow,
    FailureRow,
    RevisionFileRow,
    TombstoneRow,
    VolumeRow,
    VolumeSourceRow,
)
from node.index.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.nouns.events import forget_images
from node.index.nouns.instance_files import folders_of, owe_files, owe_host_removals, owe_removals
from node.index.nouns.levels import delete_empty_levels
from node.index.nouns.reopening import delete_references, reopen
from node.index.nouns.verdicts import judge_doubted
from node.index.work.jobs import after_deletion

LIVE = ConversionRow.files_removed_at.is_(None)


def leave_series(connection: Connection, series_id: int, sop_instance_uid: str, now: dt.datetime, detail: str) -> None:
    """Let an instance leave a series, after its row names another one.

    The volumes that contain the instance are deleted, and the series is converted without it. A series that is empty
    then is deleted with its study and patient, if these are empty. A tombstone names the files.
    """
    series = connection.execute(
        select(SeriesRow.study_id, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
        .join(StudyRow)
        .where(SeriesRow.id == series_id)
        .with_for_update(of=SeriesRow)  # no other writer adds an instance to one that may be deleted
    ).one()
    if connection.execute(select(ImageRow.id).where(ImageRow.series_id == series_id).limit(1)).first() is None:
        folders = delete_series_rows(connection, [series_id], now)
        delete_empty_levels(connection, series.study_id)
        after_deletion(connection, series.study_instance_uid, now)
    else:
        folders = drop_volumes_of(connection, series_id, sop_instance_uid, now)
        reopen(connection, series_id, series.study_instance_uid, sop_instance_uid, now, detail)
    if folders:
        add_tombstone(connection, "instance", sop_instance_uid, detail, folders, now)


def conversions_holding(series_id: int, sop_instance_uid: str) -> Select[int]:
    """Select the conversions of a series whose files contain an instance, and exist."""
    sources = select(VolumeSourceRow.conversion_id).where(VolumeSourceRow.sop_instance_uid == sop_instance_uid)
    return select(ConversionRow.id).where(ConversionRow.series_id == series_id, ConversionRow.id.in_(sources), LIVE)


def drop_volumes_of(
    connection: Connection, series_id: int, sop_instance_uid: str, now: dt.datetime, *, keeps_files: bool = False
) -> list[str]:
    """Supersede the conversions of a series that contain an instance; return the folders that are to be deleted.

    `keeps_files`: they are in the trash.
    """
    holding = list(connection.scalars(conversions_holding(series_id, sop_instance_uid)))
    folders = folders_of(connection.scalars(select(VolumeRow.path).where(VolumeRow.conversion_id.in_(holding))))
    of_files = RevisionFileRow.conversion_id.in_(holding)
    if keeps_files:
        connection.execute(delete(RevisionFileRow).where(of_files))
    else:
        owe_files(connection, of_files, now)
    gone = {"superseded": True, "owes_sidecars": 0, "files_removed_at": now}
    connection.execute(update(ConversionRow).where(ConversionRow.id.in_(holding)).values(gone))
    return [] if keeps_files else sorted(folders)


def delete_series_rows(
    connection: Connection, series: Sequence[int], now: dt.datetime, *, keeps_files: bool = False
) -> list[str]:
    """Delete series with their instances, conversions and failures; return the folders of their volumes.

    What is left of their studies is judged again.

    `keeps_files`: they are in the trash, and no folder is to be deleted.
    """
    delete_references(connection, series, now)
    conversions = list(connection.scalars(select(ConversionRow.id).where(ConversionRow.series_id.in_(series))))
    folders = folders_of(connection.scalars(select(VolumeRow.path).where(VolumeRow.conversion_id.in_(conversions))))
    if not keeps_files:
        owe_files(connection, RevisionFileRow.conversion_id.in_(conversions), now)
        owe_removals(connection, ImageRow.series_id.in_(series), now)
    for table in (VolumeRow, VolumeSourceRow, ExclusionRow, RevisionFileRow):
        connection.execute(delete(table).where(table.conversion_id.in_(conversions)))
    forget_images(connection, ImageRow.series_id.in_(series))
    for owned in (ConversionRow, FailureRow, ImageRow):
        connection.execute(delete(owned).where(owned.series_id.in_(series)))
    gone = delete(SeriesRow).where(SeriesRow.id.in_(series)).returning(SeriesRow.study_id)
    judge_doubted(connection, set(connection.scalars(gone)), now)
    return [] if keeps_files else sorted(folders)


def add_tombstone(
    connection: Connection, level: str, uid: str, reason: str, paths: Sequence[str], now: dt.datetime
) -> int:
    """Record that files are to be deleted; return the number of the tombstone."""
    owe_host_removals(connection, paths, now)
    tombstone = insert(TombstoneRow).values(level=level, uid=uid, reason=reason, paths=list(paths), ordered_at=now)
    return int(connection.execute(tombstone.returning(TombstoneRow.id)).scalar_one())
