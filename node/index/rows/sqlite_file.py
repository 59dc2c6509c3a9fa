"""The file of an index in SQLite, and connections to it. This module loads no SQLAlchemy."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from time import thread_time
from typing import Any

from node.index.rows.backend import REMEDY

BUSY_SECONDS = 5.0

KEPT_WAL_BYTES = 16 << 20
"""Size to which SQLite cuts the write-ahead log once nobody reads what is in it."""

LOCKED = "another program has locked it"
"""What the reason of a lock begins with."""

MAX_WAL_BYTES = 64 << 20
"""A log that is longer has not been started anew for long: somebody reads a state from before."""


def wal_bytes(path: Path) -> int:
    """Return the size of the write-ahead log of an index in a file."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except OSError:  # there is none
        return 0


def held_back(path: Path) -> str | None:
    """Return who lets the write-ahead log of an index grow, and what to do about it; None: it does not."""
    size = wal_bytes(path)
    if size <= MAX_WAL_BYTES:
        return None
    return (
        f"its write-ahead log has grown to {size / (1 << 20):.0f} MiB, because a program keeps a transaction open that "
        f"reads it: end that program (`fuser {path}-wal` prints its PID, and that of the node itself)"
    )


class _Cursor(sqlite3.Cursor):
    def execute(self, *statement: Any) -> Any:
        """Run a statement. SQLite quotes a damaged schema in its message about it, whatever bytes that has."""
        try:
            return super().execute(*statement)
        except UnicodeDecodeError as error:
            found = sqlite3.DatabaseError("malformed database schema, which is not UTF-8")
            found.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise found from error


class _Connection(sqlite3.Connection):
    cursors: type[sqlite3.Cursor] = _Cursor

    def cursor(self, *_: Any, **__: Any) -> Any:
        """Return a cursor whose errors are those of a database."""
        return super().cursor(self.cursors)

    def execute(self, *statement: Any) -> Any:
        """Run a statement on such a cursor."""
        return self.cursor().execute(*statement)


def _clocked(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(cursor: _ClockedCursor, *statement: Any) -> Any:
        began_at = thread_time()
        try:
            return method(cursor, *statement)
        finally:
            cursor.connection.seconds += thread_time() - began_at

    return run


class _ClockedCursor(_Cursor):
    connection: ClockedConnection
    execute = _clocked(_Cursor.execute)
    fetchone = _clocked(_Cursor.fetchone)
    fetchall = _clocked(_Cursor.fetchall)


class ClockedConnection(_Connection):
    """A connection with the processor time of its statements so far, in seconds. For one thread at a time."""

    cursors = _ClockedCursor
    seconds = 0.0


def missing(path: Path) -> str | None:
    """Return why there is no index, or None; see `node.index.rows.backend.Backend`."""
    if path.exists() and has_schema(path):
        return None
    instances = (path.parent / "objects").glob("*/*.dcm"), (path.parent / "journal").glob("*.journal")
    if any(next(files, None) is not None for files in instances):
        return f"{path} is missing, but there are instances: {REMEDY}"
    return f"no index at {path}: is the root right? {maker_of(path.parent)} makes a new index"


def maker_of(root: Path) -> str:
    """Return what makes the index of a root that has none: a plain start refuses a folder that is no root yet."""
    return "a start" if (root / "objects").is_dir() else "`voxelnode serve --create`"


def has_schema(path: Path) -> bool:
    """Return whether a file has tables of the core, or cannot be read; without a migration of them it is no index."""
    with suppress(sqlite3.Error), closing(connect(path, read_only=True)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
            return False
        revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return any("_" not in str(revision) for (revision,) in revisions)
    return True


def is_as_left(path: Path) -> bool:
    """Return whether a start surely takes a file; else `node.index.rows.copying.require_usable` tells.

    It has the schema of this version and of its own extensions, was not moved, and is no unfinished copy.
    """
    from node.index.rows.about_keys import COPYING, MOVED, SCHEMA  # here: what every command loads needs none of these

    with suppress(sqlite3.Error), closing(connect(path, read_only=True)) as connection:
        names = {
            name
            for (name,) in connection.execute(
                'SELECT version_num FROM alembic_version UNION SELECT "key" FROM about WHERE "key" IN (?, ?)',
                (MOVED, COPYING),
            )
        }
        return names == SCHEMA and not damage(connection.execute, after_crash=True)
    return False


def damage(execute: Callable[[str], Iterable[Any]], *, after_crash: bool = False) -> list[str]:
    """Return what is wrong with a file, as sentences; see `node.index.rows.backend.Backend.problems`."""
    check = "PRAGMA quick_check(1)" if after_crash else "PRAGMA quick_check"  # of all but its indexes
    found = [f"integrity: {row[0]}" for row in execute(check) if row[0] != "ok"]
    if after_crash:
        return found
    return found + [
        f"foreign key: {table} row {row} names a missing {parent}"
        for table, row, parent, _ in execute("PRAGMA foreign_key_check")
    ]


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a database file, whichever characters its path has."""
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "")
    kind = ClockedConnection if read_only else _Connection
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, factory=kind)
