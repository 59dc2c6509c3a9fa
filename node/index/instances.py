"""Instances: how they get into the index, and which files their rows name."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import join

from node.errors import VoxelnodeError
from node.failpoints import reached
from node.index.about import set_applied
from node.index.arrivals import DIGEST_MENDED, add_instances
from node.index.events import EventKind, EventUids, record_event
from node.index.levels import record_conflict
from node.index.listed import listed_in
from node.index.models import ConflictRow, HostRemovalRow, ImageRow, ObjectRemovalRow, SeriesRow, StudyRow
from node.index.prepared import Prepared
from node.index.records import Applied, Arrived, Flaw, Kept
from node.index.removals import aside_of_order
from node.index.repository import IndexRepository, on_reader, on_writer
from node.index.writer import IndexWriter

_FIND_HELD = Prepared(
    select(
        ImageRow.key,
        ImageRow.sha256,
        ImageRow.received_at,
        ImageRow.data_set_offset,
        ImageRow.bytes,
        ImageRow.file_missing,
        ImageRow.place,
        ImageRow.spool_host,
    ).where(listed_in(ImageRow.sop_instance_uid, bindparam("uids", type_=JSON)))
)


class NotIndexable(VoxelnodeError):
    """The rows of an instance cannot be written: trying again does not help."""


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """The file that a row of images names; `bytes` and `sha256` are of the data set, which begins at the offset."""

    sop_instance_uid: str
    key: str
    data_set_offset: int
    bytes: int
    sha256: str
    file_missing: bool
    place: str | None = None  # see `node.index.models.ImageRow`
    spool_host: str | None = None


FILES: Select[*tuple[Any, ...]] = select(
    ImageRow.sop_instance_uid,
    ImageRow.key,
    ImageRow.data_set_offset,
    ImageRow.bytes,
    ImageRow.sha256,
    ImageRow.file_missing,
    ImageRow.place,
    ImageRow.spool_host,
)
"""The columns of `InstanceFile`."""


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that is kept under a SOP Instance UID: the current version, or a version that lost against it.

    The length and the offset of a loser are not in the index. `spool_host` is the only host that has the file.
    """

    key: str
    sha256: str
    received_at: dt.datetime
    data_set_offset: int | None = None
    bytes: int | None = None
    file_missing: bool = False
    place: str | None = None
    spool_host: str | None = None


class InstanceRepository(IndexRepository):
    """The instances of an index.

    Parameters
    ----------
    note_arrival : callable
        Called for each instance: searches give way while instances arrive.
    """

    def __init__(self, writer: IndexWriter, reader: Engine, note_arrival: Callable[[], None]) -> None:
        super().__init__(writer, reader)
        self._note_arrival = note_arrival

    def add(
        self,
        batch: Sequence[Arrived],
        applied: Applied | None = None,
        flaws: Mapping[str, Flaw] | None = MappingProxyType({}),
    ) -> list[Kept]:
        """Index instances in one transaction; see `node.index.arrivals.add_instances`.

        Parameters
        ----------
        applied : Applied or None
            The last record of the journal that they came from, noted in the same transaction: the commit is not synced
            then, because the journal still has them. Without it, the commit is durable when this returns.
        flaws : mapping or None
            The kept files that are not whole, by key; None: nothing was compared. See `node.receive.kept.add_compared`.

        Returns
        -------
        list of Kept
            In the order of `batch`.

        Raises
        ------
        NotCompared
            An instance is there already, and `flaws` is None; nothing of the batch was written.
        NotIndexable
            The rows of an instance cannot be written; nothing of the batch was.
        OutOfResources
            The commit failed or may have failed: try again.
        """
        self._note_arrival()

        def write(connection: Connection) -> list[Kept]:
            kept = add_instances(connection, batch, flaws)
            if applied is not None:
                set_applied(connection, applied)
            reached("rows-written")
            return kept

        try:
            kept = self._writer.run(write, durable=applied is None, takes_many_locks=True)
        except (SQLAlchemyError, self._writer.database.Error, ValueError, TypeError, OverflowError) as error:
            if not self._writer.database.is_of_rows(error):
                raise  # no room, or the disk, or the server
            cause = getattr(error, "orig", error)
            raise NotIndexable(f"the index does not take it: {type(cause).__name__}") from error
        reached("rows-committed")
        return kept

    @on_writer
    def set_aside(self, connection: Connection, detail: str, applied: Applied, now: dt.datetime) -> None:
        """Record that an instance of the journal went to quarantine because it cannot be indexed."""
        record_event(connection, "instance-set-aside", now, detail=detail)
        set_applied(connection, applied)

    @on_writer
    def record_damage(self, connection: Connection, detail: str, now: dt.datetime) -> None:
        """Record that instances were acknowledged and cannot be read from the journal."""
        record_event(connection, "journal-damaged", now, detail=detail)

    @on_reader
    def held(self, connection: Connection, sop_instance_uids: Collection[str]) -> list[HeldFile]:
        """Return the files that are kept under these UIDs, with those that lost."""
        uids = list(sop_instance_uids)
        found = _FIND_HELD.execute(connection, {"uids": uids}).fetchall()
        if not found:
            return []
        files = [
            HeldFile(
                key,
                sha256,
                dt.datetime.fromisoformat(received_at).replace(tzinfo=dt.UTC),
                offset,
                size,
                bool(gone),
                place,
                host,
            )
            for key, sha256, received_at, offset, size, gone, place, host in found
        ]
        return files + losers(connection, uids)

    @on_reader
    def files_after(self, connection: Connection, key: str, limit: int) -> list[InstanceFile]:
        """Return at most `limit` files that rows of images name, in the order of their keys, from behind `key`."""
        return list(instance_files(connection, after=key, limit=limit))

    @on_reader
    def of_key(self, connection: Connection, key: str) -> InstanceFile | None:
        """Return the file that a row of images names by this key, or None."""
        row = connection.execute(FILES.where(ImageRow.key == key)).first()
        return None if row is None else InstanceFile(*row)

    @on_reader
    def current(self, connection: Connection, sop_instance_uid: str) -> InstanceFile | None:
        """Return the current file of an instance, or None."""
        return current_file(connection, sop_instance_uid)

    @on_writer
    def record_removed_from_quarantine(
        self,
        connection: Connection,
        key: str,
        kind: Literal["quarantine-released", "quarantine-purged"],
        who: str,
        now: dt.datetime,
    ) -> None:
        """Let conflicts name a file no more that was released or purged, and record the decision and the event."""
        decision = "accepted" if kind == "quarantine-released" else "kept"
        rows = connection.execute(
            update(ConflictRow)
            .where(ConflictRow.key == key)
            .values(key=None, decision=decision, decided_at=now, decided_by=who)
            .returning(ConflictRow.study_instance_uid, ConflictRow.series_instance_uid, ConflictRow.sop_instance_uid)
        ).all()
        uids = _uids(rows[0]) if rows else EventUids()
        record_event(connection, kind, now, detail=key, **uids)

    @on_reader
    def losers(self, connection: Connection) -> list[HeldFile]:
        """Return the files that lost against another file of their SOP Instance UID, with their digests."""
        return losers(connection)

    @on_reader
    def is_loser(self, connection: Connection, key: str) -> bool:
        """Return whether a conflict names this file."""
        return connection.execute(select(ConflictRow.id).where(ConflictRow.key == key).limit(1)).first() is not None

    @on_writer
    def mend_digest(self, connection: Connection, key: str, sha256: str, now: dt.datetime) -> None:
        """Give a row the digest of its file, which is whole.

        The digest that it had is kept: if an instance with it comes, it was the file that was wrong.
        """
        row = connection.execute(_row_of(key)).one()
        detail = f"the row had the SHA-256 {row.sha256}, the file has {sha256}; the file is believed"
        connection.execute(update(ImageRow).where(ImageRow.key == key).values(sha256=sha256, file_missing=False))
        record_event(connection, "digest-mended", now, detail=detail, **_uids(row))
        _insert_conflict(connection, DIGEST_MENDED, row, detail, now, sha256=row.sha256)

    @on_writer
    def set_aside_damaged(
        self,
        connection: Connection,
        key: str,
        quarantine_key: str,
        detail: str,
        now: dt.datetime,
        host: str | None = None,
    ) -> None:
        """Mark the row of a damaged file that is about to be moved to quarantine, on the disk of a host."""
        row = connection.execute(_row_of(key)).one()
        connection.execute(update(ImageRow).where(ImageRow.key == key).values(file_missing=True))
        asked = f"the file {detail}: send the instance again"
        record_event(connection, "file-damaged", now, detail=asked, **_uids(row))
        _insert_conflict(connection, "instance-damaged", row, f"the file {detail}", now, key=quarantine_key, host=host)

    @on_writer
    def record_loser_damage(
        self, connection: Connection, key: str, detail: str, now: dt.datetime, *, gone: bool = False
    ) -> None:
        """Record that a file that lost is damaged or gone: its row has no digest any more, or names no file.

        One that is still to be fetched from the object store is not gone.
        """
        if gone and connection.execute(select(ObjectRemovalRow.key).where(aside_of_order() == key)).first() is not None:
            return
        rows = connection.execute(
            update(ConflictRow)
            .where(ConflictRow.key == key, true() if gone else ConflictRow.sha256.is_not(None))
            .values({"key": None} if gone else {"sha256": None})
            .returning(ConflictRow.study_instance_uid, ConflictRow.series_instance_uid, ConflictRow.sop_instance_uid)
        ).all()
        kind: EventKind = "file-missing" if gone else "file-damaged"
        for row in rows:
            record_event(connection, kind, now, detail=f"{key}, another version: {detail}", **_uids(row))

    @on_reader
    def total_bytes(self, connection: Connection) -> int:
        """Return the bytes of all instances."""
        return int(connection.execute(select(func.coalesce(func.sum(ImageRow.bytes), 0))).scalar_one())

    @on_reader
    def files(self, connection: Connection, folder: str) -> list[InstanceFile]:
        """Return the files that rows of images name in one folder, such as ``objects/00000000``."""
        return list(instance_files(connection, folder))

    @on_reader
    def folders(self, connection: Connection) -> list[str]:
        """Return the names of the folders of `objects` that rows of images name; reads all of them."""
        begin = len("objects/") + 1
        length = func.instr(func.substr(ImageRow.key, begin), "/") - 1
        return list(connection.scalars(select(func.substr(ImageRow.key, begin, length)).distinct()))

    @on_writer
    def record_quarantined(self, connection: Connection, found: Arrived) -> None:
        """Record an instance that was found in quarantine."""
        detail = "found in quarantine; the index did not know why it is there"
        record_conflict(connection, "instance-quarantined", found, detail, found.file.key, found.file.sha256)

    @on_reader
    def named_keys(self, connection: Connection, keys: Sequence[str]) -> set[str]:
        """Return those of `keys` (at most a folder's worth) that rows name: of images, or of conflicts."""
        return named_keys(connection, keys)

    @on_reader
    def unknown_keys(self, connection: Connection, keys: Sequence[str]) -> list[str]:
        """Return those of `keys` (at most a folder's worth) that no row names: of images, conflicts or removals."""
        return unknown_keys(connection, keys)

    @on_reader
    def loser_keys(self, connection: Connection, host: str | None = None) -> set[str]:
        """Return the keys of the files that lost against another file of their SOP Instance UID; see `loser_keys`.

        A crash between the commit and the move leaves such a file where it was received.
        """
        return loser_keys(connection, host)

    @on_writer
    def mark_files(
        self,
        connection: Connection,
        keys: Sequence[str],
        *,
        missing: bool,
        now: dt.datetime,
        damage: str | None = None,
    ) -> int:
        """Note that files (at most a folder's worth) are missing or damaged, or are there again.

        An instance whose file is missing or damaged takes the next arrival under its UID as its own.

        Parameters
        ----------
        damage : str or None
            How the files differ from what was received; None if they do not exist.

        Returns
        -------
        int
            For how many instances that is news.
        """
        rows = connection.execute(
            select(ImageRow.id, ImageRow.sop_instance_uid, SeriesRow.series_instance_uid, StudyRow.study_instance_uid)
            .select_from(join(ImageRow, SeriesRow).join(StudyRow))
            .where(ImageRow.key.in_(keys), ImageRow.file_missing.is_not(missing))
        ).all()
        marked = update(ImageRow).where(ImageRow.id.in_([row.id for row in rows]))
        connection.execute(marked.values(file_missing=missing))
        kind: EventKind = "file-found"
        if missing:
            kind = "file-missing" if damage is None else "file-damaged"
        for row in rows:
            record_event(connection, kind, now, detail=damage, **_uids(row))
        return len(rows)


def _row_of(key: str) -> Select[*tuple[Any, ...]]:
    return (
        select(
            StudyRow.study_instance_uid,
            SeriesRow.series_instance_uid,
            ImageRow.sop_instance_uid,
            ImageRow.sha256,
            ImageRow.calling_ae_title,
        )
        .select_from(join(ImageRow, SeriesRow).join(StudyRow))
        .where(ImageRow.key == key)
    )


def _uids(row: Row[*tuple[Any, ...]]) -> EventUids:
    return {
        "study_instance_uid": row.study_instance_uid,
        "series_instance_uid": row.series_instance_uid,
        "sop_instance_uid": row.sop_instance_uid,
    }


def _insert_conflict(
    connection: Connection, kind: str, row: Row[Any], detail: str, now: dt.datetime, **values: str | None
) -> None:
    """Insert the conflict of a row of `_row_of` with itself."""
    connection.execute(
        insert(ConflictRow).values(
            kind=kind,
            calling_ae_title=row.calling_ae_title,
            detail=detail,
            found_at=now,
            **_uids(row),
            **values,
        )
    )


def named_keys(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Return those of `keys` that rows name: of images, or of conflicts."""
    images = connection.scalars(select(ImageRow.key).where(ImageRow.key.in_(keys)))
    conflicts = connection.scalars(select(ConflictRow.key).where(ConflictRow.key.in_(keys)))
    return {*images, *(key for key in conflicts if key is not None)}


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


def current_file(connection: Connection, sop_instance_uid: str) -> InstanceFile | None:
    """Return the current file of an instance, or None."""
    row = connection.execute(FILES.where(ImageRow.sop_instance_uid == sop_instance_uid)).first()
    return None if row is None else InstanceFile(*row)


def losers(connection: Connection, sop_instance_uids: Collection[str] | None = None) -> list[HeldFile]:
    """Return the files that lost and have a digest: of all instances, or of some."""
    query = select(ConflictRow.key, ConflictRow.sha256, ConflictRow.found_at, ConflictRow.host).where(
        ConflictRow.key.is_not(None), ConflictRow.sha256.is_not(None)
    )
    if sop_instance_uids is not None:
        query = query.where(ConflictRow.sop_instance_uid.in_(sop_instance_uids))
    return [
        HeldFile(row.key or "", row.sha256 or "", row.found_at, spool_host=row.host)
        for row in connection.execute(query)
    ]


def loser_keys(connection: Connection, host: str | None = None) -> set[str]:
    """Return the keys of the files that lost against another file of their SOP Instance UID, and are kept.

    Parameters
    ----------
    host : str or None
        Leave out those that only another host has.
    """
    query = select(ConflictRow.key).where(ConflictRow.key.is_not(None)).distinct()
    if host is not None:
        query = query.where(or_(ConflictRow.host.is_(None), ConflictRow.host == host))
    keys = connection.scalars(query)
    return {key for key in keys if key is not None}
