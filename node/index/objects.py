"""Which instances the object store has, which are still to be moved there, and which objects are to be removed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select, text, update
from sqlalchemy.dialects.sqlite import insert

from node.index.about import STORE as STORE_IDENTITY
from node.index.about import STORE_SPOOLED, set_about
from node.index.instances import FILES, InstanceFile, named_keys
from node.index.models import SPOOL, STORE, ImageRow, ObjectRemovalRow
from node.index.repository import IndexRepository, on_reader, on_writer

_SPOOLED = text(f"images.place = '{SPOOL}'")
"""In words: with a parameter, SQLite does not use the index of these rows."""


@dataclass(frozen=True, slots=True)
class PlaceCount:
    """The instances in one place, and the bytes of their data sets."""

    instances: int
    bytes: int


class ObjectRepository(IndexRepository):
    """The places of instances, and the objects that no instance needs any more."""

    @on_reader
    def spooled(self, connection: Connection, after: str, limit: int, *, missing: bool) -> list[InstanceFile]:
        """Return instances to be moved to the store, in the order of their keys, from behind one.

        Parameters
        ----------
        missing : bool
            Also those whose local file is known to be missing: the store may have them.
        """
        spooled = FILES.where(_SPOOLED, ImageRow.key > after).order_by(ImageRow.key).limit(limit)
        return _files(connection, spooled if missing else spooled.where(ImageRow.file_missing.is_(False)))

    @on_reader
    def of_keys(self, connection: Connection, keys: Collection[str]) -> list[InstanceFile]:
        """Return the instances with these keys, as far as there are any."""
        return _files(connection, FILES.where(ImageRow.key.in_(keys)))

    @on_writer
    def spool_all(self, connection: Connection) -> None:
        """Note that the instances from before the object store are to be moved there."""
        connection.execute(update(ImageRow).where(ImageRow.place.is_(None)).values(place=SPOOL))
        set_about(connection, STORE_SPOOLED, "yes")

    @on_writer
    def record_stored(self, connection: Connection, keys: Sequence[str], now: dt.datetime) -> set[str]:
        """Note that the store has the objects of instances, and return their keys.

        The objects of instances that were deleted or replaced meanwhile are to be removed.
        """
        stored = update(ImageRow).where(ImageRow.key.in_(keys)).values(place=STORE, file_missing=False)
        noted = set(connection.scalars(stored.returning(ImageRow.key)))
        _owe(connection, [key for key in keys if key not in noted], now)
        return noted

    @on_writer
    def record_spooled(self, connection: Connection, keys: Sequence[str]) -> None:
        """Note that instances are to be moved to the store again: it lacks their objects, or has other bytes."""
        connection.execute(update(ImageRow).where(ImageRow.key.in_(keys)).values(place=SPOOL))

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
        connection.execute(update(ImageRow).where(ImageRow.key.in_(keys)).values(place=None))

    @on_writer
    def leave_store(self, connection: Connection) -> None:
        """Note that no instance is in the store, or on its way there.

        Raises
        ------
        AssertionError
            One of them is.
        """
        connection.execute(update(ImageRow).where(ImageRow.place == SPOOL).values(place=None))
        assert connection.execute(select(ImageRow.id).where(ImageRow.place == STORE).limit(1)).first() is None
        connection.execute(delete(ObjectRemovalRow))
        set_about(connection, STORE_SPOOLED, "")
        set_about(connection, STORE_IDENTITY, "")

    @on_reader
    def removals(self, connection: Connection, limit: int | None = None) -> list[str]:
        """Return keys of objects to be removed."""
        return list(connection.scalars(select(ObjectRemovalRow.key).order_by(ObjectRemovalRow.key).limit(limit)))

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
        condition = _SPOOLED if place == SPOOL else ImageRow.place == place
        query = select(func.count(), func.coalesce(func.sum(ImageRow.bytes), 0)).where(condition)
        instances, size = connection.execute(query).one()
        return PlaceCount(int(instances), int(size))


def _files(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[InstanceFile]:
    return [InstanceFile(*row) for row in connection.execute(query)]


def _owe(connection: Connection, keys: Sequence[str], now: dt.datetime) -> None:
    if keys:
        rows = [{"key": key, "ordered_at": now} for key in keys]
        connection.execute(insert(ObjectRemovalRow).values(rows).on_conflict_do_nothing())
