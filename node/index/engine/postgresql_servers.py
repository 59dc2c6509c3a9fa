"""The servers that [index] url names: one takes commits, the others follow it and may take its place.

A standby that is promoted begins a timeline of its own. A server on an older one has lost its place, although it may
still take commits: no other server will ever have them. So nothing connects to a server on an older timeline than that
of another one which this process has seen, and connections to such a server are cut. The newest timeline is also in a
file of the host: after a restart, it may reach the former server only.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from node.durable import write_durably
from node.index.engine.backend import IndexUnusable

log = structlog.get_logger()
_ADDRESS = ("host", "hostaddr", "port")
_LOOK_SECONDS = 5

_WORDS = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "primary"),  # libpq has more, with which no node can write
    "channel_binding": ("disable", "prefer", "require"),
}
_NUMBERS = (
    "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip
_NAME = re.compile(r"[a-z_]+|\W")
"""What a message of libpq may quote: a name, or a character of the syntax."""

_FILES = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl")

_TIMELINE = (
    "SELECT system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), pg_postmaster_start_time()::text "
    "FROM pg_control_system()"
)
_WAITS = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
STANDBYS = (
    "SELECT current_setting('synchronous_standby_names') AS names, count(*) AS followers, "
    "count(*) FILTER (WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum')) AS waited_for, "
    "coalesce(string_agg(application_name || coalesce(' (' || sync_state || ')', ''), ', '), 'no standby') AS who "
    "FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'"
)
"""Without rights of monitoring, a role sees which servers follow, and not how: each may be one to wait for."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A history: all servers that follow one another are of one `system`; `number` has 8 hexadecimal digits, and is
    empty if the server hides it."""

    system: int
    number: str

    def is_older(self, other: Timeline | None) -> bool:
        return other is not None and self.system == other.system and self.number < other.number

    def __str__(self) -> str:
        number = str(int(self.number, 16)) if self.number else "unknown"
        return f"timeline {number} of system {self.system}"


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

    Parameters
    ----------
    url : str
        As in ``[index] url``.

    Attributes
    ----------
    former : str or None
        What is wrong if servers take commits besides the right one, as of the last look.

    Raises
    ------
    IndexUnusable
        libpq does not understand the URL.
    """

    def __init__(self, url: str) -> None:
        self._parameters: dict[str, Any] = {"target_session_attrs": "read-write", **_parameters(url)}
        self._addresses = _addresses(self._parameters)
        self.former: str | None = None
        self._lock = threading.Lock()
        self._newest: Timeline | None = None
        self._memory: Path | None = None
        self._timelines: WeakKeyDictionary[psycopg.Connection[Any], Timeline] = WeakKeyDictionary()
        self._writer: ref[psycopg.Connection[Any]] | None = None
        self._writers_address = self._addresses[0]

    @property
    def are_several(self) -> bool:
        """Whether the URL names more than one."""
        return len(self._addresses) > 1

    def remember(self, file: Path) -> None:
        """Keep the newest timeline in a file, and refuse servers on an older timeline than the file names.

        Raises
        ------
        IndexUnusable
            The file cannot be read.
        """
        with self._lock:
            if not self.are_several or self._memory == file:
                return
            stored = _read_timeline(file)
            self._memory = file
            if stored is None or stored.is_older(self._newest):
                self._write_newest()
            else:
                self._newest = stored

    def _write_newest(self) -> None:
        if self._memory is None or self._newest is None or not self._newest.number:  # some services hide it
            return
        try:
            write_durably(self._memory, f"{self._newest.system} {self._newest.number}\n".encode())
        except OSError as error:
            log.warning("timeline_not_noted", path=str(self._memory), reason=error.strerror)

    def connect(self, kind: type[psycopg.Connection[Any]], **defaults: Any) -> psycopg.Connection[Any]:
        """Return a connection, a `WriterConnection` or one that only reads.

        Parameters
        ----------
        **defaults
            Parameters of libpq that the URL may override, but for `options`.

        Raises
        ------
        psycopg.OperationalError
            No server takes commits, or it cannot be known which of them is right.
        """
        parameters = {**defaults, **self._parameters, "options": defaults["options"]}
        is_writer = kind is WriterConnection
        if not is_writer and parameters["target_session_attrs"] == "read-write":
            parameters["target_session_attrs"] = "primary"  # its own options make a session of a reader read-only
        address = self._addresses[0]
        if self.are_several:
            connection, address = self._connected_to_newest(kind, parameters)
        else:
            connection = kind.connect(**parameters)
        if is_writer:
            self._writer, self._writers_address = ref(connection), address
        return connection

    def _connected_to_newest(
        self, kind: type[psycopg.Connection[Any]], parameters: Mapping[str, Any]
    ) -> tuple[psycopg.Connection[Any], dict[str, str]]:
        if self._newest is None or kind is WriterConnection:
            self.look()
        failures: list[str] = []
        for address in self._addresses:
            try:
                connection = kind.connect(**{**parameters, **address})
                timeline, _ = _timeline_of(connection)
            except psycopg.OperationalError as error:
                failures.append(str(error).strip())
                continue
            with self._lock:  # a promotion that is noted from here on cuts this connection
                self._timelines[connection] = timeline
            if self._note(timeline):
                # The next one need not wait for a machine that is gone.
                self._addresses = [address, *(other for other in self._addresses if other != address)]
                return connection, address
            connection.close()
            failures.append(f"{_name(address)} {self._why_former(timeline)}")
        raise psycopg.OperationalError("; ".join(failures))

    def _why_former(self, timeline: Timeline) -> str:
        why = "has lost its place to another server, which was promoted: "
        why += f"it is on {timeline}, and {self._newest} was seen"
        remedy = "stop it, and start the one that was promoted"
        if self._memory is not None:
            remedy += (
                f"; if it is right all the same, as after a restored backup, delete {self._memory} and start again"
            )
        return f"{why}; {remedy}"

    def look(self) -> None:
        """Ask all servers whether they take commits, and leave one that has lost its place.

        Raises
        ------
        psycopg.OperationalError
            Several have been promoted alike.
        """
        found: dict[tuple[Timeline, str], str] = {}
        for address in self._addresses:
            with suppress(psycopg.Error), closing(self._looking(address)) as connection:
                found[_timeline_of(connection)] = _name(address)
        newest = [one for one in found if not any(one[0].is_older(other) for other, _ in found)]
        for timeline, _ in newest:
            self._note(timeline)
        old = sorted(name for (timeline, _), name in found.items() if timeline.is_older(self._newest))
        self.former = f"{', '.join(old)} takes commits, although another server was promoted: stop it" if old else None
        if len(newest) > 1:
            names = ", ".join(sorted(found[one] for one in newest))
            self.former = f"{names} take commits, each by itself: stop all of them but the right one"
            raise psycopg.OperationalError(self.former)

    def why_waiting(self) -> str | None:
        """Return what keeps the last writer of this process waiting, to be read after "the server"; None: unknown."""
        writer = None if self._writer is None else self._writer()
        if writer is None or writer.closed:
            return None
        try:
            with closing(self._looking(self._writers_address)) as connection, _answering(connection):
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

    def _looking(self, address: Mapping[str, str]) -> psycopg.Connection[Any]:
        parameters = {"connect_timeout": _LOOK_SECONDS, **self._parameters, "application_name": "voxelnode"}
        return psycopg.connect(autocommit=True, **{**parameters, **address})

    def _note(self, timeline: Timeline) -> bool:
        """Note a server that takes commits; cut connections to those whose place it has taken.

        Returns
        -------
        bool
            False if another one has taken the place of this one.
        """
        with self._lock:
            if timeline.is_older(self._newest):
                return False
            is_news = bool(timeline.number) or self._newest is None  # a hidden timeline is no news
            if is_news and timeline != self._newest:
                self._newest = timeline
                self._write_newest()
            old = [connection for connection, its in list(self._timelines.items()) if its.is_older(timeline)]
            for connection in old:
                del self._timelines[connection]
        for connection in old:
            _cut(connection)
        if old:
            log.warning("primary_changed", detail="connections to the one before were cut", count=len(old))
        return True


@contextmanager
def _answering(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Cut a connection if its server does not answer in time: libpq limits only the time to connect."""
    timer = threading.Timer(_LOOK_SECONDS, _cut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _read_timeline(file: Path) -> Timeline | None:
    """Return the timeline in a file of `Servers.remember`, or None if there is no such file."""
    try:
        system, number = file.read_text("ascii").split()
        return Timeline(int(system), f"{int(number, 16):08X}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IndexUnusable(
            f"{file}, with the newest timeline of the servers, cannot be read ({error}): delete it if no former "
            "primary runs"
        ) from error


def _cut(connection: psycopg.Connection[Any]) -> None:
    """Have whoever waits for an answer get an error; the thread that uses the connection closes it."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def in_words(names: str, who: str) -> str:
    """Return the state of the standbys of a server, by a row of `STANDBYS`."""
    return f"synchronous_standby_names is {names!r}, and {who} follows"


def mistakes_in(url: str) -> list[str]:
    """Return what is wrong with ``[index] url`` as sentences, as far as can be told without a connection."""
    try:
        parameters = _parameters(url)
        addresses = _addresses(parameters)
    except IndexUnusable as error:
        return [str(error)]
    found = [
        f"port = {port!r} is no number from 1 to 65535"
        for port in (address.get("port") for address in addresses)
        if port and not (port.isdecimal() and 0 < int(port) < 1 << 16)
    ]
    for name, words in _WORDS.items():
        if parameters.get(name, words[0]) not in words:
            found.append(f"{name} = {parameters[name]!r} must be {', '.join(words[:-1])} or {words[-1]}")
    for name in _NUMBERS:
        if re.fullmatch(r"-?\d+", value := str(parameters.get(name, 0))) is None:
            found.append(f"{name} = {value!r} is no whole number")
    for name in _FILES:
        if (file := parameters.get(name)) is not None and (name, file) != ("sslrootcert", "system"):
            found += _mistakes_in_file(name, file)
    return [f"[index] url: {mistake}" for mistake in found]


def _mistakes_in_file(name: str, file: str) -> Iterator[str]:
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
    except OSError as error:
        yield f"{name} = {file!r} cannot be read ({error.strerror}): correct the path"
        return
    if name == "passfile" and mode & 0o077:
        yield f"passfile = {file!r} may be read by others, and libpq ignores it: run `chmod 600 {file}`"


def _parameters(url: str) -> dict[str, Any]:
    """Return the parameters that libpq finds in a URL.

    Raises
    ------
    IndexUnusable
        libpq finds a mistake. Its message quotes names only: other text may be a password in the wrong place.
    """
    try:
        return conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
    except psycopg.ProgrammingError as error:
        reason = re.sub(r'"([^"]*)"', lambda quoted: quoted[0] if _NAME.fullmatch(quoted[1]) else '"..."', str(error))
        raise IndexUnusable(f"[index] url: {reason.strip()}") from error


def _addresses(parameters: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the parameters that differ between the servers, which have lists of them, for each.

    Raises
    ------
    IndexUnusable
        The lists differ in length.
    """
    lists = {name: str(parameters[name]).split(",") for name in _ADDRESS if name in parameters}
    length = max(map(len, lists.values()), default=1)
    if any(len(some) not in (1, length) for some in lists.values()):
        counts = " and ".join(f"{len(some)} of {name}" for name, some in lists.items())
        raise IndexUnusable(f"[index] url has {counts}: give each server one, or all the same")
    columns = [list(islice(cycle(some), length)) for some in lists.values()]
    return [dict(zip(lists, one, strict=True)) for one in zip(*columns, strict=True)] or [{}]


def _name(address: Mapping[str, str]) -> str:
    place = address.get("host") or address.get("hostaddr", "localhost")
    return f"{place}:{address['port']}" if address.get("port") else place


def _timeline_of(connection: psycopg.Connection[Any]) -> tuple[Timeline, str]:
    """Return on which timeline a server is, and since when it runs; services that hide the timeline have none.

    Raises
    ------
    psycopg.OperationalError
        The server does not answer.
    """
    try:
        with _answering(connection):
            row = connection.execute(_TIMELINE).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        row = None
    if not connection.autocommit:
        connection.rollback()
    system, number, since = row or (0, "", "")
    return Timeline(system, number), since


@cache
def servers_of(url: str) -> Servers:
    """Return the servers of a URL, the same to all of this process: what one connection has seen holds for all."""
    return Servers(url)
