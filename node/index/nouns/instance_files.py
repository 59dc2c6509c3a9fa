"""The files that rows name: of instances, and of versions that lost against them; and orders to remove files.

An order is given in the transaction in which the row that names the file changes or goes.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, func, literal, or_, select, true
from sqlalchemy.orm import join

from node.index.engine.about_keys import STORE
from node.index.engine.rows import about, columns_of
from node.index.engine.sql import insert, looked_up_in
from node.index.models.history import HAS_FILE, ConflictRow, RevisionFileRow, TrashRow
from node.index.models.levels import ImageRow, Utc
from node.index.models.work import HostRemovalRow, HostRow, ObjectRemovalRow
from node.index.nouns.records import InstanceFile


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


def owe_removals(connection: Connection, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    """Order the removal of the objects of images that are about to be deleted, or to get other files.

    In the second case, `now` is when the other file was received: the order waits until that one is in the store.
    """
    _owe(connection, ImageRow, leaving & ImageRow.place.is_not(None), now)


def owe_files(connection: Connection, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    """Order the removal of the objects of files of revisions, and delete the rows of these files."""
    _owe(connection, RevisionFileRow, leaving, now)
    connection.execute(delete(RevisionFileRow).where(leaving))


def owe_host_removals(connection: Connection, paths: Sequence[str], now: dt.datetime) -> None:
    """Order the removal of files and folders from the disk of every host, if each has a root of its own."""
    if not about(connection, STORE):
        return
    hosts = list(connection.scalars(select(HostRow.name).order_by(HostRow.name)))
    rows = [{"host": host, "path": path, "ordered_at": now} for host in hosts for path in sorted(paths)]
    if rows:
        connection.execute(insert(HostRemovalRow).on_conflict_do_nothing(), rows)


def owe_trashed(connection: Connection, deletion: int, now: dt.datetime) -> None:
    """Order the removal of the objects of a deletion that leaves the trash."""
    _owe(connection, TrashRow, (TrashRow.deletion == deletion) & TrashRow.place.is_not(None), now)


def _owe(connection: Connection, table: Any, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    key = table.key
    objects = select(key, literal(now, Utc)).where(leaving)
    order = insert(ObjectRemovalRow).from_select(["key", "ordered_at"], objects)
    connection.execute(order.on_conflict_do_nothing())
    copies = select(HostRow.name, key, literal(now, Utc)).select_from(join(table, HostRow, true())).where(leaving)
    there = insert(HostRemovalRow).from_select(["host", "path", "ordered_at"], copies)
    connection.execute(there.on_conflict_do_nothing())
