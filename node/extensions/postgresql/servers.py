"""The servers that [index] url names: one takes commits, the others follow it and may take its place.

libpq finds the one that takes commits. If the URL names several, a server that waits for no standby is refused: a
former primary that comes back could take commits which no other server will ever have. One that does wait acknowledges
nothing, since what followed it was promoted. Whoever promotes a server ends the former primary first (docs/cluster.md).
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from typing import Any
from weakref import ref

import psycopg
from psycopg.conninfo import conninfo_to_dict

from node.index.engine.backend import IndexUnusable

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
