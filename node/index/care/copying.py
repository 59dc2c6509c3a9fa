"""Copies of an index to another database, also of the other system: every row, and then a comparison of all rows.

A copy that was interrupted goes on where it was. No node opens a copy that is not finished, nor the source of one that
is, which would be behind. If the process dies between the two notes, both are closed until the copy goes on.

The index of an export is a copy, too: it describes images and volumes, without accounts, messages and orders, and has
no write-ahead log, so that an account without the right to write can read it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Engine, Table, delete, func, insert, select, true, tuple_, update
from sqlalchemy.exc import SQLAlchemyError

from node.durable import sync_file
from node.errors import VoxelnodeError
from node.index.engine.about import about, set_about
from node.index.engine.about_keys import COPYING, MOVED
from node.index.engine.backend import IndexUnusable, Place, backend_of, reason_of
from node.index.engine.narrowed import Readers
from node.index.engine.place import backup, exists, open_engine, require_newest, require_there, upgrade
from node.index.engine.scope import Scope, within
from node.index.models import AboutRow, Base

CHUNK_ROWS = 1000
"""Rows of one transaction."""

OF_ONE_DATABASE = (COPYING, MOVED, "root")
"""Keys of ``about`` that a finished copy lacks."""

Row = tuple[Any, ...]


def copy_index(source: Place, target: Place) -> dict[str, int]:
    """Copy an index and compare the copy row by row; return the number of rows of each table.

    No other process may write to either: the caller has the lock of the root. Repeat it after an interruption.

    Raises IndexUnusable if there is no index at `source`, or of another schema; `target` has an index; a row cannot be
    copied, or differs.
    """
    if str(source) == str(target):
        raise IndexUnusable(f"{target} is where the index is already")
    require_there(source)
    require_newest(source)
    with ExitStack() as opened:
        origin = opened.enter_context(_opened(opened, source).connect())  # has the lock of PostgreSQL
        _require_newest_copy(origin, source, target)
        _require_no_index(source, target)
        upgrade(target)
        copy = opened.enter_context(_opened(opened, target).connect())
        with copy.begin():
            set_about(copy, COPYING, str(source))
        reader = opened.enter_context(_opened(opened, source, read_only=True).connect())
        for table in Base.metadata.sorted_tables:
            try:
                _copy_rows(reader, copy, table)
            except (SQLAlchemyError, ValueError) as error:
                reason = type(getattr(error, "orig", None) or error).__name__
                raise IndexUnusable(f"{target}: a row of {table.name} cannot be copied ({reason})") from error
        with copy.begin():
            backend_of(copy).number_after(copy, backend_of(reader).last_numbers(reader))
        copied = opened.enter_context(_opened(opened, target, read_only=True).connect())
        counts = {table.name: _compare(reader, copied, table, target) for table in Base.metadata.sorted_tables}
        with origin.begin():
            set_about(origin, MOVED, str(target))
        with copy.begin():
            copy.execute(delete(AboutRow).where(AboutRow.key.in_(OF_ONE_DATABASE)))
    return counts


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
        copy = opened.enter_context(_opened(opened, target).connect())
        try:
            for table in Base.metadata.sorted_tables:
                if table.name in names:
                    _copy_rows(reader, copy, table)
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


def was_moved(place: Place) -> bool:
    """Return whether there is an index that is the source of a copy, and no copy itself."""
    if not exists(place):
        return False
    with ExitStack() as opened, _opened(opened, place, read_only=True).connect() as connection:
        return about(connection, MOVED) is not None and about(connection, COPYING) is None


def _opened(opened: ExitStack, place: Place, *, read_only: bool = False) -> Engine:
    engine = open_engine(place, read_only=read_only, alone=not read_only)
    opened.callback(engine.dispose)
    return engine


def _require_newest_copy(origin: Connection, source: Place, target: Place) -> None:
    """Require that the source was not moved, but to this target by a copy that did not end."""
    with origin.begin():
        moved = about(origin, MOVED)
    if moved not in (None, str(target)):
        raise IndexUnusable(f"{source} was moved to {moved}, which is newer: copy that one")


def _require_no_index(source: Place, target: Place) -> None:
    """Require that the target has no index, one that no node has opened, or an unfinished copy of this source."""
    if not exists(target):
        return
    with ExitStack() as opened, _opened(opened, target, read_only=True).connect() as connection:
        is_new = connection.scalar(select(func.count()).select_from(AboutRow)) == 0
        if not is_new and about(connection, COPYING) != str(source):
            raise IndexUnusable(f"{target} has an index already: name an empty database, or remove that index")


def _copy_rows(reader: Connection, copy: Connection, table: Table) -> None:
    """Copy the rows behind the last one that the copy has."""
    later = [column for column in table.columns if any(key.column.table is table for key in column.foreign_keys)]
    with copy.begin():
        last = copy.execute(_keys(table).order_by(*(key.desc() for key in table.primary_key)).limit(1)).first()
    for rows in _chunks(reader, table, last):
        with copy.begin():
            copy.execute(insert(table), [{**row, **dict.fromkeys(one.key for one in later)} for row in rows])
    for column in later:
        for rows in _chunks(reader, table, None, column):
            with copy.begin():
                _refer(copy, table, column, rows)


def _refer(copy: Connection, table: Table, column: Column[Any], rows: list[dict[str, Any]]) -> None:
    """Let rows refer to rows of the same table, which are all there by now."""
    for row in rows:
        copy.execute(update(table).where(table.c.id == row["id"]).values({column: row[column.key]}))


def _chunks(
    reader: Connection, table: Table, last: Any, required: Column[Any] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows behind the primary key `last` in the order of their keys, those with a value of `required`."""
    keys = list(table.primary_key)
    while True:
        query = select(table).where(_is_copied(table)).order_by(*keys).limit(CHUNK_ROWS)
        if required is not None:
            query = query.where(required.is_not(None))
        if last is not None:
            query = query.where(tuple_(*keys) > tuple_(*last) if len(keys) > 1 else keys[0] > last[0])
        rows = [dict(row) for row in reader.execute(query).mappings()]
        if not rows:
            return
        yield rows
        last = [rows[-1][key.key] for key in keys]


def _compare(reader: Connection, copied: Connection, table: Table, target: Place) -> int:
    """Require that all rows of a table are the same in both; return how many there are."""
    count = 0
    for rows, others in zip_longest(_chunks(reader, table, None), _chunks(copied, table, None)):
        if rows != others:
            raise IndexUnusable(f"{target}: a row of {table.name} differs from the source; empty it, and copy again")
        count += len(rows)
    return count


def _keys(table: Table) -> Any:
    return select(*table.primary_key).where(_is_copied(table))


def _is_copied(table: Table) -> Any:
    return AboutRow.key.not_in(OF_ONE_DATABASE) if table is AboutRow.__table__ else true()


KEPT_TABLES = frozenset(
    {
        "patients", "studies", "series", "series_references", "images", "conversions", "volumes", "volume_sources",
        "exclusions", "failures", "events",
    }
)  # fmt: skip
"""The others are emptied: they have secrets of accounts, or are about peers, orders and people at work."""

MARK = "exported"
"""Key of ``about`` by which an export is known; its value is the root."""


class ExportedFile(NamedTuple):
    """A file of a current volume; `path` is relative to the root."""

    path: str
    bytes: int
    sha256: str


def copy_for_readers(place: Place, target: Path, scope: Scope | None = None) -> None:
    """Write a copy of an index with `KEPT_TABLES` and the current conversions to `target`, also while a node runs.

    `scope`: as in `copy_tables`. Raises IndexUnusable if there is no index, or it cannot be read.
    """
    root = place.parent if isinstance(place, Path) else place.root
    if isinstance(place, Path) and scope is None:  # pages are copied faster than rows
        backup(place, target)
    else:
        copy_tables(place, target, KEPT_TABLES, scope)
    try:
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            _reduce(copy, root)
    except sqlite3.Error as error:
        raise IndexUnusable(f"{place}: {error}; `voxelnode db check` tells what is wrong") from error


def _reduce(copy: sqlite3.Connection, root: Path) -> None:
    copy.execute("PRAGMA journal_mode = DELETE")
    copy.execute("PRAGMA secure_delete = ON")
    copy.execute("BEGIN")
    for table in Base.metadata.sorted_tables[::-1]:
        if table.name not in KEPT_TABLES:
            copy.execute(f"DELETE FROM {table.name}")
    _delete_conversions(copy, "SELECT id FROM conversions WHERE superseded OR files_removed_at IS NOT NULL")
    copy.execute("INSERT INTO about VALUES (?, ?)", [MARK, str(root)])
    copy.execute("COMMIT")


def files_of(path: Path) -> dict[str, list[ExportedFile]]:
    """Return the files of all conversions of an exported index, by their folders."""
    folders: dict[str, list[ExportedFile]] = {}
    with closing(sqlite3.connect(path)) as copy:
        for row in copy.execute("SELECT path, bytes, sha256 FROM volumes ORDER BY path"):
            folders.setdefault(row[0].rpartition("/")[0], []).append(ExportedFile(*row))
    return folders


def finish(path: Path, absent: Iterable[str]) -> None:
    """Delete the conversions whose folders are `absent`, and the free pages; sync the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("CREATE TEMP TABLE absent (folder TEXT PRIMARY KEY)")
        copy.executemany("INSERT INTO absent VALUES (? || '/')", [(folder,) for folder in absent])
        of_folder = "SELECT conversion_id FROM volumes, absent WHERE substr(path, 1, length(folder)) = folder"
        _delete_conversions(copy, of_folder)
        copy.execute("VACUUM")
    sync_file(path)


def require_export(path: Path, root: Path) -> None:
    """Return if an index is that of an export of `root`.

    Raises VoxelnodeError if it is that of a root, of an export of another root, or none.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT value FROM about WHERE key = ?", [MARK]).fetchone()
    except sqlite3.Error:
        found = None
    if found is None:
        raise VoxelnodeError(f"{path} is not the index of an export: name a folder that does not exist, or an export")
    if found[0] != str(root):
        raise VoxelnodeError(f"{path.parent} is an export of {found[0]}: name another folder, or remove it")


def _delete_conversions(copy: sqlite3.Connection, ids: str) -> None:
    """Delete the conversions that a query names, with what belongs to them."""
    copy.execute(f"CREATE TEMP TABLE gone AS {ids}")
    for table in ("volumes", "volume_sources", "exclusions"):
        copy.execute(f"DELETE FROM {table} WHERE conversion_id IN gone")
    copy.execute("DELETE FROM conversions WHERE id IN gone")
    copy.execute("DROP TABLE gone")
