"""Queries beside receiving: few at once, none for long, and none that holds a transaction while a peer reads."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from pydicom.dataset import Dataset
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from node.dicom.matching import Query
from node.errors import VoxelnodeError
from node.index.queries import PAGE, answers, matching_ids

AT_ONCE = 2
"""Queries that run at once; the others wait: receiving needs the processors too."""

MOST_WAITING = 24
"""Queries that wait; a further one is refused at once. Each waits on a thread, and HTTP has forty of them."""

WAIT_SECONDS = 30.0
"""Longest wait for the others."""

TOO_MANY = "too many queries at once: ask again later"

RUN_SECONDS = 30.0
"""Longest run of one statement."""

GIVE_WAY = 19.0
"""While instances arrive, queries rest so many times as long as they work: they take a twentieth of a processor. What
they take beyond that, the threads that receive wait for, as only one thread of Python runs at a time."""

ARRIVING_SECONDS = 0.5
"""Since the last instance, for which more of them are expected."""

LONGEST_REST_SECONDS = 2.0

REST_STEP_SECONDS = 0.05

STEPS = 20_000
"""Steps of SQLite's machine between two looks at the clock: about a millisecond."""


class QueryRefused(VoxelnodeError):
    """A query is too large, or takes too long: the message says what would help."""


class QueryStopped(VoxelnodeError):
    """Who asked does not want the answers any more."""


class Finder:
    """Finds what queries ask for; safe to use from many threads.

    Parameters
    ----------
    reader : Engine
        Read-only, so that the writer never waits for it.
    """

    def __init__(self, reader: Engine) -> None:
        self._reader = reader
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._places = threading.BoundedSemaphore(AT_ONCE + MOST_WAITING)
        self._lock = threading.Lock()
        self._arrived_at = self._rested_at = -ARRIVING_SECONDS

    def note_arrival(self) -> None:
        """An instance arrives: queries give way for a while."""
        self._arrived_at = time.monotonic()

    def find(
        self, query: Query, maximum: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Dataset]:
        """Answer a query, see `node.index.queries.find`; a page of rows is read at a time.

        What is stored or deleted meanwhile may show or not.

        Parameters
        ----------
        maximum : int or None
            Most answers; a query that has more gets none.
        stop : callable
            Asked again and again, also while a statement runs, whether nobody waits for answers any more.

        Raises
        ------
        QueryRefused
            There are more answers than `maximum`, or it takes too long.
        QueryStopped
            `stop` said so.
        """
        if maximum is not None and (query.limit is None or query.limit > maximum):
            query = replace(query, limit=maximum + 1)
        with self.turn(stop) as connection:
            ids = matching_ids(connection, query)
        if maximum is not None and len(ids) > maximum:
            raise QueryRefused(f"more than {maximum} answers: narrow the query")
        for at in range(0, len(ids), PAGE):
            with self.turn(stop) as connection:
                page = answers(connection, query, ids[at : at + PAGE])
            began_at = time.thread_time()
            yield from page
            self._charge(time.thread_time() - began_at)  # what was made of the answers meanwhile

    @contextmanager
    def turn(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Connection]:
        """One of the few connections, on which no statement outlives its time or its asker; raises as `find`."""
        if not self._places.acquire(blocking=False):
            raise QueryRefused(TOO_MANY)
        try:
            until = time.monotonic() + WAIT_SECONDS
            self._give_way(stop, until)
            if not self._turns.acquire(timeout=max(0.0, until - time.monotonic())):
                raise QueryRefused(TOO_MANY)
            began_at = time.thread_time()
            try:
                with self._reader.connect() as connection, _bounded(connection, stop):
                    yield connection
            finally:
                self._charge(time.thread_time() - began_at)
                self._turns.release()
        finally:
            self._places.release()

    def _charge(self, seconds: float) -> None:
        """Let the next query wait for so much work; this one has its answer at once."""
        with self._lock:
            now = time.monotonic()
            self._rested_at = min(max(self._rested_at, now) + seconds * GIVE_WAY, now + LONGEST_REST_SECONDS)

    def _give_way(self, stop: Callable[[], bool], until: float) -> None:
        """Wait as long as instances arrive and queries have not rested enough."""
        while (now := time.monotonic()) < self._rested_at and now - self._arrived_at < ARRIVING_SECONDS:
            if stop():
                raise QueryStopped
            if now > until:
                raise QueryRefused(TOO_MANY)
            time.sleep(min(self._rested_at - now, REST_STEP_SECONDS))


@contextmanager
def _bounded(connection: Connection, stop: Callable[[], bool]) -> Iterator[None]:
    driver = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    deadline = time.monotonic() + RUN_SECONDS
    if stop():
        raise QueryStopped
    driver.set_progress_handler(lambda: stop() or time.monotonic() > deadline, STEPS)
    try:
        yield
    except (OperationalError, sqlite3.OperationalError) as error:
        if stop():
            raise QueryStopped from error
        if time.monotonic() > deadline:
            raise QueryRefused(f"not found within {RUN_SECONDS:g} s: narrow the query") from error
        raise
    finally:
        driver.set_progress_handler(None, STEPS)
