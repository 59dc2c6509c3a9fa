"""What rows say of files, for comparing them with the disk: instances, what lost against them, volumes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from node.index.events import record_event
from node.index.models import Conflict, Conversion, Image, Series, Study, Volume


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
    Image.sop_instance_uid, Image.key, Image.data_set_offset, Image.bytes, Image.sha256, Image.file_missing
).order_by(Image.key)


def instance_files(connection: Connection, folder: str | None = None) -> Iterator[InstanceFile]:
    """The files of all instances in the order of their keys, or of those in one folder (``objects/00000000``)."""
    query = _INSTANCES
    if folder is not None:
        query = query.where(Image.key > f"{folder}/", Image.key < f"{folder}0")  # "0" follows "/"
    for row in connection.execute(query):
        yield InstanceFile(*row)


def volume_files(connection: Connection) -> Iterator[VolumeFile]:
    """The files of all revisions whose files were not removed."""
    query = (
        select(
            Study.study_instance_uid,
            Series.series_instance_uid,
            Conversion.revision,
            Conversion.superseded,
            Volume.path,
            Volume.bytes,
            Volume.sha256,
        )
        .join(Conversion, Conversion.id == Volume.conversion_id)
        .join(Series, Series.id == Conversion.series_id)
        .join(Study, Study.id == Series.study_id)
        .where(Conversion.files_removed_at.is_(None))
        .order_by(Volume.path)
    )
    for row in connection.execute(query):
        yield VolumeFile(*row)


def loser_keys(connection: Connection) -> set[str]:
    """Keys of the files that lost against another one of their SOP Instance UID, and are kept."""
    return set(connection.scalars(select(Conflict.key).where(Conflict.key.is_not(None)).distinct()).all())  # type: ignore[arg-type]


def mark_files(connection: Connection, keys: Sequence[str], *, missing: bool, now: dt.datetime) -> int:
    """Note of instances that their file is missing, or is there again; returns for how many that is news.

    An instance whose file is missing takes the next arrival under its UID as its own.
    """
    named = (
        select(Image.id, Image.sop_instance_uid, Series.series_instance_uid, Study.study_instance_uid)
        .join(Series, Series.id == Image.series_id)
        .join(Study, Study.id == Series.study_id)
        .where(Image.key.in_(keys), Image.file_missing.is_not(missing))
    )
    rows = connection.execute(named).all()
    connection.execute(update(Image).where(Image.id.in_([row.id for row in rows])).values(file_missing=missing))
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
