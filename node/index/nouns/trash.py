"""The trash: what was deleted and can come back, until it is emptied.

A deletion removes the rows of instances, so that nothing lists, converts or serves them. In the trash, each file has a
row here instead, and stays where it is: whoever looks for files without a row finds it named. Emptying the trash names
the files in the tombstone of the deletion, which then removes them like any other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update
from sqlalchemy.orm import join

from node.dicom.attributes import PATIENT
from node.errors import UsageError
from node.index.engine.extension_tables import forget_study
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_reader, on_writer, reads
from node.index.models.history import ConflictRow, TombstoneRow, TrashRow
from node.index.models.levels import STORE, ImageRow, PatientRow, SeriesRow, StudyRow, Utc
from node.index.nouns.events import record_event
from node.index.nouns.instance_files import owe_host_removals, owe_trashed
from node.index.nouns.records import Deletion, Level
from node.index.nouns.views import TrashViews

_IN_TRASH = TombstoneRow.content.is_not(None)


class NotInTrash(UsageError):
    """Nothing in the trash has this number: `voxelnode trash` lists all."""


@dataclass(frozen=True, slots=True)
class TrashedFile:
    """The file of an instance in the trash: its key, how the instance came, what it is, and where the file is.

    `version`: UIDs of instance, study and series, digest and offset; empty in an index of a version without them.
    """

    key: str
    facts: dict[str, Any]
    version: dict[str, Any]
    place: str | None
    holder: str | None


def in_trash(connection: Connection, level: Level, uid: str) -> list[int]:
    """Return the deletions in the trash of a study or a series and all that it had, or of an instance itself."""
    is_it = and_(TombstoneRow.level == level, TombstoneRow.uid == uid)
    if level != "instance":
        is_it = or_(is_it, TombstoneRow.content[f"{level}_instance_uid"].as_string() == uid)
    return list(connection.scalars(select(TombstoneRow.id).where(is_it, _IN_TRASH).order_by(TombstoneRow.id)))


def _entry(connection: Connection, number: int) -> dict[str, Any]:
    entries = ReadTrash(connection).entries(number)
    if not entries:
        raise NotInTrash
    return entries[0]


class TrashRepository(IndexRepository):
    """What was deleted, from the deletion until it is back or gone."""

    @on_writer
    def begin_restore(self, connection: Connection, number: int, now: dt.datetime) -> None:
        """Take a deletion out of the trash: its instances are to be indexed again, whatever happens meanwhile.

        Raises NotInTrash.
        """
        entry = _entry(connection, number)
        taken = update(TombstoneRow).where(TombstoneRow.id == number, _IN_TRASH)
        if not connection.execute(taken.values(content=None, restored_at=now)).rowcount:
            raise NotInTrash  # somebody was quicker
        study = entry["study_instance_uid"]
        record_event(connection, "restored", now, study_instance_uid=study, detail=f"{entry['level']}, from the trash")

    entry = reads(_entry)

    @on_reader
    def size(self, connection: Connection) -> tuple[int, int]:
        """Return how many files are in the trash, and their bytes."""
        size = select(func.count(), func.coalesce(func.sum(TrashRow.bytes), 0)).join(TombstoneRow).where(_IN_TRASH)
        files, size_bytes = connection.execute(size).one()
        return int(files), int(size_bytes)

    @on_reader
    def restoring(self, connection: Connection) -> list[int]:
        """Return the deletions that are being undone, and whose files are not all indexed again."""
        rows = select(TrashRow.deletion).join(TombstoneRow).where(TombstoneRow.restored_at.is_not(None)).distinct()
        return list(connection.scalars(rows))

    @on_reader
    def files(self, connection: Connection, number: int, limit: int | None = None) -> list[TrashedFile]:
        """Return files of instances of a deletion, in the order of their numbers; all without a limit."""
        rows = select(TrashRow).where(TrashRow.deletion == number, TrashRow.is_loser.is_(False))
        return [
            TrashedFile(row.key, row.content, row.content.pop("version", {}), row.place, row.holder)
            for row in connection.execute(rows.order_by(TrashRow.id).limit(limit))
        ]

    @on_reader
    def of(self, connection: Connection, level: Level, uid: str) -> list[int]:
        """Return what `in_trash` does."""
        return in_trash(connection, level, uid)

    @on_reader
    def holders(self, connection: Connection, number: int) -> set[str]:
        """Return the hosts that alone have files of a deletion."""
        rows = select(TrashRow.holder).where(TrashRow.deletion == number, TrashRow.holder.is_not(None)).distinct()
        return {str(holder) for holder in connection.scalars(rows)}

    @on_reader
    def has_objects(self, connection: Connection) -> bool:
        """Return whether files in the trash are in the object store."""
        return connection.execute(select(TrashRow.id).where(TrashRow.place == STORE).limit(1)).first() is not None

    @on_writer
    def taken_back(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that files of instances are indexed again, or gone."""
        connection.execute(delete(TrashRow).where(TrashRow.key.in_(keys), TrashRow.is_loser.is_(False)))

    @on_writer
    def finish_restore(self, connection: Connection, number: int) -> list[str]:
        """Record the conflicts of a deletion as before, and return the keys of their files, which stayed there."""
        keys = []
        for row in connection.execute(delete(TrashRow).where(TrashRow.deletion == number).returning(TrashRow)).all():
            values = {
                column.name: _decoded(column.type, row.content[column.name])
                for column in ConflictRow.__table__.columns
                if column.name in row.content and column.name != "id"
            }
            connection.execute(insert(ConflictRow).values(values))
            keys.append(row.key)
        connection.execute(update(TombstoneRow).where(TombstoneRow.id == number).values(decided=None))
        return keys

    @on_reader
    def due(self, connection: Connection, now: dt.datetime) -> list[int]:
        """Return the deletions whose time in the trash is over."""
        return list(connection.scalars(select(TombstoneRow.id).where(TombstoneRow.trash_until <= now, _IN_TRASH)))

    @on_reader
    def oldest(self, connection: Connection) -> int | None:
        """Return the deletion that has been in the trash for the longest time, or None."""
        return connection.scalar(select(func.min(TombstoneRow.id)).where(_IN_TRASH))

    @on_writer
    def empty(self, connection: Connection, number: int, now: dt.datetime) -> Deletion:
        """Order the removal of the files of a deletion. Raises NotInTrash."""
        study = _entry(connection, number)["study_instance_uid"]
        taken = update(TombstoneRow).where(TombstoneRow.id == number, _IN_TRASH)
        gone = taken.values(content=None, decided=None, finished_at=None).returning(TombstoneRow)
        row = connection.execute(gone).first()
        if row is None:
            raise NotInTrash
        forget_study(connection, study)
        owe_trashed(connection, number, now)
        keys = connection.scalars(delete(TrashRow).where(TrashRow.deletion == number).returning(TrashRow.key)).all()
        paths = sorted({*row.paths, *keys})
        owe_host_removals(connection, paths, now)
        connection.execute(update(TombstoneRow).where(TombstoneRow.id == number).values(paths=paths))
        return Deletion(number, tuple(paths), row.level, row.uid, row.ordered_at, went_to_trash=True)


class ReadTrash(ReadRepository, TrashViews):
    """What is in the trash."""

    entry = reads(_entry)


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


def decided_of(connection: Connection, study_instance_uid: str) -> dict[str, Any] | None:
    """Return who the patient of a study is, by the columns of `patients`, if a person has decided that."""
    columns = [getattr(PatientRow, attribute.column) for attribute in PATIENT]
    decided = StudyRow.study_instance_uid == study_instance_uid, StudyRow.identified_at.is_not(None)
    row = connection.execute(
        select(*columns).join(StudyRow, StudyRow.patient_id == PatientRow.id).where(*decided)
    ).first()
    return None if row is None else {name: _encoded(value) for name, value in row._mapping.items()}


def trashed_images(connection: Connection, leaving: ColumnElement[bool]) -> list[dict[str, Any]]:
    """Return rows for the trash of the instances that a condition selects."""
    names = ("source", "calling_ae_title", "called_ae_title", "peer")
    of_file = ("sop_instance_uid", "study_instance_uid", "series_instance_uid", "sha256", "data_set_offset")
    columns = *ImageRow.__table__.columns, StudyRow.study_instance_uid, SeriesRow.series_instance_uid
    query = select(*columns).select_from(join(ImageRow, SeriesRow).join(StudyRow)).where(leaving)
    rows = connection.execute(query.order_by(ImageRow.id)).all()
    return [
        {
            "key": row.key, "is_loser": False, "bytes": row.bytes, "place": row.place, "holder": row.spool_host,
            "content": {name: getattr(row, name) or "" for name in names}
            | {"version": {name: getattr(row, name) for name in of_file}},
        }
        for row in rows
    ]  # fmt: skip


def trashed_conflict(row: Any) -> dict[str, Any]:
    """Return a row for the trash of a conflict with a file."""
    content = {name: _encoded(value) for name, value in row._mapping.items()}
    return {"key": row.key, "is_loser": True, "bytes": 0, "place": None, "holder": row.host, "content": content}


def put_in_trash(connection: Connection, deletion: int, rows: Collection[dict[str, Any]]) -> None:
    """Add rows to the trash."""
    if rows:
        connection.execute(insert(TrashRow), [{"deletion": deletion, **row} for row in rows])


def _encoded(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value


def _decoded(kind: Any, value: Any) -> Any:
    return dt.datetime.fromisoformat(value) if isinstance(kind, Utc) and value is not None else value
