"""Orders to remove objects and copies of them, given in the transaction in which their rows change or go."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, Connection, delete, func, literal, select, true
from sqlalchemy.orm import InstrumentedAttribute, join

from node.index.engine.sql import insert
from node.index.models import HostRemovalRow, HostRow, ImageRow, ObjectRemovalRow, RevisionFileRow, Utc

_NAME_LENGTH = len("0123456789abcdef0123456789abcdef.dcm")


def aside_of_order() -> ColumnElement[str]:
    """Return the key that the object of an order has in quarantine, if a conflict wants it there."""
    name = func.substr(ObjectRemovalRow.key, func.length(ObjectRemovalRow.key) - _NAME_LENGTH + 1)
    return literal("quarantine/") + name


def owe_removals(connection: Connection, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    """Order the removal of the objects of images that are about to be deleted, or to get other files.

    In the second case, `now` is when the other file was received: the order waits until that one is in the store.
    """
    _owe(connection, ImageRow, ImageRow.key, leaving & ImageRow.place.is_not(None), now)


def owe_files(connection: Connection, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    """Order the removal of the objects of files of revisions, and delete the rows of these files."""
    _owe(connection, RevisionFileRow, RevisionFileRow.key, leaving, now)
    connection.execute(delete(RevisionFileRow).where(leaving))


def _owe(
    connection: Connection,
    table: type[ImageRow | RevisionFileRow],
    key: InstrumentedAttribute[str],
    leaving: ColumnElement[bool],
    now: dt.datetime,
) -> None:
    objects = select(key, literal(now, Utc)).where(leaving)
    order = insert(ObjectRemovalRow).from_select(["key", "ordered_at"], objects)
    connection.execute(order.on_conflict_do_nothing())
    copies = select(HostRow.name, key, literal(now, Utc)).select_from(join(table, HostRow, true())).where(leaving)
    there = insert(HostRemovalRow).from_select(["host", "path", "ordered_at"], copies)
    connection.execute(there.on_conflict_do_nothing())
