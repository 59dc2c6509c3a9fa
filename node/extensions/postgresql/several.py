"""One of several hosts that share an index; see `node.index.rows.sharing`. How far their commits are."""

import datetime as dt
import threading
from math import inf
from time import monotonic
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, select
from sqlalchemy.exc import SQLAlchemyError

from node.index.rows.backend import IndexUnusable, backend_of, reason_of
from node.index.rows.models.levels import ImageRow, SeriesRow, is_only_at_host
from node.index.rows.models.work import HostRow, LeaseRow
from node.index.rows.sharing import COMPLETED, FOLLOWED, LeaseLost, Sharing, Watermarks


class Leases:
    """The leases that this host holds, as far as it can know. Thread-safe.

    Asking for a lease makes the host want it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._held: frozenset[str] = frozenset()
        self._until = -inf
        self._is_closed = False

    def close(self) -> None:
        """Want nothing any more, and hold nothing as far as new work is concerned."""
        with self._lock:
            self._is_closed = True
            self._wanted.clear()

    @property
    def wanted(self) -> frozenset[str]:
        """The leases that were asked for."""
        with self._lock:
            return frozenset(self._wanted)

    def holds(self, name: str) -> bool:
        """Return whether this host is the one that does this."""
        with self._lock:
            if self._is_closed:
                return False
            self._wanted.add(name)
            return name in self._held and monotonic() < self._until

    def renew(self, held: frozenset[str], until: float) -> bool:
        """Note what this host holds, and until when; return whether that is more than before."""
        with self._lock:
            before = self._held if monotonic() < self._until else frozenset()
            self._held, self._until = held, until
            return not held <= before


class SharedClock:
    """The clock of the database, followed by the monotonic clock of this machine: its wall clock may be wrong.

    `ahead_seconds`: by how much that was ahead of the database at the last measurement.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.measure()

    def measure(self) -> None:
        """Ask the database for the time."""
        with self._engine.connect() as connection:
            began = monotonic()
            moment = backend_of(connection).moment(connection)
            ended, wall = monotonic(), dt.datetime.now(dt.UTC)
            self._measured = moment, (began + ended) / 2
            self.ahead_seconds = (wall - moment).total_seconds() - (ended - began) / 2

    def __call__(self) -> dt.datetime:
        """Return the time in UTC."""
        moment, at = self._measured  # both of one measurement
        return moment + dt.timedelta(seconds=monotonic() - at)


class SeveralHosts(Sharing):
    """This host among those of an index; see `Sharing`.

    It has every lease until it joins the others: a command that opens the index does so for a moment, and no node of
    this host runs meanwhile.

    `shares_store`: the hosts share an object store: until a file is there, one of them has it.
    """

    def __init__(self, reader: Engine, host: str, *, shares_store: bool) -> None:
        self.host, self.holder = host, host if shares_store else None
        self._reader, self._numbers = reader, CommittedNumbers(reader)
        self._leases: Leases | None = None
        self.clock = SharedClock(reader)

    def join(self, leases: Leases) -> None:
        """Share the work from now on: do what `leases` hold, and record nothing of anything else."""
        self._leases = leases

    def has(self, work: str) -> bool:
        """See `Sharing`; so for the methods below."""
        return self._leases is None or self._leases.holds(work)

    def require(self, connection: Connection, work: str) -> None:
        if self._leases is None:
            return
        held = select(LeaseRow.name).where(LeaseRow.name == work, LeaseRow.host == self.host)
        if connection.execute(held.with_for_update(read=True)).first() is None:
            raise LeaseLost(f"another host has taken over {work}")

    def must_wait(self, now: dt.datetime) -> bool:
        behind = select(HostRow.name).where(HostRow.is_behind, HostRow.lease_until > now, HostRow.name != self.host)
        try:
            with self._reader.connect() as connection:
                return connection.execute(behind.limit(1)).first() is not None
        except SQLAlchemyError as error:
            raise IndexUnusable(f"the index cannot be read: {reason_of(error)}") from error

    def abandoned(self, now: dt.datetime) -> ColumnElement[bool] | None:
        living = exists().where(HostRow.name == SeriesRow.claimed_by, HostRow.lease_until > now)
        return and_(SeriesRow.state == "converting", SeriesRow.claimed_by != self.host, ~living)

    def others_subscribers(self, connection: Connection) -> set[str]:
        return set() if self._leases is None else subscribers_beside(connection, self.host)

    def watermarks(self) -> Watermarks | None:
        return self._numbers.watermarks()

    def is_own(self, host: Any) -> ColumnElement[bool]:
        own: ColumnElement[bool] = host == self.host
        return own

    def has_files_of(self, series: Any) -> ColumnElement[bool]:
        elsewhere = *is_only_at_host(), ImageRow.spool_host != self.host
        return ~exists().where(ImageRow.series_id == series, *elsewhere)

    def is_away(self, holder: str | None) -> bool:
        return holder not in (None, self.holder)

    def now(self) -> dt.datetime:
        return self.clock()


def subscribers_beside(connection: Connection, host: str | None) -> set[str]:
    """Return the hooks and destinations in the configurations of other hosts than one, living or not."""
    lists = connection.scalars(select(HostRow.subscribers).where(HostRow.name != host))
    return {name for names in lists for name in names}


_NO_NUMBERS: Watermarks = dict.fromkeys(FOLLOWED, 0)


class CommittedNumbers:
    """Follows the numbers that were given, and the transactions under way that may have given them. Thread-safe.

    Hosts commit in another order than they number their rows: rows with smaller numbers may be yet to come.

    A transaction locks its own number before it gives one to a row, until all see what it has committed. When all have
    ended that were under way after numbers were read, each row with one of these numbers or a smaller one is there, or
    never will be. (A snapshot is no help: it does not know transactions that began after the last one that has ended.)

    A server that has crashed, or another one that was promoted, may give again the numbers of transactions that never
    committed. What was known of the server before is therefore forgotten.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._watermarks = self._given = _NO_NUMBERS
        self._awaited: set[str] = set()
        self._server: Any = None

    def watermarks(self) -> Watermarks:
        """See `Sharing`."""
        with self._lock, self._engine.connect() as connection:
            server, *numbers = connection.exec_driver_sql(_GIVEN).one()
            given = dict(zip(FOLLOWED, numbers, strict=True))
            under_way = set(connection.exec_driver_sql(_UNDER_WAY).scalars())
            if server != self._server:
                self._server, self._watermarks, self._given, self._awaited = server, _NO_NUMBERS, given, under_way
            self._awaited &= under_way
            if not self._awaited:
                self._watermarks = self._given
                self._given, self._awaited = given, under_way
            if not under_way:
                self._watermarks = given
            completed = connection.exec_driver_sql(_COMPLETED).scalar_one()
            return {**self._watermarks, COMPLETED: completed}


# A server loses its statistics in a crash, and those of a standby are its own.
_GIVEN = "SELECT (SELECT stats_reset FROM pg_stat_bgwriter), {}".format(
    ", ".join(f"(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {table}_id_seq)" for table in FOLLOWED)
)

_UNDER_WAY = (
    "SELECT transactionid::text FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' "
    "AND coalesce(pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database()), true)"
)

_COMPLETED = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
