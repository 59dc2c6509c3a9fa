"""The index in a database of a PostgreSQL server: how it is written to, checked, copied and set aside."""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain, count
from typing import Any

import psycopg
from psycopg.errors import (
    DataError,
    DeadlockDetected,
    ForeignKeyViolation,
    IntegrityError,
    LockNotAvailable,
    ProgramLimitExceeded,
    SerializationFailure,
    UniqueViolation,
)
from sqlalchemy import Connection, Dialect, Engine, text
from sqlalchemy.exc import DBAPIError

from node.extensions.postgresql.dialect import IndexDialect, as_sqlite, rows_as_sqlite, to_json
from node.extensions.postgresql.dialect import next_number as next_number  # of the backend, as the functions below
from node.extensions.postgresql.servers import (
    LOCK,
    LOCK_SECONDS,
    NEW_DATABASE,
    STANDBYS,
    DatabaseMissing,
    in_words,
    mistakes_in,
    open_engine,
    reading,
    servers_of,
)
from node.extensions.postgresql.several import SeveralHosts
from node.index.rows.backend import (
    Failure,
    IndexUnusable,
    OldIndex,
    Overtaken,
    ServerPlace,
    Standbys,
    WriterServer,
    column,
    reason_of,
)
from node.index.rows.place import has_schema

Error = psycopg.Error
FIRST_VERSION = 15
SORTED_BY_CODE_POINT = frozenset({"C", "POSIX", "C.UTF-8", "C.utf8"})


POLL_SECONDS = 0.1


def missing(place: ServerPlace) -> str | None:
    try:
        with reading(place) as connection:
            if has_schema(connection):
                return None
    except DatabaseMissing:
        pass
    instances = (place.root / "objects").glob("*/*.dcm"), (place.root / "journal").glob("*.journal")
    if any(next(files, None) is not None for files in instances):
        return (
            f"no index in {place}, but there are instances: check [index] url, restore a backup, copy another index of "
            "this root there with `voxelnode db copy --to URL`, or build one with `voxelnode db rebuild`"
        )
    return f"no index in {place}: is [index] url right? `voxelnode db upgrade` makes a new index"


def prepare(place: ServerPlace) -> None:
    """Require a server and a database on which an index is right: another order of text would find other instances."""
    with reading(place) as connection:
        version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
        if version < FIRST_VERSION * 10_000:
            raise IndexUnusable(f"{place}: PostgreSQL {version // 10_000} is too old, {FIRST_VERSION} is needed")
        encoding, collation, provider = connection.execute(
            text(
                "SELECT pg_encoding_to_char(encoding), datcollate, datlocprovider FROM pg_database "
                "WHERE datname = current_database()"
            )
        ).one()
        if encoding != "UTF8" or collation not in SORTED_BY_CODE_POINT or provider == "i":
            raise IndexUnusable(
                f"{place}: the encoding of the database is {encoding} and its collation {collation}, not UTF8 and C: "
                f"create another one with {NEW_DATABASE}"
            )
        require_durable(connection)


def enter(connection: Connection, place: ServerPlace) -> None:
    """Note the folder from which views make paths. It may have been moved; then it has the files of the index."""
    if place.has_roots:
        _enter_with_own_root(connection, place)
        return
    key = connection.exec_driver_sql("SELECT key FROM images WHERE NOT file_missing ORDER BY id DESC LIMIT 1").scalar()
    if key is None or not (place.root / key).exists():  # else it is the root of that host, which has another name now
        others = connection.execute(
            text("SELECT name FROM hosts WHERE name <> :host AND lease_until > timezone('utc', clock_timestamp())"),
            {"host": place.host},
        ).scalars()
        if names := ", ".join(sorted(others)):
            raise IndexUnusable(
                f"{place} is in use by {names}: hosts of one index share an object store, so set [storage] url on each"
            )
        of_root = connection.exec_driver_sql("SELECT value FROM about WHERE key = 'root'").scalar()
        if key is not None and of_root not in (None, str(place.root)):
            raise IndexUnusable(
                f"{place} is the index of {of_root}, and {place.root} lacks its file {key}: check [storage] root and "
                "[index] url, or make a database of its own for this root"
            )
    _note_root(connection, place)


def _enter_with_own_root(connection: Connection, place: ServerPlace) -> None:
    """Refuse a root that lacks the instances from before the object store: its host would not move them there."""
    has_moved = connection.exec_driver_sql("SELECT value FROM about WHERE key = 'store_spooled'").scalar() == "yes"
    query = "SELECT key FROM images WHERE NOT file_missing AND place IS NULL ORDER BY id DESC LIMIT 1"
    key = None if has_moved else connection.exec_driver_sql(query).scalar()
    if key is not None and not (place.root / key).exists():
        raise IndexUnusable(
            f"{place} has instances that are in no object store yet, and {place.root} lacks their file {key}: first "
            "start the host that has these files, with [storage] url"
        )
    _note_root(connection, place)


def _note_root(connection: Connection, place: ServerPlace) -> None:
    connection.execute(
        text("INSERT INTO about VALUES ('root', :root) ON CONFLICT (key) DO UPDATE SET value = excluded.value"),
        {"root": str(place.root)},
    )
    connection.commit()


def require_durable(connection: Connection) -> None:
    """Refuse a server that answers a commit before it is on the disk."""
    if connection.execute(text("SHOW fsync")).scalar_one() != "on":
        raise IndexUnusable(
            "PostgreSQL runs with fsync = off: a power cut would lose what was acknowledged; set fsync = on"
        )


def problems(connection: Connection, *, after_crash: bool = False) -> list[str]:
    """The server reports damaged pages when it reads them, if it has checksums; it recovers from its own crash."""
    if after_crash:
        return []
    failures = connection.execute(
        text("SELECT coalesce(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database()")
    ).scalar_one()
    return [f"integrity: {failures} pages with a wrong checksum; see the log of the server"] if failures else []


def overwrite_deleted(engine: Engine) -> bool:
    """The server keeps deleted rows until it vacuums, and its log until it recycles that."""
    return False


def allow_temporary(connection: Connection) -> str:
    connection.exec_driver_sql("SET TRANSACTION READ WRITE")
    return str(connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one())


def begin_batch(connection: Connection, *, durable: bool) -> Callable[[], bool]:
    """Each commit is durable: the server may crash without the node, which would not notice what was lost.

    A transaction gets a number when it first writes.
    """

    def has_changed() -> bool:
        driver: Any = connection.connection.dbapi_connection  # asked for each transaction: without SQLAlchemy
        row: tuple[bool] = driver.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone()
        return row[0]

    return has_changed


def watch(connection: Connection, taken: Callable[[], None]) -> None:
    """Other hosts write as well: no answer is kept (`Index.version`)."""


def failure(error: BaseException, connection: Connection | None = None) -> Failure:
    """The server looks after its disk. A limit of rows is that of an entry of an index: 2704 bytes, compressed.

    The row that another one refers to may be gone meanwhile, and a row that was not found may be there. A lock that
    cannot be had in one transaction cannot be had by the rest of its work.
    """
    cause = getattr(error, "orig", None) or error
    found = Failure(0)
    if not isinstance(cause, psycopg.Error) or isinstance(cause, DataError | IntegrityError | ProgramLimitExceeded):
        found |= Failure.ROWS
    kinds = Overtaken, DeadlockDetected, SerializationFailure, UniqueViolation, ForeignKeyViolation
    if isinstance(cause, kinds):
        found |= Failure.OTHER_WRITERS
    if isinstance(cause, LockNotAvailable | DeadlockDetected):
        found |= Failure.LOCKED
    driver: Any = None if connection is None or connection.invalidated else connection.connection.dbapi_connection
    is_lost = connection is not None and (driver is None or driver.closed)
    if is_lost or isinstance(cause, LockNotAvailable):
        found |= Failure.BATCH
    return found


def lockers(place: ServerPlace) -> str:
    engine = open_engine(place, read_only=True)
    try:
        with engine.connect() as connection:
            return _in_the_way(connection)
    finally:
        engine.dispose()


_USERS_OF_TABLES = """
SELECT pid, coalesce(nullif(application_name, ''), 'a program'), coalesce(usename, '?'), host(client_addr),
    xact_start AT TIME ZONE 'utc'
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND pid IN (
    SELECT pid FROM pg_locks JOIN pg_class ON pg_class.oid = relation AND relkind IN ('r', 'v')
    WHERE granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND relnamespace = to_regnamespace(current_schema())::oid)
ORDER BY xact_start, pid LIMIT 3
"""


def _in_the_way(connection: Connection) -> str:
    """Return which transactions use tables of the index, those that began first, and what to do about them."""
    users = [
        f"process {pid} ({program} of role {role}{f' from {host}' if host else ''}"
        f"{f', since {since:%Y-%m-%d %H:%M:%S} UTC' if since else ''})"
        for pid, program, role, host, since in connection.exec_driver_sql(_USERS_OF_TABLES)
    ]
    named = f": {', '.join(users)}" if users else ", in transactions that have ended meanwhile"
    return (
        f"others have locked its tables{named}. Wait until they have ended, or end them with `SELECT "
        "pg_terminate_backend(PROCESS)`, then start again"
    )


def hold(connection: Connection, names: Iterable[str]) -> None:
    """Advisory locks, in the same order for all writers.

    There are 256 of them, because the server has room for some thousand: names that share one cost time only.
    """
    encoded = (name.encode("utf-8", "surrogatepass") for name in names)
    keys = sorted({LOCK << 8 | blake2b(name, digest_size=1).digest()[0] for name in encoded})
    connection.exec_driver_sql("SELECT count(pg_advisory_xact_lock(key)) FROM unnest(%s::bigint[]) AS key", (keys,))


@contextmanager
def bounded(connection: Connection, is_over: Callable[[], bool]) -> Iterator[None]:
    driver: Any = connection.connection.dbapi_connection
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if is_over():
                driver.cancel_safe(timeout=LOCK_SECONDS)

    watcher = threading.Thread(target=watch, name="query-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


_SEQUENCES = (
    "SELECT c.relname, pg_get_serial_sequence(quote_ident(c.relname), 'id') FROM pg_class c "
    "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'id' "
    "WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
)


def last_numbers(connection: Connection) -> dict[str, int]:
    return {
        table: connection.exec_driver_sql(f"SELECT last_value FROM {sequence}").scalar_one()
        for table, sequence in connection.exec_driver_sql(_SEQUENCES).all()
        if sequence is not None and connection.exec_driver_sql(f"SELECT is_called FROM {sequence}").scalar_one()
    }


def number_after(connection: Connection, last: Mapping[str, int]) -> None:
    for table, sequence in connection.exec_driver_sql(_SEQUENCES).all():
        if sequence is None:
            continue
        there = connection.exec_driver_sql(f'SELECT max(id) FROM "{table}"').scalar_one() or 0
        if (number := max(there, last.get(table, 0))) > 0:
            connection.exec_driver_sql(f"SELECT setval('{sequence}', {number})")


def sharing(place: ServerPlace, reader: Engine) -> SeveralHosts:
    return SeveralHosts(reader, place.host, shares_store=place.has_roots)


def moment(connection: Connection) -> dt.datetime:
    now: dt.datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return now.astimezone(dt.UTC)


def standbys(connection: Connection) -> Standbys:
    """By ``sync_state``: ``sync``, ``quorum``, ``potential`` or ``async``; seen with the rights of ``pg_monitor``."""
    rows = connection.exec_driver_sql(
        "SELECT coalesce(sync_state, 'unknown'), count(*) FROM pg_stat_replication GROUP BY 1"
    )
    counts = {state: count for state, count in rows}
    names, followers, waited_for, who = connection.exec_driver_sql(STANDBYS).one()
    if names:
        return Standbys(counts, stall=None if waited_for else f"commits wait for a standby: {in_words(names, who)}")
    if not followers:
        return Standbys(counts)
    return Standbys(
        counts,
        f"standbys of PostgreSQL that follow asynchronously: {followers}; a failover to one of them may lose the last "
        "commits, although instances were acknowledged after them",
    )


def plain(rows: Iterable[Sequence[Any]]) -> Iterable[Sequence[Any]]:
    return (tuple(map(as_sqlite, row)) for row in rows)


def prepared_dialect() -> Dialect:
    return IndexDialect(paramstyle="format", json_serializer=to_json)  # type: ignore[no-untyped-call]


def prepared_cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    return connection.cursor(row_factory=rows_as_sqlite)


def software(connection: Connection) -> tuple[str, str]:
    """The server, which may be of another version than the driver."""
    return "PostgreSQL", str(connection.exec_driver_sql("SHOW server_version").scalar_one())


def mistakes(place: ServerPlace) -> list[str]:
    return mistakes_in(place.url)


def server(place: ServerPlace) -> WriterServer:
    return servers_of(place.url)


def aside_name(place: ServerPlace, now: dt.datetime) -> str | None:
    with reading(place) as connection:
        if not connection.execute(_RELATIONS).all():
            return None
        taken = set(connection.scalars(text("SELECT nspname FROM pg_namespace")))
    names = (f"index_{now:%Y%m%dt%H%M%S}{ending}" for ending in chain([""], (f"_{n}" for n in count(2))))
    return next(name for name in names if name not in taken)


def make_room(place: ServerPlace, name: str | None) -> None:
    engine = open_engine(place, alone=True)
    try:
        with engine.connect() as connection, connection.begin():
            _make_room(connection, name)
    finally:
        engine.dispose()


def read_aside(place: ServerPlace, name: str) -> OldIndex:
    return _OldSchema(open_engine(place, read_only=True), name)


PAGES = 256
"""Pages of a table that are read in one step."""

_RELATIONS = text(
    "SELECT relname, relkind = 'v' FROM pg_class c WHERE relnamespace = 'public'::regnamespace "
    "AND relkind IN ('r', 'v') AND pg_get_userbyid(relowner) = current_user "
    "AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY 2 DESC, 1"
)
"""Tables and views of the role, the views first; not those of extensions."""


def _make_room(connection: Connection, name: str | None) -> None:
    """Move an index to the schema `name`. If that has one already, or without a name, drop what was built since."""
    kinds: dict[str, list[str]] = {"VIEW": [], "TABLE": []}
    for relation, is_view in connection.execute(_RELATIONS):
        kinds["VIEW" if is_view else "TABLE"].append(f'public."{relation}"')
    of_name = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    if name is not None and connection.execute(of_name, {"name": name}).first() is None:
        connection.execute(text(f'CREATE SCHEMA "{name}"'))
        for kind, some in kinds.items():
            for relation in some:
                connection.execute(text(f'ALTER {kind} {relation} SET SCHEMA "{name}"'))
        return
    for kind, some in kinds.items():
        if some:
            connection.execute(text(f"DROP {kind} {', '.join(some)}"))


class _OldSchema(OldIndex):
    """An index in a schema of a database. Of a table with damaged pages, the others are read."""

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__()
        self._name, self._engine = name, engine
        self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._engine.dispose()

    def tables(self) -> list[str]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = :schema ORDER BY tablename"
        return list(self._connection.scalars(text(query), {"schema": self._name}))

    def rows(self, table: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        columns = (
            "SELECT column_name FROM information_schema.columns WHERE table_schema = :schema AND table_name = :table"
        )
        there = set(self._connection.scalars(text(columns), {"schema": self._name, "table": table}))
        if not there:  # of a schema that did not have it yet
            return
        relation = f'"{self._name}"."{table}"'
        pages = f"SELECT pg_relation_size('{relation}'::regclass) / current_setting('block_size')::bigint"
        wanted = ", ".join(column(name, there) for name in names)
        query = f"SELECT {wanted} FROM {relation} WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid"
        end = self._connection.exec_driver_sql(pages).scalar_one()
        for first in range(0, end, PAGES):
            for row in self._read(table, query, first, min(first + PAGES, end)):
                yield dict(zip(names, row, strict=True))

    def _read(self, table: str, query: str, first: int, end: int) -> list[Sequence[Any]]:
        """Return the rows of the pages that can be read."""
        try:
            pages = {"first": f"({first},0)", "end": f"({end},0)"}
            return list(plain(self._connection.exec_driver_sql(query, pages).all()))
        except DBAPIError as error:
            if error.connection_invalidated:
                raise IndexUnusable(f"the previous index cannot be read: {reason_of(error)}") from error
            if end - first == 1:
                self.salvaged.unread[table] = reason_of(error)
                return []
        middle = (first + end) // 2
        return self._read(table, query, first, middle) + self._read(table, query, middle, end)
