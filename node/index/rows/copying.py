"""Copies of rows of an index in another database, also of the other system.

No node opens a copy of a whole index that is not finished, nor the source of one that is, which would be behind.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from sqlite3 import SQLITE_IOERR_SHMSIZE
from typing import Any

from sqlalchemy import JSON, Column, Connection, Engine, Table, insert, null, select, true, tuple_, update
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from node.index.rows.about_keys import COPYING, MOVED
from node.index.rows.backend import IndexUnusable, Place, backend_at, reason_of
from node.index.rows.extension_tables import every_table
from node.index.rows.models.work import AboutRow
from node.index.rows.narrowed import Readers
from node.index.rows.place import open_engine, require_newest, require_sound, require_there, unusable, upgrade, usable
from node.index.rows.repositories import about
from node.index.rows.scope import Scope, within

CHUNK_ROWS = 1000
"""Rows of one transaction."""

OF_ONE_DATABASE = (COPYING, MOVED, "root")
"""Keys of ``about`` that a finished copy lacks."""


def copy_tables(source: Place, target: Place, names: Collection[str], scope: Scope | None = None) -> None:
    """Copy some tables as they are at one moment to a new database, also while a node writes to them.

    `scope`: of whom the copy is for, who sees nothing else in it; None: all rows.

    Raises IndexUnusable if there is no index at `source`, or of another schema, or it cannot be read.
    """
    require_there(source)
    require_newest(source)
    upgrade(target)
    with ExitStack() as opened:
        readers = Readers(source)
        opened.callback(readers.dispose)
        with within(scope):
            reader = opened.enter_context(readers.connect())
        copy = opened.enter_context(opened_engine(opened, target).connect())
        try:
            for table in every_table().values():
                if table.name in names:
                    copy_rows(reader, copy, table)
        except SQLAlchemyError as error:
            raise IndexUnusable(f"{source} cannot be copied: {reason_of(error)}") from error


def require_current(connection: Connection, place: Place) -> None:
    """Return if an index is neither an unfinished copy nor the source of a finished one."""
    if (moved := about(connection, MOVED)) is not None:
        raise IndexUnusable(
            f"the index was moved from {place} to {moved}: set [index] url to that, or unset it for index.sqlite; "
            "`voxelnode db copy` copies it back"
        )
    if about(connection, COPYING) is not None:
        raise IndexUnusable(f"{place} is a copy that is not finished: run `voxelnode db copy` again")


def require_usable(place: Place) -> None:
    """Refuse an index that a start refuses, and change nothing. Raises IndexUnusable, in the words of a start."""
    try:
        with ExitStack() as opened, opened_engine(opened, place, read_only=True).connect() as connection:
            if usable(connection, place).trouble is None:
                require_current(connection, place)
    except (DatabaseError, backend_at(place).Error) as error:
        if getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) == SQLITE_IOERR_SHMSIZE:
            return  # no room for what readers share: a start makes some
        raise unusable(place, error) from error
    require_sound(place)


def opened_engine(opened: ExitStack, place: Place, *, read_only: bool = False) -> Engine:
    engine = open_engine(place, read_only=read_only, alone=not read_only)
    opened.callback(engine.dispose)
    return engine


def copy_rows(reader: Connection, copy: Connection, table: Table) -> None:
    """Copy the rows behind the last one that the copy has."""
    later = [column for column in table.columns if any(key.column.table is table for key in column.foreign_keys)]
    with copy.begin():
        last = copy.execute(_keys(table).order_by(*(key.desc() for key in table.primary_key)).limit(1)).first()
    for rows in chunks(reader, table, last):
        with copy.begin():
            copy.execute(insert(table), [{**row, **dict.fromkeys(one.key for one in later)} for row in rows])
    for column in later:
        for rows in chunks(reader, table, None, column):
            with copy.begin():
                _refer(copy, table, column, rows)


def _refer(copy: Connection, table: Table, column: Column[Any], rows: list[dict[str, Any]]) -> None:
    """Let rows refer to rows of the same table, which are all there by now."""
    for row in rows:
        is_it = [key == row[key.key] for key in table.primary_key]
        copy.execute(update(table).where(*is_it).values({column: row[column.key]}))


def chunks(
    reader: Connection, table: Table, last: Any, required: Column[Any] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows behind the primary key `last` in the order of their keys, those with a value of `required`.

    The JSON ``null`` is ``JSON.NULL`` in them, and None is NULL.
    """
    keys = list(table.primary_key)
    jsons = [column for column in table.columns if isinstance(column.type, JSON)]
    present = [column.is_not(null()).label(f"{column.key} is present") for column in jsons]
    while True:
        query = select(table, *present).where(_is_copied(table)).order_by(*keys).limit(CHUNK_ROWS)
        if required is not None:
            query = query.where(required.is_not(None))
        if last is not None:
            query = query.where(tuple_(*keys) > tuple_(*last) if len(keys) > 1 else keys[0] > last[0])
        rows = [dict(row) for row in reader.execute(query).mappings()]
        for row in rows:
            for column, is_present in zip(jsons, present, strict=True):
                if row.pop(is_present.name) and row[column.key] is None:
                    row[column.key] = JSON.NULL
        if not rows:
            return
        yield rows
        last = [rows[-1][key.key] for key in keys]


def _keys(table: Table) -> Any:
    return select(*table.primary_key).where(_is_copied(table))


def _is_copied(table: Table) -> Any:
    return AboutRow.key.not_in(OF_ONE_DATABASE) if table is AboutRow.__table__ else true()
