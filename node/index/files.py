"""What rows say of files, for comparing them with the disk: instances, what lost against them, volumes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from node.index.events import record_event
from node.index.models import ConflictRow, ConversionRow, ImageRow, SeriesRow, StudyRow, VolumeRow


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """The file that a row of images names; `bytes` and `sha256` are of the data set, which begins at the offset."""

    sop_instance_uid: str
    key: str
    data_set_offset: int
    bytes: int
    sha256: str
    file_missing: bool


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file of a revision that should be there; `path` counts from the root."""

    study_instance_uid: str
    series_instance_uid: str
    revision: int
    superseded: bool
    path: str
    bytes: int
    sha256: str


_INSTANCES = select(
    ImageRow.sop_instance_uid,
    ImageRow.key,
    ImageRow.data_set_offset,
    ImageRow.bytes,
    ImageRow.sha256,
    ImageRow.file_missing,
).order_by(ImageRow.key)


def instance_files(connection: Connection, folder: str | None = None) -> Iterator[InstanceFile]:
    """The files of all instances in the order of their keys, or of those in one folder (``objects/00000000``)."""
    query = _INSTANCES
    if folder is not None:
        query = query.where(ImageRow.key > f"{folder}/", ImageRow.key < f"{folder}0")  # "0" follows "/"
    for row in connection.execute(query):
        yield InstanceFile(*row)


def volume_files(connection: Connection) -> Iterator[VolumeFile]:
    """The files of all revisions whose files were not removed."""
    query = (
        select(
            StudyRow.study_instance_uid,
            SeriesRow.series_instance_uid,
            ConversionRow.revision,
            ConversionRow.superseded,
            VolumeRow.path,
            VolumeRow.bytes,
            VolumeRow.sha256,
        )
        .join(ConversionRow, ConversionRow.id == VolumeRow.conversion_id)
        .join(SeriesRow, SeriesRow.id == ConversionRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(ConversionRow.files_removed_at.is_(None))
        .order_by(VolumeRow.path)
    )
    for row in connection.execute(query):
        yield VolumeFile(*row)


def loser_keys(connection: Connection) -> set[str]:
    """Keys of the files that lost against another one of their SOP Instance UID, and are kept."""
    return set(connection.scalars(select(ConflictRow.key).where(ConflictRow.key.is_not(None)).distinct()).all())  # type: ignore[arg-type]


def mark_files(connection: Connection, keys: Sequence[str], *, missing: bool, now: dt.datetime) -> int:
    """Note of instances that their file is missing, or is there again; returns for how many that is news.

    An instance whose file is missing takes the next arrival under its UID as its own.
    """
    named = (
        select(ImageRow.id, ImageRow.sop_instance_uid, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
        .join(SeriesRow, SeriesRow.id == ImageRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(ImageRow.key.in_(keys), ImageRow.file_missing.is_not(missing))
    )
    rows = connection.execute(named).all()
    connection.execute(update(ImageRow).where(ImageRow.id.in_([row.id for row in rows])).values(file_missing=missing))
    for row in rows:
        record_event(
            connection,
            "file-missing" if missing else "file-found",
            now,
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.series_instance_uid,
            sop_instance_uid=row.sop_instance_uid,
        )
    return len(rows)
