"""Open the database file: pragmas, migrations, checks."""

from __future__ import annotations

import datetime as dt
import logging
import os
import sqlite3
from contextlib import closing
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool

from node.errors import VoxelnodeError
from node.index.clocked import ClockedConnection
from node.index.models import REVISION, Base

if TYPE_CHECKING:
    from alembic.config import Config

FILE_NAME = "index.sqlite"
BUSY_SECONDS = 5.0
MAX_CONNECTIONS = 64
"""More than there are threads that read at once, so that no thread waits for the page of another."""

REMEDY = "restore it from a backup, or build a new one with `voxelnode db rebuild`"


class IndexUnusable(VoxelnodeError):
    """The database is missing, damaged, or of another version than this program."""


def missing_index(path: Path) -> str:
    """Return that there is no database at `path`, and what to do about it."""
    instances = (path.parent / "objects").glob("*/*.dcm"), (path.parent / "journal").glob("*.journal")
    if any(next(files, None) is not None for files in instances):
        return f"{path} is missing, but there are instances: restore it from a backup, or run `voxelnode db rebuild`"
    return f"no index at {path}: is the root right? `voxelnode db upgrade` makes a new index"


def open_engine(path: Path, *, read_only: bool = False) -> Engine:
    """Return an engine on one SQLite file.

    Write-ahead log with a sync at every commit, foreign keys enforced. Read-only engines never touch the file, so that
    only one process ever checkpoints. No URL has the path: SQLAlchemy and SQLite would each decode it.
    """
    engine = create_engine(
        "sqlite://",
        creator=lambda: connect(path, read_only=read_only),
        poolclass=QueuePool,
        hide_parameters=True,
        max_overflow=MAX_CONNECTIONS,
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin at our BEGIN, not where sqlite3 guesses
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        if not read_only:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA secure_delete = ON")  # deleted content is overwritten with zeros
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.connection.dbapi_connection.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a database file, whichever characters its path has."""
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "")
    kind = ClockedConnection if read_only else sqlite3.Connection
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, factory=kind)


def upgrade(path: Path) -> tuple[str | None, str]:
    """Create the database, or bring it to the newest schema.

    Returns
    -------
    (str or None, str)
        Revision before and after.

    Raises
    ------
    IndexUnusable
        It was written by a newer version, or is no SQLite database.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = open_engine(path)
    try:
        before = _revision(engine)
        if before != REVISION:
            _migrate(engine, path, before)
        return before, REVISION
    except DatabaseError as error:
        raise IndexUnusable(f"{path} is no usable SQLite database ({error.orig}): {REMEDY}") from error
    finally:
        engine.dispose()


def _migrate(engine: Engine, path: Path, before: str | None) -> None:
    from alembic import command  # here and below: only a migration and a check need Alembic

    config = _alembic()
    if before is not None and before not in _known_revisions(config):
        raise IndexUnusable(f"{path}: {_other_schema(before)}")
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_sound(path: Path) -> None:
    """Return if a database is whole, as far as SQLite can tell without checking its indexes.

    Raises
    ------
    IndexUnusable
        It is damaged.
    """
    engine = open_engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            problems = [str(row[0]) for row in connection.execute(text("PRAGMA quick_check(1)"))]
    except DatabaseError as error:
        problems = [str(error.orig)]
    finally:
        engine.dispose()
    if problems != ["ok"]:
        raise IndexUnusable(f"{path} is damaged ({problems[0]}): {REMEDY}")


def aside_name(root: Path, now: dt.datetime) -> str:
    """Return a file name that no index of a root has that was set aside before."""
    names = (f"index-{now:%Y%m%dT%H%M%S}{ending}.sqlite" for ending in chain([""], (f"-{n}" for n in count(2))))
    return next(name for name in names if not (root / name).exists())


def set_aside(root: Path, name: str) -> None:
    """Rename the index of a root, usable or not, to make room for a new one.

    The write-ahead log is renamed with it: it belongs to that database alone.
    """
    for ending in ("-wal", "-shm", ""):  # the database last: after a crash in between it still has its name
        old = root / f"{FILE_NAME}{ending}"
        if old.exists():
            os.rename(old, root / f"{name}{ending}")


def discard(root: Path) -> None:
    """Delete the index of a root: it was not finished."""
    for ending in ("", "-wal", "-shm"):
        (root / f"{FILE_NAME}{ending}").unlink(missing_ok=True)


def backup(path: Path, target: Path) -> int:
    """Copy a database, also while a node writes to it; return the bytes of the copy.

    The copy is a snapshot without a write-ahead log. It is synced, and gets its name by one rename.

    Raises
    ------
    IndexUnusable
        There is no database, or it cannot be read.
    """
    if not path.exists():
        raise IndexUnusable(missing_index(path))
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with (
            closing(connect(path, read_only=True)) as source,
            closing(sqlite3.connect(part)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise IndexUnusable(f"{path} cannot be copied: {error}") from error
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.rename(part, target)
    return target.stat().st_size


def check(path: Path) -> list[str]:
    """Return the problems of a database as sentences; empty if there are none."""
    if not path.exists():
        return [missing_index(path)]
    engine = open_engine(path, read_only=True)
    problems: list[str] = []
    try:
        with engine.connect() as connection:
            problems += [
                f"integrity: {row[0]}" for row in connection.execute(text("PRAGMA quick_check")) if row[0] != "ok"
            ]
            problems += [
                f"foreign key: {table} row {row} names a missing {parent}"
                for table, row, parent, _ in connection.execute(text("PRAGMA foreign_key_check"))
            ]
        if (revision := _revision(engine)) != REVISION:
            problems.append(_other_schema(revision))
        elif differences := schema_differences(engine):
            problems += [f"schema differs from the models: {difference}" for difference in differences]
    except DatabaseError as error:
        problems.append(f"not a usable SQLite database: {error.orig}")
    finally:
        engine.dispose()
    return problems


def _other_schema(revision: str | None) -> str:
    """Return what to do about a database whose schema is not that of this program."""
    if revision is None or revision in _known_revisions(_alembic()):
        return f"schema is {revision or 'empty'}, newest is {REVISION}; `voxelnode db upgrade` upgrades it"
    return f"schema is {revision}, which this version of voxelnode does not know: install the newer one"


def schema_differences(engine: Engine) -> list[str]:
    """Return the differences between the tables of a database and the models."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        return [
            str(difference) for difference in compare_metadata(MigrationContext.configure(connection), Base.metadata)
        ]


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision


def _known_revisions(config: Config) -> set[str]:
    from alembic.script import ScriptDirectory

    return {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}


def _alembic() -> Config:
    from alembic.config import Config

    # A wheel has the migrations inside the package, a checkout beside it.
    installed = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option(
        "script_location", str(installed if installed.is_dir() else Path(__file__).parents[2] / "migrations")
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return config
