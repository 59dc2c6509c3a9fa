"""Queries that do not slow down receiving: few at once, none for long, no open transaction while a peer reads."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from node.dicom.answers import Answer
from node.dicom.matching import Query
from node.errors import VoxelnodeError
from node.index.engine.backend import backend_of
from node.index.search.queries import PAGE, answers, matching_ids

MAX_RUNNING = 2
"""Queries that run at the same time; more would take processors from receiving."""

MAX_WAITING = 24
"""Queries that may wait; another is refused at once. Each waiting query occupies one of the forty HTTP threads."""

MAX_WAIT_SECONDS = 30.0
"""Longest time that a query waits for its turn."""

TOO_MANY = "too many queries at once: try again later"

MAX_RUN_SECONDS = 30.0
"""Longest run time of one statement."""

REST_FACTOR = 4.0
"""While instances are received, queries pause this many times as long as Python ran for them: a fifth of the time is
theirs. Only one Python thread runs at a time: more would delay the receiving threads, less would let queries wait."""

SQLITE_REST_FACTOR = 1.0
"""How many times as long as SQLite ran for them. It keeps a processor busy, but no thread waits for it."""

RECEIVING_SECONDS = 0.5
"""Further instances are expected for this long after an instance."""

MAX_REST_SECONDS = 2.0
"""Longest pause after a query."""

REST_STEP_SECONDS = 0.05
"""Interval at which a paused query checks whether instances are still received."""


def pause_seconds(in_python: float, in_sqlite: float) -> float:
    """Return how long queries pause after one that ran for so many seconds of the processor."""
    return in_python * REST_FACTOR + in_sqlite * SQLITE_REST_FACTOR


class QueryRefused(VoxelnodeError):
    """A query is too large or takes too long; the message says what to do."""


class QueryStopped(VoxelnodeError):
    """The requestor no longer wants the answers."""


class Finder:
    """Answer queries. Thread-safe.

    Parameters
    ----------
    reader : Engine
        Read-only: the writer never waits for it.
    """

    def __init__(self, reader: Engine) -> None:
        self._reader = reader
        self._turns = threading.BoundedSemaphore(MAX_RUNNING)
        self._places = threading.BoundedSemaphore(MAX_RUNNING + MAX_WAITING)
        self._lock = threading.Lock()
        self._received_at = self._rested_at = -RECEIVING_SECONDS

    def note_received(self) -> None:
        """Note that an instance was received; queries pause for a while."""
        self._received_at = time.monotonic()

    def find(
        self, query: Query, maximum: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        """Answer a query as `node.index.search.queries.find` does, reading one page of rows at a time.

        Instances stored or deleted during the query may or may not be in the answers.

        Parameters
        ----------
        maximum : int or None
            Largest number of answers; a query with more is refused.
        stop : callable
            Polled, even while a statement runs; True ends the query.

        Raises
        ------
        QueryRefused
            There are more answers than `maximum`, too many queries wait, or this one takes too long.
        QueryStopped
            `stop` returned True.
        """
        if maximum is not None and (query.limit is None or query.limit > maximum):
            query = replace(query, limit=maximum + 1)
        ids: array[int] | None = None
        read = 0
        while ids is None or read < len(ids):
            with self.turn(stop) as connection:
                if ids is None:
                    ids = matching_ids(connection, query)
                    if maximum is not None and len(ids) > maximum:
                        raise QueryRefused(f"more than {maximum} answers: narrow the query")
                page = answers(connection, query, ids[read : read + PAGE])
            read += PAGE
            began_at = time.thread_time()
            yield from page
            self._charge(time.thread_time() - began_at)  # the run time of the code that used the answers

    @contextmanager
    def turn(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Connection]:
        """Open one of the few connections; interrupt a statement that takes too long, or when `stop` returns True.

        Raises the same exceptions as `find`.
        """
        if not self._places.acquire(blocking=False):
            raise QueryRefused(TOO_MANY)
        try:
            until = time.monotonic() + MAX_WAIT_SECONDS
            self._rest(stop, until)
            if not self._turns.acquire(timeout=max(0.0, until - time.monotonic())):
                raise QueryRefused(TOO_MANY)
            began_at, in_sqlite = time.thread_time(), 0.0
            try:
                with self._reader.begin() as connection:
                    clock = connection.connection.dbapi_connection
                    before = getattr(clock, "seconds", 0.0)  # no time of this processor in PostgreSQL
                    try:
                        with _bounded(connection, stop):
                            yield connection
                    finally:
                        in_sqlite = getattr(clock, "seconds", 0.0) - before
            finally:
                self._charge(time.thread_time() - began_at - in_sqlite, in_sqlite)
                self._turns.release()
        finally:
            self._places.release()

    def _charge(self, in_python: float, in_sqlite: float = 0.0) -> None:
        """Make the next query wait for the seconds that this one ran; this one is not delayed."""
        with self._lock:
            now, pause = time.monotonic(), pause_seconds(in_python, in_sqlite)
            self._rested_at = min(max(self._rested_at, now) + pause, now + MAX_REST_SECONDS)

    def _rest(self, stop: Callable[[], bool], until: float) -> None:
        """Wait while instances are received and the pause after earlier queries is not over."""
        while (now := time.monotonic()) < self._rested_at and now - self._received_at < RECEIVING_SECONDS:
            if stop():
                raise QueryStopped
            if now > until:
                raise QueryRefused(TOO_MANY)
            time.sleep(min(self._rested_at - now, REST_STEP_SECONDS))


@contextmanager
def _bounded(connection: Connection, stop: Callable[[], bool]) -> Iterator[None]:
    deadline = time.monotonic() + MAX_RUN_SECONDS
    if stop():
        raise QueryStopped
    database = backend_of(connection)
    try:
        with database.bounded(connection, lambda: stop() or time.monotonic() > deadline):
            yield
    except (OperationalError, database.Error) as error:
        if stop():
            raise QueryStopped from error
        if time.monotonic() > deadline:
            raise QueryRefused(f"not found within {MAX_RUN_SECONDS:g} s: narrow the query") from error
        raise
