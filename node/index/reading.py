"""Read access to the index for pages, commands and messages: one repository per noun.

No module outside of `node.index` contains SQL. A `ReadIndex` sees one snapshot of the index: the commits before its
first query.

`LargeCounts` are counts that read whole tables. Pages and monitoring ask for them again and again, and in a large
index they take seconds. They are therefore kept for a while, with the moment at which they were taken.
"""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from node.index.look.instances import ReadInstances, ReadVolumes
from node.index.look.studies import ExportViews, ReadSeries, ReadStudies
from node.index.look.views import Snapshot
from node.index.look.work import ReadJobs, ReadRoutes, ReadWork
from node.index.rows.backend import Standbys, backend_of, place_of
from node.index.rows.models.levels import OPEN_STATES
from node.index.rows.narrowed import Readers
from node.index.rows.place import require_not_newer, require_there, schema_of, unreadable
from node.index.rows.repositories import Terms, queries_of, reads
from node.index.rows.scope import Scope, current_scope, within
from node.index.rows.sharing import Watermarks
from node.index.rows.sql import RootFolder
from node.index.rules.custody.deletions import plan_deletion, plans_of_patient
from node.index.rules.custody.lost import absent

Added = TypeVar("Added")


class ReadIndex(Snapshot):
    """A view of the index on one read-only connection. Not thread-safe.

    `watermarks`: how far cursors may read; None: to the end. Read before the first query.
    """

    def __init__(self, connection: Connection, watermarks: Watermarks | None = None) -> None:
        super().__init__(queries_of(connection), watermarks)
        self._connection = connection
        self.exports = ExportViews(self._queries)
        self.instances = ReadInstances(connection)
        self.jobs = ReadJobs(connection)
        self.routes = ReadRoutes(connection)
        self.series = ReadSeries(connection)
        self.studies = ReadStudies(connection)
        self.volumes = ReadVolumes(connection)
        self.work = ReadWork(connection)

    def _reading(self) -> AbstractContextManager[Connection]:
        return nullcontext(self._connection)

    plan_deletion = reads(plan_deletion)

    plans_of_patient = reads(plans_of_patient)

    absent = reads(absent)

    def repository(self, kind: Callable[[Connection], Added]) -> Added:
        """Return what reads the rows of an extension, in this view."""
        return kind(self._connection)

    @property
    def root(self) -> str:
        """The folder that the paths in the tables are relative to: the one that the database is in."""
        return str(PurePath(self._connection.execute(select(RootFolder())).scalar_one()))

    def standbys(self) -> Standbys:
        """Return the standbys of the server, and what they mean for commits."""
        return backend_of(self._connection).standbys(self._connection)

    def has_this_schema(self) -> bool:
        """Whether this version of voxelnode can read all tables."""
        return schema_of(self._connection).trouble is None


@contextmanager
def reading(root: Path, url: str | None = None, scope: Scope | None = None) -> Iterator[ReadIndex]:
    """Open the index of a root, by ``[index] url``, for reading only, also while a node writes to it.

    `scope`: show this of it; None: the whole index, whoever calls.

    Raises IndexUnusable if there is none, it cannot be read, or a newer version wrote it.
    """
    place = place_of(root, url)
    require_there(place)
    readers = Readers(place)
    try:
        with ExitStack() as opened:
            with within(scope):
                connection = opened.enter_context(readers.connect())
            index = ReadIndex(connection)
            if not index.has_newest_schema:
                require_not_newer(place)
            yield index
    except SQLAlchemyError as error:
        raise unreadable(place, error) from error
    finally:
        readers.dispose()


def other_host_of(root: Path, url: str | None, host: str) -> Callable[[str], str | None]:
    """Return what asks which host other than `host` alone has the file with a key, by what is committed then.

    `host`: the name of this host, if several share the object store; empty: there is no other.
    """

    def asked(key: str) -> str | None:
        if not host:
            return None
        with reading(root, url) as index:
            found = index.hosts.only_host_of(key)
        return found if found != host else None

    return asked


def checked(check: Callable[[ReadIndex], None]) -> Terms:
    """Return terms that read rows as pages and commands do."""
    return lambda connection: check(ReadIndex(connection))


LARGE_ROWS = 100_000
"""Rows up to which a table is counted each time."""

KEPT_SECONDS = 60.0
"""Shortest time for which the counts of a larger table are kept."""

KEPT_FACTOR = 50.0
"""Counts are kept for this many times as long as counting took, so it takes at most a fiftieth of a processor."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Numbers of rows by name, and when they were counted; None: now."""

    numbers: Mapping[str, int]
    at: dt.datetime | None = None


class LargeCounts:
    """The counts of one index. Thread-safe; a thread waits while another one counts the same.

    `clock`: seconds that only increase.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._levels, self._studies = _Cached(clock), _Cached(clock)
        self._states, self._failures = _Cached(clock), _Cached(clock)

    def levels(self, index: ReadIndex) -> Counted:
        """Return the numbers of patients, studies, series and instances."""
        return self._levels.get(index.count_levels)

    def studies(self, index: ReadIndex) -> int:
        """Return the number of studies."""
        return self._studies.get(lambda: {"studies": index.studies.count()}).numbers["studies"]

    def states(self, index: ReadIndex) -> Counted:
        """Return the number of series in each state; those that wait or are being converted are always of now."""
        counted = self._states.get(index.series.count_by_state)
        if counted.at is None:
            return counted
        others = {state: number for state, number in counted.numbers.items() if state not in OPEN_STATES}
        return Counted({**others, **index.series.count_open_by_state()}, counted.at)

    def failures(self, index: ReadIndex) -> Counted:
        """Return the number of failures by reason."""
        return self._failures.get(index.failures.count_by_reason)


class _Cached:
    """Numbers that are kept for a while if they are large."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = Counted({})
        self._until = clock()

    def get(self, count: Callable[[], Mapping[str, int]]) -> Counted:
        if current_scope() is not None:
            return Counted(count())
        with self._lock:
            began = self._clock()
            if began < self._until:
                return self._last
            numbers = count()
            if sum(numbers.values()) > LARGE_ROWS:
                ended = self._clock()
                self._last = Counted(numbers, dt.datetime.now(dt.UTC))
                self._until = ended + max(KEPT_SECONDS, KEPT_FACTOR * (ended - began))
                return self._last
            return Counted(numbers)
