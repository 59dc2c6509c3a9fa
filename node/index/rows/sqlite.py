"""The index in a SQLite file: how it is opened, written to, checked, copied and set aside."""

import datetime as dt
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.pool import QueuePool

from node.index.rows.backend import Failure, IndexUnusable, OldIndex, Standbys, column
from node.index.rows.grams import NAME
from node.index.rows.sharing import Sharing
from node.index.rows.sqlite_file import KEPT_WAL_BYTES, LOCKED, connect, damage, missing

__all__ = ["missing"]  # of `node.index.rows.backend.Backend`

Error = sqlite3.Error
MAX_CONNECTIONS = 64
"""More than there are threads that read at once, so that no thread waits for the page of another."""


def open_engine(path: Path, *, read_only: bool = False, alone: bool = False) -> Engine:
    """Return an engine on one SQLite file.

    Write-ahead log with a sync at every commit, foreign keys enforced. Read-only engines never touch the file, so that
    only one process ever checkpoints; the lock of the root keeps all others out. No URL has the path: SQLAlchemy and
    SQLite would each decode it.
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
            cursor.execute(f"PRAGMA journal_size_limit = {KEPT_WAL_BYTES}")
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA secure_delete = ON")  # deleted content is overwritten with zeros
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.connection.dbapi_connection.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def prepare(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def enter(connection: Connection, path: Path) -> None:
    """A file in a root is the index of that root."""


def problems(connection: Connection, *, after_crash: bool = False) -> list[str]:
    return damage(lambda pragma: connection.execute(text(pragma)), after_crash=after_crash)


def backup(path: Path, target: Path) -> None:
    """Copy a database to a file, also while a node writes to it.

    The copy is a snapshot without a write-ahead log. It is synced, and gets its name by one rename. Raises
    IndexUnusable if there is no database, or it cannot be read.
    """
    if (message := missing(path)) is not None:
        raise IndexUnusable(message)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with closing(connect(path, read_only=True)) as source, closing(connect(part)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise IndexUnusable(f"{path} cannot be copied: {error}") from error
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.rename(part, target)


MERGED_PAGES = 100
"""Pages of grams that are merged in one transaction, for which the writer waits: some 15 ms."""


def overwrite_deleted(engine: Engine) -> bool:
    """The pages of the write-ahead log go into the database, and the log is cut; a reader may prevent it.

    FTS5 keeps the grams of deleted studies until all of its parts are merged into one. (Its option ``secure-delete``
    does without, but SQLite knows that from 3.42 on only, and older ones could not read the index any more.)
    """
    with closing(engine.raw_connection()) as connection:
        cursor, driver = connection.cursor(), cast(sqlite3.Connection, connection.dbapi_connection)
        cursor.execute("PRAGMA synchronous = NORMAL")  # the log is synced when its pages go into the database
        try:
            pages, is_merged = -MERGED_PAGES, False  # the first step takes all parts together
            while not is_merged:
                before = driver.total_changes
                cursor.execute(f"INSERT INTO {NAME} ({NAME}, rank) VALUES ('merge', ?)", (pages,))
                pages, is_merged = MERGED_PAGES, driver.total_changes - before < 2
        finally:
            cursor.execute("PRAGMA synchronous = FULL")
        return bool(cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


UNTRUSTED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY})
"""Primary result codes after which nothing more may be written; a full or a busy database recovers."""

STEPS = 20_000
"""Steps of SQLite's virtual machine between two checks of the clock: about a millisecond."""


def allow_temporary(connection: Connection) -> str:
    """What is temporary is in a database of its own, which a connection that only reads may write to."""
    connection.exec_driver_sql("PRAGMA temp_store = MEMORY")
    return "main"


def begin_batch(connection: Connection, *, durable: bool) -> Callable[[], bool]:
    driver = _driver(connection)
    driver.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    before = driver.total_changes
    return lambda: driver.total_changes != before


_GROWING = dict.fromkeys(("images", "patients", "project_contents", "project_series"), ("DELETE", "UPDATE")) | {
    "series": ("DELETE", "UPDATE OF study_id, series_instance_uid"),
    "studies": ("DELETE", "UPDATE OF study_instance_uid, patient_id, named_patient_id"),
}
"""The changes that take something away, of tables to which receiving only adds rows. In any other table, each change
may take something away."""

_BESIDE = frozenset((
    "about", "audit_lines", "awaited_senders", "conflicts", "conversions", "events", "exclusions", "failures", "hosts",
    "image_documents", "leases", "object_removals", "open_associations", "owed_events", "owed_images", "results",
    "rejections", "revision_files", "senders", "sent_instances", "series_documents", "series_references", "statements",
    "volume_sources", "volumes", "work",
))  # fmt: skip
"""Tables that no answer with the bytes of an instance depends on. The node writes to them all the time."""


def watch(connection: Connection, taken: Callable[[], None]) -> None:
    """The triggers are temporary: they belong to this connection, and the writer has no other."""
    driver = _driver(connection)
    driver.create_function("taken", 0, taken)
    tables = {str(name) for (name,) in driver.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in (name for name in tables - _BESIDE if not name.startswith((NAME, "sqlite"))):
        for change in _GROWING.get(table, ("INSERT", "DELETE", "UPDATE")):
            event = f'"{change.split()[0]} {table}" AFTER {change} ON main."{table}"'
            driver.execute(f"CREATE TEMP TRIGGER {event} BEGIN SELECT taken(); END")


def failure(error: BaseException, connection: Connection | None = None) -> Failure:
    """No room and errors of the disk are of other classes than errors of rows."""
    cause = getattr(error, "orig", error)
    exactly = getattr(cause, "sqlite_errorcode", 0)
    code, found = exactly & 0xFF, Failure(0)
    if code in UNTRUSTED and exactly != sqlite3.SQLITE_IOERR_SHMSIZE:  # no room for what readers share
        found |= Failure.DISK | Failure.BATCH
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        found |= Failure.LOCKED
    if not isinstance(cause, sqlite3.OperationalError) and type(cause) is not sqlite3.DatabaseError:
        found |= Failure.ROWS
    return found


def lockers(path: Path) -> str:
    return f"{LOCKED}: close that program (`fuser {path}` prints its PID, and {os.getpid()}, that of voxelnode itself)"


def hold(connection: Connection, names: Iterable[str]) -> None:
    """A transaction that writes is alone."""


@contextmanager
def bounded(connection: Connection, is_over: Callable[[], bool]) -> Iterator[None]:
    driver = _driver(connection)
    driver.set_progress_handler(is_over, STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, STEPS)


def last_numbers(connection: Connection) -> dict[str, int]:
    """Others than tables with AUTOINCREMENT use the ids of deleted rows again."""
    return {name: number for name, number in connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")}


def number_after(connection: Connection, last: Mapping[str, int]) -> None:
    there = last_numbers(connection)
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"
    for (name,) in connection.exec_driver_sql(query).all():
        number = max(there.get(name, 0), last.get(name, 0))
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES (?, ?)", (name, number))


def sharing(path: Path, reader: Engine) -> Sharing:
    return Sharing()


def moment(connection: Connection) -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def standbys(connection: Connection) -> Standbys:
    return Standbys({})


def plain(rows: Iterable[Sequence[Any]]) -> Iterable[Sequence[Any]]:
    return rows


def software(connection: Connection) -> tuple[str, str]:
    """The library that this process has loaded."""
    return "SQLite", str(connection.exec_driver_sql("SELECT sqlite_version()").scalar_one())


def mistakes(path: Path) -> list[str]:
    return []


def server(path: Path) -> None: ...


def _driver(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.dbapi_connection)


def aside_name(path: Path, now: dt.datetime) -> str | None:
    names = (f"index-{now:%Y%m%dT%H%M%S}{ending}.sqlite" for ending in chain([""], (f"-{n}" for n in count(2))))
    return next(name for name in names if not path.with_name(name).exists()) if path.exists() else None


def make_room(path: Path, name: str | None) -> None:
    """The write-ahead log is renamed with the database: it belongs to that one alone."""
    is_aside = name is None or path.with_name(name).exists()
    for ending in ("-wal", "-shm", ""):  # the database last: after a crash in between it still has its name
        part = path.with_name(f"{path.name}{ending}")
        if is_aside:
            part.unlink(missing_ok=True)
        elif part.exists():
            os.rename(part, path.with_name(f"{name}{ending}"))


def read_aside(path: Path, name: str) -> OldIndex:
    return _OldFile(path.with_name(name))


class _OldFile(OldIndex):
    """An index in a file of SQLite.

    `path`: the database; its write-ahead log lies beside it and is part of it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._connection = connect(path)

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def tables(self) -> list[str]:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        try:
            return [str(name) for (name,) in self._connection.execute(query)]
        except sqlite3.DatabaseError:
            return []

    def rows(self, table: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        try:
            there = {str(row[1]) for row in self._connection.execute(f'PRAGMA table_info("{table}")')}
        except sqlite3.DatabaseError as error:
            self.salvaged.unread[table] = str(error)
            return
        if not there:  # of a schema that did not have it yet
            if "alembic_version" not in self.tables():
                self.salvaged.unread[table] = "the file has no index"
            return
        columns = ", ".join(column(name, there) for name in names)
        query = f'SELECT rowid, {columns} FROM "{table}" NOT INDEXED WHERE rowid > ? ORDER BY rowid'
        last = -(1 << 63)
        try:
            for row in self._connection.execute(query, (last,)):
                last = row[0]
                yield dict(zip(names, row[1:], strict=True))
        except sqlite3.DatabaseError as error:
            self.salvaged.unread[table] = str(error)
            yield from self._rows_from_the_end(query, last, names)

    def _rows_from_the_end(self, query: str, last: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        try:
            for row in self._connection.execute(f"{query} DESC", (last,)):
                yield dict(zip(names, row[1:], strict=True))
        except sqlite3.DatabaseError:  # the other side of the damage
            return
