"""Which instances the object store has, which are still to be moved there, and which objects are to be removed.

Hosts that share a store move what is on their own disks. What is to be moved is, here, always what this host has.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, delete, exists, func, select, text, update
from sqlalchemy.dialects.sqlite import insert

from node.index.about import STORE as STORE_IDENTITY
from node.index.about import STORE_SPOOLED, set_about
from node.index.instances import FILES, InstanceFile, named_keys
from node.index.models import (
    SPOOL,
    STORE,
    ConflictRow,
    HostRemovalRow,
    HostRow,
    ImageRow,
    ObjectRemovalRow,
    is_only_at_host,
)
from node.index.repository import IndexRepository, on_reader, on_writer
from node.index.writer import IndexWriter

_SPOOLED = text(f"images.place = '{SPOOL}'")
"""In words: with a parameter, SQLite does not use the index of these rows."""


_NAME_LENGTH = len("0123456789abcdef0123456789abcdef.dcm")


@dataclass(frozen=True, slots=True)
class PlaceCount:
    """The instances in one place, and the bytes of their data sets."""

    instances: int
    bytes: int


class ObjectRepository(IndexRepository):
    """The places of instances, and the objects that no instance needs any more.

    Parameters
    ----------
    host : str or None
        The name of this host, if several with roots of their own share the store.
    """

    def __init__(self, writer: IndexWriter, reader: Engine, host: str | None) -> None:
        super().__init__(writer, reader)
        self._host = host

    @on_reader
    def spooled(self, connection: Connection, after: str, limit: int, *, missing: bool) -> list[InstanceFile]:
        """Return instances to be moved to the store, in the order of their keys, from behind one.

        Parameters
        ----------
        missing : bool
            Also those whose local file is known to be missing: the store may have them.
        """
        spooled = FILES.where(_SPOOLED, self._is_here, ImageRow.key > after).order_by(ImageRow.key).limit(limit)
        return _files(connection, spooled if missing else spooled.where(ImageRow.file_missing.is_(False)))

    @on_reader
    def of_keys(self, connection: Connection, keys: Collection[str]) -> list[InstanceFile]:
        """Return the instances with these keys, as far as there are any."""
        return _files(connection, FILES.where(ImageRow.key.in_(keys)))

    @on_writer
    def spool_all(self, connection: Connection) -> None:
        """Note that the instances from before the object store are to be moved there."""
        spooled = {"place": SPOOL, "spool_host": self._host}
        connection.execute(update(ImageRow).where(ImageRow.place.is_(None)).values(spooled))
        set_about(connection, STORE_SPOOLED, "yes")

    @on_reader
    def of_no_host(self, connection: Connection) -> str | None:
        """Return the key of an instance that is to be moved to the store by no host yet, or None."""
        unowned = select(ImageRow.key).where(_SPOOLED, ImageRow.spool_host.is_(None), ImageRow.file_missing.is_(False))
        return connection.scalar(unowned.limit(1))

    @on_writer
    def own_spool(self, connection: Connection) -> None:
        """Note that this host has what is to be moved, from when the index had one host."""
        unowned = update(ImageRow).where(_SPOOLED, ImageRow.spool_host.is_(None))
        connection.execute(unowned.values(spool_host=self._host))

    @on_writer
    def record_stored(self, connection: Connection, keys: Sequence[str], now: dt.datetime) -> set[str]:
        """Note that the store has the objects of instances, and return their keys.

        The objects of instances that were deleted or replaced meanwhile are to be removed.
        """
        stored = update(ImageRow).where(ImageRow.key.in_(keys)).values(place=STORE, spool_host=None, file_missing=False)
        noted = set(connection.scalars(stored.returning(ImageRow.key)))
        _owe(connection, [key for key in keys if key not in noted], now)
        return noted

    @on_writer
    def record_spooled(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that instances are to be moved to the store again: it lacks their objects, or has other bytes."""
        spooled = {"place": SPOOL, "spool_host": self._host}
        connection.execute(update(ImageRow).where(ImageRow.key.in_(keys)).values(spooled))

    @on_reader
    def host_of(self, connection: Connection, key: str) -> str | None:
        """Return which other host alone has the file of an instance; None if it is in the store, here, or lost."""
        host = connection.scalar(select(ImageRow.spool_host).where(ImageRow.key == key, *is_only_at_host()))
        return host if host != self._host else None

    @on_reader
    def only_at(self, connection: Connection, host: str) -> list[InstanceFile]:
        """Return the instances whose file a host alone has."""
        at_host = FILES.where(_SPOOLED, *is_only_at_host(), ImageRow.spool_host == host)
        return _files(connection, at_host.order_by(ImageRow.key))

    @on_reader
    def stored(self, connection: Connection, after: str, limit: int) -> list[InstanceFile]:
        """Return instances that the store has, in the order of their keys, from behind one."""
        return _files(
            connection, FILES.where(ImageRow.place == STORE, ImageRow.key > after).order_by(ImageRow.key).limit(limit)
        )

    @on_reader
    def stored_among(self, connection: Connection, keys: Collection[str]) -> set[str]:
        """Return those of `keys` (at most a folder's worth) whose instances the store has."""
        return set(connection.scalars(select(ImageRow.key).where(ImageRow.key.in_(keys), ImageRow.place == STORE)))

    @on_writer
    def record_local(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that the durable files of instances are in the folder of the archive, and in no store."""
        connection.execute(update(ImageRow).where(ImageRow.key.in_(keys)).values(place=None, spool_host=None))

    @on_writer
    def leave_store(self, connection: Connection) -> None:
        """Note that no instance is in the store, or on its way there.

        Raises
        ------
        AssertionError
            One of them is.
        """
        connection.execute(update(ImageRow).where(ImageRow.place == SPOOL).values(place=None, spool_host=None))
        assert connection.execute(select(ImageRow.id).where(ImageRow.place == STORE).limit(1)).first() is None
        connection.execute(delete(ObjectRemovalRow))
        connection.execute(delete(HostRemovalRow))
        mine = update(ConflictRow).where(ConflictRow.host == self._host)
        connection.execute(mine.values(host=None))  # from now on, in the archive of all
        set_about(connection, STORE_SPOOLED, "")
        set_about(connection, STORE_IDENTITY, "")

    @on_reader
    def removals(self, connection: Connection, limit: int | None = None) -> list[str]:
        """Return keys of objects to be removed, without those that another host is to set aside first."""
        removals = select(ObjectRemovalRow.key).order_by(ObjectRemovalRow.key).limit(limit)
        if self._host is not None:
            name = func.substr(ObjectRemovalRow.key, func.length(ObjectRemovalRow.key) - _NAME_LENGTH + 1)
            aside = exists().where(ConflictRow.key == "quarantine/" + name, ConflictRow.host != self._host)
            removals = removals.where(~aside)
        return list(connection.scalars(removals))

    @on_reader
    def host_removals(self, connection: Connection, limit: int) -> list[str]:
        """Return files and folders to be removed from the disk of this host; their objects are gone."""
        removals = select(HostRemovalRow.path).where(
            HostRemovalRow.host == self._host,
            ~exists().where(ObjectRemovalRow.key == HostRemovalRow.path),
        )
        return list(connection.scalars(removals.order_by(HostRemovalRow.path).limit(limit)))

    @on_writer
    def removed_here(self, connection: Connection, paths: Sequence[str]) -> None:
        """Note that files and folders are gone from the disk of this host."""
        mine = HostRemovalRow.host == self._host, HostRemovalRow.path.in_(paths)
        connection.execute(delete(HostRemovalRow).where(*mine))

    @on_writer
    def removed(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that objects are gone from the store."""
        connection.execute(delete(ObjectRemovalRow).where(ObjectRemovalRow.key.in_(keys)))

    @on_writer
    def remove(self, connection: Connection, keys: Sequence[str], now: dt.datetime) -> None:
        """Order the removal of objects that no row names."""
        named = named_keys(connection, keys)
        _owe(connection, [key for key in keys if key not in named], now)

    @on_reader
    def count(self, connection: Connection, place: str) -> PlaceCount:
        """Return how many instances are in one place; those in the store are counted one by one."""
        conditions = (_SPOOLED, self._is_here) if place == SPOOL else (ImageRow.place == place,)
        query = select(func.count(), func.coalesce(func.sum(ImageRow.bytes), 0)).where(*conditions)
        instances, size = connection.execute(query).one()
        return PlaceCount(int(instances), int(size))

    @property
    def _is_here(self) -> ColumnElement[bool]:
        return ImageRow.spool_host.is_(None) if self._host is None else ImageRow.spool_host == self._host


def _files(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[InstanceFile]:
    return [InstanceFile(*row) for row in connection.execute(query)]


def _owe(connection: Connection, keys: Sequence[str], now: dt.datetime) -> None:
    if keys:
        rows = [{"key": key, "ordered_at": now} for key in keys]
        connection.execute(insert(ObjectRemovalRow).values(rows).on_conflict_do_nothing())
        hosts = connection.scalars(select(HostRow.name)).all()
        local = [{"host": host, "path": key, "ordered_at": now} for host in hosts for key in keys]
        if local:
            connection.execute(insert(HostRemovalRow).on_conflict_do_nothing(), local)
