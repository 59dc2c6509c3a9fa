"""The servers that [index] url names, connections to them, and the locks of hosts.

One server takes commits, the others follow it and may take its place.

libpq finds the one that takes commits. If the URL names several, a server that waits for no standby is refused: a
former primary that comes back could take commits which no other server will ever have. One that does wait acknowledges
nothing, since what followed it was promoted. Whoever promotes a server ends the former primary first (docs/cluster.md).

Several hosts write to an index, one process each. Its connection holds the lock of its host as long as it lives, so
that a second process of that host is refused, and nothing is written once the lock is lost with the connection. All of
them share another lock, which a migration or a copy takes for itself.
"""

import datetime as dt
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from typing import Any
from weakref import ref

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from node.extensions.postgresql.dialect import replace_nul, to_json
from node.index.rows.backend import BeingMigrated, IndexUnusable, ServerPlace
from node.index.rows.place import schema_by

_ADDRESS = ("host", "hostaddr", "port")

_NAME = re.compile(r"[a-z_]+|\W")
"""What a message of libpq may quote: a name, or a character of the syntax."""

_FILES = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl")


def mistakes_in(url: str) -> list[str]:
    """Return what is wrong with ``[index] url`` as sentences, as far as libpq would not name it when it connects."""
    try:
        addresses_of(parameters := parameters_of(url))
    except IndexUnusable as error:
        return [str(error)]
    given = {name: file for name in _FILES if (file := parameters.get(name)) not in (None, "system")}
    return [
        f"[index] url: {name} = {file!r} cannot be read: correct the path"
        for name, file in given.items()
        if not (os.path.isfile(file) and os.access(file, os.R_OK))
    ]


def parameters_of(url: str) -> dict[str, Any]:
    """Return the parameters that libpq finds in a URL.

    Raises IndexUnusable if libpq finds a mistake. Its message quotes names only: other text may be a password in the
    wrong place.
    """
    try:
        return conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
    except psycopg.ProgrammingError as error:
        reason = re.sub(r'"([^"]*)"', lambda quoted: quoted[0] if _NAME.fullmatch(quoted[1]) else '"..."', str(error))
        raise IndexUnusable(f"[index] url: {reason.strip()}") from error


def addresses_of(parameters: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the parameters that differ between the servers, which have lists of them, for each.

    Raises IndexUnusable if the lists differ in length.
    """
    lists = {name: str(parameters[name]).split(",") for name in _ADDRESS if name in parameters}
    length = max(map(len, lists.values()), default=1)
    if any(len(some) not in (1, length) for some in lists.values()):
        counts = " and ".join(f"{len(some)} of {name}" for name, some in lists.items())
        raise IndexUnusable(f"[index] url has {counts}: give each server one, or all the same")
    return [{name: some[number % len(some)] for name, some in lists.items()} for number in range(length)]


_ANSWER_SECONDS = 5
_WAITS = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
STANDBYS = (
    "SELECT current_setting('synchronous_standby_names') AS names, count(*) AS followers, "
    "count(*) FILTER (WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum')) AS waited_for, "
    "coalesce(string_agg(application_name || coalesce(' (' || sync_state || ')', ''), ', '), 'no standby') AS who "
    "FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'"
)
"""Without rights of monitoring, a role sees which servers follow, and not how: each may be one to wait for."""


class Unreplicated(psycopg.OperationalError):
    """A commit is on the disk of the primary, and perhaps nowhere else."""


class WriterConnection(psycopg.Connection[Any]):
    """A commit whose wait for a standby was cancelled has failed: the server only warns of it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._is_unreplicated = False
        self.add_notice_handler(self._note)

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.source_function == "SyncRepWaitForLSN":  # its words are those of the language of the server
            self._is_unreplicated = True

    def commit(self) -> None:
        super().commit()
        if self._is_unreplicated:
            self.close()
            raise Unreplicated("somebody has cancelled the wait of a commit for a synchronous standby")


class Servers:
    """Connects to the server that takes commits. Thread-safe.

    `url`: as in ``[index] url``. Raises IndexUnusable if libpq does not understand the URL.
    """

    def __init__(self, url: str) -> None:
        self._parameters: dict[str, Any] = {"target_session_attrs": "read-write", **parameters_of(url)}
        self._addresses = addresses_of(self._parameters)
        self._writer: ref[psycopg.Connection[Any]] | None = None

    def connect(self, kind: type[psycopg.Connection[Any]], **defaults: Any) -> psycopg.Connection[Any]:
        """Return a connection, a `WriterConnection` or one that only reads.

        `**defaults`: parameters of libpq that the URL may override, but for `options`. Raises psycopg.OperationalError
        if no server takes commits, or those that do may have lost their place.
        """
        parameters = {**defaults, **self._parameters, "options": defaults["options"]}
        is_writer = kind is WriterConnection
        if not is_writer and parameters["target_session_attrs"] == "read-write":
            parameters["target_session_attrs"] = "primary"  # its own options make a session of a reader read-only
        failures: list[str] = []
        for address in self._addresses:
            try:
                connection = kind.connect(**{**parameters, **address})
                _require_durable(connection, is_one_of_several=len(self._addresses) > 1)
            except psycopg.OperationalError as error:
                failures.append(str(error).strip())
                continue
            # The next one need not wait for a machine that is gone.
            self._addresses = [address, *(other for other in self._addresses if other != address)]
            if is_writer:
                self._writer = ref(connection)
            return connection
        raise psycopg.OperationalError("; ".join(failures))

    def why_waiting(self) -> str | None:
        """Return what keeps the last writer of this process waiting, to be read after "the server"; None: unknown."""
        writer = None if self._writer is None else self._writer()
        if writer is None or writer.closed:
            return None
        server = {"host": writer.info.host, "port": str(writer.info.port), "application_name": "voxelnode"}
        parameters = {"connect_timeout": _ANSWER_SECONDS, **self._parameters, **server}
        try:
            with closing(psycopg.connect(autocommit=True, **parameters)) as connection, _answering(connection):
                if connection.execute(_WAITS, [writer.info.backend_pid]).fetchone() is None:
                    return None
                names, _, _, who = connection.execute(STANDBYS).fetchone() or ("", 0, 0, "")
                return f"keeps commits waiting for a standby: {in_words(names, who)}"
        except psycopg.Error:
            return None if writer.closed else "does not answer"

    def cut_writer(self) -> None:
        """Cut the connection of the last writer of this process."""
        if self._writer is not None and (connection := self._writer()) is not None:
            _cut(connection)


def _require_durable(connection: psycopg.Connection[Any], *, is_one_of_several: bool) -> None:
    """Refuse a connection whose commits may be less durable than the node needs.

    A pooler that drops what a connection sets: commits would be as durable as the server has it. One of several servers
    that waits for no standby: another one may have been promoted.
    """
    with _answering(connection):
        setting = "SELECT source FROM pg_settings WHERE name = 'lock_timeout'"  # every connection sets it
        query = f"SELECT ({setting}), current_setting('synchronous_standby_names')"
        source, names = connection.execute(query).fetchone() or (None, "")
    connection.rollback()
    host = connection.info.host
    if source != "client":
        problem = "has not taken the settings of the session: name PostgreSQL itself in [index] url, and no PgBouncer"
    elif is_one_of_several and not names:
        problem = (
            "takes commits and waits for no standby, although [index] url names several servers: stop it if another "
            "one was promoted, else set synchronous_standby_names"
        )
    else:
        return
    connection.close()
    raise psycopg.OperationalError(f"{host} {problem}")


@contextmanager
def _answering(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Cut a connection if its server does not answer in time: libpq limits only the time to connect."""
    timer = threading.Timer(_ANSWER_SECONDS, _cut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _cut(connection: psycopg.Connection[Any]) -> None:
    """Give those who wait for an answer an error; the thread that uses the connection closes it."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def in_words(names: str, who: str) -> str:
    """Return the state of the standbys of a server, by a row of `STANDBYS`."""
    return f"synchronous_standby_names is {names!r}, and {who} follows"


@cache
def servers_of(url: str) -> Servers:
    """Return the servers of a URL, the same to all of this process."""
    return Servers(url)


NEW_DATABASE = "CREATE DATABASE name TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"

LOCK = 0x766F78656C  # "voxel"
"""The advisory lock that all processes share that write; locks of other databases are others."""

HOST_LOCK = 0x766F78
"""The first half of the advisory lock of a host; the second is a hash of its name."""

LOCK_SECONDS = 5
"""Longest wait for the lock: the server may notice later than we that the last process is gone."""

MAX_CONNECTIONS = 44
"""Of each of the two engines of readers; a server has 97 by default."""

_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "synchronous_commit": "on",
    "client_min_messages": "warning",  # one tells `WriterConnection` that the wait for a standby was cancelled
    "lock_timeout": f"{LOCK_SECONDS}s",
    # A machine that vanished closes no connection: its sessions must not hold locks for the two hours of the kernel.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15s",
    "jit": "off",  # to compile a statement takes 0.1 s or more, and none of ours runs for long
}

_WRITERS = {
    "idle_in_transaction_session_timeout": "30s",  # a host that hangs holds back the events of all others
    # A plan that was made while a table was empty is kept until the table is analyzed, minutes and many rows later.
    "enable_seqscan": "off",
}

_READERS = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": r"repeatable\ read",
    "parallel_setup_cost": "20000",  # starting processes takes longer than a search that costs less
}

_NETWORK = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""Parameters of libpq that the URL does not have: a line that is silent counts as broken after 15 to 25 s."""


class DatabaseMissing(IndexUnusable):
    """The server has no such database."""


def open_engine(place: ServerPlace, *, read_only: bool = False, alone: bool = False) -> Engine:
    """See `node.index.rows.backend.Backend`; so for the functions below."""
    session = {**_SESSION, **(_READERS if read_only else _WRITERS)}
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    servers = servers_of(place.url)
    engine = create_engine(
        "voxelnode://",  # libpq reads the URL: SQLAlchemy does not know lists of hosts with ports
        connect_args={
            "options": options,
            "application_name": "voxelnode",
            # The server cannot always tell the type of a parameter that is NULL: statements of readers get values.
            "cursor_factory": psycopg.ClientCursor if read_only else psycopg.Cursor,
            **_NETWORK,
        },
        # psycopg forgets how many rows an INSERT added when SQLAlchemy closes its cursor; sqlite3 still knows.
        execution_options={"preserve_rowcount": True},
        hide_parameters=True,
        json_serializer=to_json,
        pool_pre_ping=read_only,
        pool_size=min(5, MAX_CONNECTIONS) if read_only else 1,
        max_overflow=MAX_CONNECTIONS - 5 if read_only else 0,
    )
    kind = psycopg.Connection if read_only else WriterConnection
    event.listen(engine, "do_connect", lambda dialect, record, _, parameters: servers.connect(kind, **parameters))
    event.listen(engine, "connect", replace_nul)
    if not read_only:
        event.listen(engine, "connect", partial(_lock_alone, place.host) if alone else _HostLock(place.host))
    return engine


class _HostLock:
    """Takes the lock of a host for a connection, and shares the one of all that write.

    The server may still know the connection that was lost before, and hold the lock for it. It ends that one: nothing
    of it is to be committed behind our back either.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._session: tuple[int, dt.datetime] | None = None

    def __call__(self, connection: psycopg.Connection[Any], record: object) -> None:
        try:
            if self._session is not None:
                connection.execute(_END_SESSION, self._session)
                connection.commit()
            _lock(self._host, connection, record)
            self._session = connection.execute(_OWN_SESSION).fetchone()
            connection.commit()
        except BaseException:
            connection.close()  # the pool does not know it yet
            raise


_OWN_SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"

_END_SESSION = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE (pid, backend_start) = (%s, %s)"

_ALL = "(classid::bigint << 32 | objid::bigint, objsubid) = (%s, 1)"
"""The rows of ``pg_locks`` of the lock of all that write."""

_BEING_MIGRATED = "being migrated or copied: try again later"


def _lock(host: str, connection: psycopg.Connection[Any], _: object) -> None:
    try:
        connection.execute("SELECT pg_advisory_lock_shared(%s)", [LOCK])
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [HOST_LOCK, host])
        connection.commit()
        _require_usable(connection)
    except LockNotAvailable:
        connection.rollback()
        held = "(classid::bigint, objid::bigint, objsubid) = (%s, hashtext(%s)::bigint & 4294967295, 2)"
        holder = _holder(connection, held, HOST_LOCK, host)
        index = f"the index in PostgreSQL (database {connection.info.dbname}) is"
        connection.close()
        if holder is None:
            raise IndexUnusable(f"{index} {_BEING_MIGRATED}") from None
        raise IndexUnusable(
            f"{index} in use by another process of host {host!r}{holder}: stop that one, or give each host a "
            "name of its own ([cluster] host)"
        ) from None


def _require_usable(connection: psycopg.Connection[Any]) -> None:
    """Refuse a schema to which another host has migrated the index while this one was away."""
    revisions = [revision for (revision,) in connection.execute("SELECT version_num FROM alembic_version").fetchall()]
    connection.commit()
    if (trouble := schema_by(revisions).trouble) is not None:
        connection.close()
        raise IndexUnusable(trouble)


def _lock_alone(host: str, connection: psycopg.Connection[Any], _: object) -> None:
    """Take the lock of all that write for one process, of the host `host` if it is one."""
    try:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        connection.commit()
    except LockNotAvailable:
        connection.rollback()
        hosts = _other_hosts(connection, host)
        user = hosts or f"another process{_holder(connection, _ALL, LOCK) or ''}"
        index = f"the index in PostgreSQL (database {connection.info.dbname})"
        connection.close()
        raise (IndexUnusable if hosts else BeingMigrated)(
            f"{index} is in use by {user}: a migration or a copy needs it alone: stop all hosts, then try again"
        ) from None


def _other_hosts(connection: psycopg.Connection[Any], host: str) -> str:
    """Return the names and versions of the hosts whose leases have not ended, in words; empty if there are none."""
    if connection.execute("SELECT to_regclass('hosts')").fetchone() == (None,):
        return ""
    living = (
        "SELECT name, version FROM hosts WHERE name <> %s AND lease_until > timezone('utc', clock_timestamp()) "
        "ORDER BY name"
    )
    return ", ".join(f"host {name} (voxelnode {version})" for name, version in connection.execute(living, [host]))


def _holder(connection: psycopg.Connection[Any], lock: str, *values: object) -> str | None:
    """Return who holds an advisory lock, in words, or None."""
    row = connection.execute(
        "SELECT coalesce(host(client_addr), 'this host'), backend_start, wait_event FROM pg_stat_activity "
        f"WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND {lock} "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))".encode(),
        values,
    ).fetchone()
    if row is None:
        return None
    waits = ", whose commit waits for a synchronous standby" if row[2] == "SyncRep" else ""
    return f" from {row[0]}, connected since {row[1]:%Y-%m-%d %H:%M:%S} UTC{waits}"


@contextmanager
def reading(place: ServerPlace) -> Iterator[Connection]:
    engine = open_engine(place, read_only=True)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        reason = str(error.orig).strip()
        if " does not exist" in reason and 'FATAL:  database "' in reason:
            raise DatabaseMissing(f"{place}: {reason}; create it with {NEW_DATABASE}") from error
        raise IndexUnusable(f"{place}: {reason}") from error
    finally:
        engine.dispose()
