"""Read access to the index for pages, commands and messages, by SQLAlchemy.

A `ReadIndex` sees one snapshot of the index: the commits before its first query.

`LargeCounts` are counts that read whole tables. Pages and monitoring ask for them again and again, and in a large
index they take seconds. They are therefore kept for a while, with the moment at which they were taken.
"""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from node.index.look.views import ReadIndex
from node.index.rows.backend import place_of
from node.index.rows.models.levels import OPEN_STATES
from node.index.rows.narrowed import Readers
from node.index.rows.place import require_known, require_there, unreadable
from node.index.rows.repositories import Terms, queries_of
from node.index.rows.scope import Scope, current_scope, within


@contextmanager
def reading(root: Path, url: str | None = None, scope: Scope | None = None) -> Iterator[ReadIndex]:
    """Open the index of a root, by ``[index] url``, for reading only, also while a node writes to it.

    `scope`: show this of it; None: the whole index, whoever calls.

    Raises IndexUnusable if there is none, it cannot be read, or its schema is not known.
    """
    place = place_of(root, url)
    require_there(place)
    readers = Readers(place)
    try:
        with ExitStack() as opened:
            with within(scope):
                connection = opened.enter_context(readers.connect())
            index = ReadIndex(queries_of(connection))
            if not index.has_newest_schema:
                require_known(place)
            yield index
    except SQLAlchemyError as error:
        raise unreadable(place, error) from error
    finally:
        readers.dispose()


def checked(check: Callable[[ReadIndex], None]) -> Terms:
    """Return terms that read rows as pages and commands do."""
    return lambda connection: check(ReadIndex(queries_of(connection)))


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
