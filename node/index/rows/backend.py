"""What SQLite and a server do differently: the backends are `node.index.rows.sqlite`, and one of an extension."""

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from node.errors import OutOfResources, VoxelnodeError
from node.files.acknowledged import Acknowledged
from node.registry import INDEX_BACKEND

if TYPE_CHECKING:
    from sqlalchemy import Connection, Dialect, Engine

    from node.index.rows.sharing import Sharing


FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "labels are gone; retention deletes nothing until `voxelnode retention confirm`": ("labels",),
    "accounts, their tokens and codes are gone; `voxelnode account add` adds them again": (
        "accounts", "tokens", "recovery_codes",
    ),
    "everybody has to sign in again": ("web_sessions",),
    "projects, their members or contents are gone; an administrator makes them again": (
        "projects", "project_members", "limited_accounts", "project_contents",
    ),
    "what was deleted is not known, and instances in the trash are back in the archive": ("tombstones", "trash"),
    "lost instances are known from the ledger alone": ("lost_instances",),
    "merges of patients are undone": ("patients",),
    "decisions about conflicts are gone": ("conflicts",),
    "the calling AE title and the time of receipt come from the files": ("images",),
    "series are converted again, and their earlier revisions are not known": (
        "studies", "series", "conversions", "volumes", "revision_files", "volume_sources", "exclusions", "failures",
        "series_references",
    ),
    "events and refusals from before are not listed any more": ("events", "rejections"),
    "what was queued for hooks, routes and storage commitment is not sent": (
        "subscribers", "work", "results", "owed_events", "owed_images",
    ),
    "quiet times are learnt again": ("senders",),
    "what modalities reported of their procedure steps is gone": ("performed_steps", "performed_series"),
    "the node finds again how far it was": ("about", "alembic_version"),
}  # fmt: skip
"""What follows if not all rows of tables can be read."""


@dataclass(slots=True)
class Salvaged:
    """What was taken over: rows by table, and what could not be read.

    `altered` are the keys of files that are not as the old index knew them, `gone` the instances that it knew and that
    have no file. `limited` is how many accounts see their projects only from now on, because nobody knows who did.
    `left` are the rows by table that were not taken over, because they are of extensions that are `not_installed`.
    """

    rows: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    altered: list[str] = field(default_factory=list)
    gone: list[Acknowledged] = field(default_factory=list)
    limited: int = 0
    not_installed: list[str] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)

    def what_follows(self) -> dict[tuple[str, ...], str]:
        """Return what is gone of the tables that were not read to their end, and what follows, grouped by that."""
        by_table = {table: follows for follows, tables in FOLLOWS.items() for table in tables}
        grouped: dict[str, list[str]] = {}
        for table in self.unread:
            grouped.setdefault(by_table.get(table, "those rows are gone"), []).append(table)
        order = [*FOLLOWS, "those rows are gone"]
        return {tuple(grouped[follows]): follows for follows in order if follows in grouped}


class OldIndex(AbstractContextManager["OldIndex"]):
    """The tables of an index that may be damaged or of an older schema."""

    def __init__(self) -> None:
        self.salvaged = Salvaged()

    @abstractmethod
    def tables(self) -> list[str]:
        """Return the names of all tables, in their order; none if they cannot be read."""

    @abstractmethod
    def rows(self, table: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table that can be read, with the values that SQLite has; columns that its schema lacks
        are None."""


def column(name: str, there: set[str]) -> str:
    """Return a column of an old table in SQL, or NULL if its schema lacks it."""
    return f'"{name}"' if name in there else "NULL"


REMEDY = (
    "restore it from a backup (if it is a file, remove its -wal and -shm first), or build a new one with `voxelnode db "
    "rebuild`"
)


class IndexUnusable(VoxelnodeError):
    """The database is missing, damaged, in use, or of another version than this program."""


class BeingMigrated(IndexUnusable):
    """Another process that is no host yet has the database alone, as for a migration."""


class Overtaken(OutOfResources):
    """Another writer has just inserted a row that this one was about to insert: done again, the work finds it."""


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """A database of PostgreSQL: the URL of ``[index] url``, the folder to which its paths are relative, and the host.

    `host` is the name by which this process is one of several that write to the index. With `has_roots`, each of them
    has a root of its own, and they share an object store.
    """

    url: str
    root: Path
    host: str = ""
    has_roots: bool = False

    def __str__(self) -> str:
        return self.url


FILE_NAME = "index.sqlite"

Place = Path | ServerPlace
"""Where an index is: a file of SQLite, or a database of PostgreSQL."""


def place_of(root: Path, url: str | None) -> Place:
    """Return where the index of a root is, by ``[index] url``."""
    return root.absolute() / FILE_NAME if url is None else ServerPlace(url, root.absolute())


@dataclass(frozen=True, slots=True)
class Standbys:
    """The standbys of a server.

    `counts`: how many there are, by how they follow; ``unknown`` without the right to see it.
    `weakness`: why a commit may be lost although it was durable.
    `stall`: why no commit ends at present.
    """

    counts: Mapping[str, int]
    weakness: str | None = None
    stall: str | None = None


class WriterServer(Protocol):
    """The server that has the writer of this process, which cannot tell why it waits for the server while it does."""

    def why_waiting(self) -> str | None:
        """Return what keeps the writer waiting, to be read after "the server"; None: unknown."""

    def cut_writer(self) -> None:
        """Cut the connection of the writer: whatever it waits for fails."""


class Failure(Flag):
    """What a failure of work on the index means; one may mean several of these, or none."""

    ROWS = auto()
    """It is about the rows that were to be written: trying again does not help."""

    OTHER_WRITERS = auto()
    """Another writer did something meanwhile: the work may succeed when it is done again."""

    LOCKED = auto()
    """Somebody has locked what a statement wanted."""

    BATCH = auto()
    """The transaction cannot be committed: all of its work has failed."""

    DISK = auto()
    """The database cannot be trusted any more: nothing may be written."""


class Backend(Protocol):
    """The functions of the module of a database system."""

    Error: type[Exception]
    """The base class of the errors of its driver, for statements that do not pass through SQLAlchemy."""

    def open_engine(self, place: Any, *, read_only: bool = False, alone: bool = False) -> Engine:
        """Return an engine for the writer of a host, or for readers: each transaction of these sees one snapshot.

        `alone`: no other process writes to the index as long as the engine is connected: for migrations and copies.
        """

    def missing(self, place: Any) -> str | None:
        """Return a message that there is no database with a schema, with the remedy; None if there is one."""

    def prepare(self, place: Any) -> None:
        """Make room for a database, or raise IndexUnusable if an index cannot be made there."""

    def enter(self, connection: Connection, place: Any) -> None:
        """Note whose index it is when a node opens it; raise IndexUnusable if it is the index of another root."""

    def problems(self, connection: Connection, *, after_crash: bool = False) -> list[str]:
        """Return what is damaged, as sentences; reads the whole database.

        `after_crash`: only what a crash may have damaged, and what a node does not notice while it works.
        """

    def overwrite_deleted(self, engine: Engine) -> bool:
        """Leave no deleted row in a file of the index; return False if it has to be done later, or by the server."""

    def allow_temporary(self, connection: Connection) -> str:
        """Let the transaction of a reader make temporary tables and views; return the schema of the others."""

    def begin_batch(self, connection: Connection, *, durable: bool) -> Callable[[], bool]:
        """Prepare a transaction of the writer; without `durable`, its commit may be lost if later ones are, too.

        Returns a function that tells, before the commit, whether the transaction has changed rows.
        """

    def watch(self, connection: Connection, taken: Callable[[], None]) -> None:
        """Call a function whenever a statement of the writer takes something away, see `Index.version`."""

    def failure(self, error: BaseException, connection: Connection | None = None) -> Failure:
        """Return what an error of work means; only with its connection, whether that was lost."""

    def lockers(self, place: Any) -> str:
        """Return who has locked what a statement wanted, and what to do about it."""

    def hold(self, connection: Connection, names: Iterable[str]) -> None:
        """Let no other writer hold any of `names` until the end of the transaction; wait for those that do."""

    def bounded(self, connection: Connection, is_over: Callable[[], bool]) -> AbstractContextManager[None]:
        """Interrupt statements when `is_over`, which is polled, returns True."""

    def last_numbers(self, connection: Connection) -> dict[str, int]:
        """Return the largest id that each table ever gave a row, of tables whose ids are not used again."""

    def number_after(self, connection: Connection, last: Mapping[str, int]) -> None:
        """Give new rows larger ids than these, and than those that are there."""

    def sharing(self, place: Any, reader: Engine) -> Sharing:
        """Return what this process may do among those that write to the index, which reads with an engine."""

    def moment(self, connection: Connection) -> dt.datetime:
        """Return the time of the clock that the hosts of an index share."""

    def standbys(self, connection: Connection) -> Standbys:
        """Return which standbys the server has, and what that means for commits."""

    def plain(self, rows: Iterable[Sequence[Any]]) -> Iterable[Sequence[Any]]:
        """Return rows of a statement that was written out: times and lists are text, truth is 0 or 1."""

    def software(self, connection: Connection) -> tuple[str, str]:
        """Return the name and the version of the database system."""

    def mistakes(self, place: Any) -> list[str]:
        """Return what is wrong with the configuration, without a connection."""

    def server(self, place: Any) -> WriterServer | None:
        """Return the server that the writer of this process is connected to; None: the index is a file."""

    def aside_name(self, place: Any, now: dt.datetime) -> str | None:
        """Return a name that the index there can get to make room for a new one; None if there is none."""

    def make_room(self, place: Any, name: str | None) -> None:
        """Set the index aside under a name. If it has that already, or without a name, drop what was built since."""

    def read_aside(self, place: Any, name: str) -> OldIndex:
        """Return an index that was set aside under a name, to be read."""


class ServerBackend(Backend, Protocol):
    """What the module of a server has in addition, for `node.index.rows.hot_statements`."""

    def prepared_dialect(self) -> Dialect:
        """Return the dialect of statements that are compiled once."""

    def prepared_cursor(self, connection: Any) -> Any:
        """Return a cursor of a connection of the driver whose rows have the values that SQLite gives them."""

    def next_number(self, table: str) -> str:
        """Return the SQL for the id of a new row of a table of `node.index.rows.sharing.FOLLOWED`."""


SQLITE, SERVER = "sqlite", "postgresql"
"""The dialects of SQLAlchemy that the constructs of `node.index.rows.sql` are compiled for."""


@cache
def backend(name: str) -> Backend:
    """Return the backend of a dialect; only a node on PostgreSQL loads its driver."""
    try:
        return cast(Backend, import_module("node.index.rows.sqlite" if name == SQLITE else INDEX_BACKEND))
    except ModuleNotFoundError as error:
        raise IndexUnusable(
            f"[index] url needs {error.name}, which is not installed: pip install 'voxelnode[cluster]'"
        ) from error


def backend_at(place: Place) -> Backend:
    """Return the backend of a place."""
    return backend(SQLITE if isinstance(place, Path) else SERVER)


def server_backend() -> ServerBackend:
    """Return the backend of servers."""
    return cast(ServerBackend, backend(SERVER))


def backend_of(connection: Connection) -> Backend:
    """Return the backend of a connection."""
    return backend(connection.dialect.name)


def reason_of(error: BaseException, *, coded: bool = False) -> str:
    """Return the reason that a database gives for an error, for a person; `coded`: with SQLite's name of it.

    PostgreSQL's reason may quote rows; its code does not; only the code is reported.
    """
    cause = getattr(error, "orig", None) or error
    code, name = getattr(cause, "sqlstate", None), getattr(cause, "sqlite_errorname", None)
    if code is not None:
        return f"{type(cause).__name__}, SQLSTATE {code}"
    return f"{name}: {str(cause).strip()}" if coded and name else str(cause).strip()
