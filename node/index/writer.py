"""The one writer: takes what is queued, syncs folders, commits once, and then lets all of them go on.

A commit in SQLite costs a sync of the disk. While one is under way the next batch collects by itself, and it waits for
those whose files are being synced just then: a lone sender waits for nothing, and many senders share one commit.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from node.errors import OutOfResources
from node.failpoints import reached
from node.index.arrivals import add_instances
from node.index.levels import Arrived
from node.index.records import Kept
from node.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")
MAXIMUM_BATCH = 256
EXPECT_SECONDS = 0.001
"""Longest wait for instances whose files are being synced: less than the commit that they would cost by themselves."""

UNTRUSTED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY})
"""Primary result codes after which nothing more may be written; a full or a busy database passes."""


@dataclass(slots=True)
class _Work:
    """Anything but an instance: reads and writes rows by itself."""

    run: Callable[[Connection], Any]
    future: Future[Any]


@dataclass(slots=True)
class _Instance:
    """An instance whose file lies in `folder`."""

    arrived: Arrived
    folder: Path
    future: Future[Kept]


class IndexWriter:
    """Runs pieces of work in shared transactions, on one connection in one thread.

    Parameters
    ----------
    engine : Engine
    sync_folder : callable
        Makes the names in a folder durable; called once for each folder of a batch, before the commit.
    on_disk_error : callable (str)
        Told once, in words, that the disk of the database failed. Nothing is written any more then: after a failed sync
        a later success would prove nothing.
    """

    def __init__(
        self,
        engine: Engine,
        sync_folder: Callable[[Path], None],
        metrics: Metrics,
        on_disk_error: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._engine, self._sync_folder, self._metrics = engine, sync_folder, metrics
        self._on_disk_error = on_disk_error
        self._failed: str | None = None
        self._queue: queue.SimpleQueue[_Work | _Instance | None] = queue.SimpleQueue()
        self._closed = False
        self._expected = 0
        self._lock = threading.Lock()  # nothing is queued behind the end
        connection = engine.connect()
        self._thread = threading.Thread(target=self._run, args=(connection,), name="index-writer", daemon=True)
        self._thread.start()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While the file of an instance is being synced: its commit will be asked for within the blink of an eye."""
        with self._lock:
            self._expected += 1
        try:
            yield
        finally:
            with self._lock:
                self._expected -= 1

    def add(self, arrived: Arrived, folder: Path) -> Kept:
        """Index one instance, together with whatever else is waiting; returns after the commit.

        Parameters
        ----------
        folder : Path
            Holds the file that the row speaks of; synced before the commit.

        Raises
        ------
        OutOfResources
            The commit failed or may have failed: never a success.
        """
        return self.submit(arrived, folder).result()

    def submit(self, arrived: Arrived, folder: Path) -> Future[Kept]:
        """As `add`, without waiting for the commit."""
        future: Future[Kept] = Future()
        self._put(_Instance(arrived, folder, future))
        return future

    def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, after its effects are committed; raising undoes its own effects only.

        Raises
        ------
        OutOfResources
            The commit failed or may have failed.
        """
        future: Future[T] = Future()
        self._put(_Work(work, future))
        return future.result()

    def _put(self, pending: _Work | _Instance) -> None:
        with self._lock:
            if self._closed or self._failed is not None:
                raise OutOfResources(self._failed or "the index is closed")
            self._queue.put(pending)
        self._metrics.queued_instances.set(self._queue.qsize())

    @property
    def is_alive(self) -> bool:
        """Whether what is queued will be worked on."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Pieces of work that no batch has taken yet."""
        return self._queue.qsize()

    def close(self) -> None:
        """Commit what is queued and stop."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self, connection: Connection) -> None:
        stopping = False
        while not stopping:
            taken = [self._queue.get()]
            until = perf_counter() + EXPECT_SECONDS
            while len(taken) < MAXIMUM_BATCH and (more := self._next(until)) is not None:
                taken += more
            self._metrics.queued_instances.set(self._queue.qsize())
            stopping = None in taken
            batch = [one for one in taken if one is not None]
            if batch:
                self._commit(connection, batch)
        connection.close()

    def _next(self, until: float) -> list[_Work | _Instance | None] | None:
        """What is queued, or will be before the moment `until` because it is expected; None when the batch is whole."""
        with suppress(queue.Empty):
            if self._queue.empty() and self._expected > 0 and (left := until - perf_counter()) > 0:
                return [self._queue.get(timeout=left)]
            return [self._queue.get_nowait()]
        return None

    def _commit(self, connection: Connection, batch: list[_Work | _Instance]) -> None:
        arrived = [one for one in batch if isinstance(one, _Instance)]
        started = perf_counter()
        try:
            done = self._transact(connection, batch, arrived)
        except Exception as error:  # whatever it is, no one may wait for ever, and no one be told of success
            log.exception("index_commit_failed", batch=len(batch))
            self._note_disk_error(error)
            for one in batch:
                if not one.future.done():
                    one.future.set_exception(OutOfResources(f"the index did not commit: {type(error).__name__}"))
            return
        if arrived:
            reached("rows-committed")
        self._metrics.commit_seconds.observe(perf_counter() - started)
        self._metrics.commit_instances.observe(len(arrived))
        for future, result in done:
            future.set_result(result)

    def _transact(self, connection: Connection, batch: list[_Work | _Instance], arrived: list[_Instance]) -> Done:
        """Sync the folders of what arrived, then write all rows in one transaction."""
        if self._failed is not None:
            raise OutOfResources(self._failed)
        for folder in {one.folder for one in arrived}:
            self._sync_folder(folder)
        if arrived:
            reached("folder-synced")
        try:
            return _written(connection, batch, arrived, _add_together)
        except _Spoiled:
            return _written(connection, batch, arrived, _add_singly)

    def _note_disk_error(self, error: Exception) -> None:
        cause = _disk_error(error)
        if cause is not None and self._failed is None:
            self._failed = f"index: {cause.sqlite_errorname}: {cause}"
            self._on_disk_error(self._failed)


def _disk_error(error: Exception) -> sqlite3.Error | None:
    """The error of SQLite that says that its disk, or what lies there, cannot be trusted."""
    cause = getattr(error, "orig", error)
    return cause if isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF in UNTRUSTED else None


class _Spoiled(Exception):
    """An instance of the batch cannot be indexed; nothing of the batch was committed."""


Done = list[tuple[Future[Any], Any]]


def _written(
    connection: Connection,
    batch: list[_Work | _Instance],
    arrived: list[_Instance],
    add: Callable[[Connection, list[_Instance]], Done],
) -> Done:
    """Write all rows in one transaction; instances first, so that no work runs twice when one of them spoils it."""
    with connection.begin():
        done = add(connection, arrived)
        for work in batch:
            if isinstance(work, _Work):
                done += _ran(connection, work.future, work.run)
        if arrived:
            reached("rows-written")
    return done


def _add_together(connection: Connection, arrived: list[_Instance]) -> Done:
    """Index all at once, without a savepoint, which would cost as much as the rows."""
    try:
        outcomes = add_instances(connection, [one.arrived for one in arrived])
    except (SQLAlchemyError, sqlite3.Error) as error:
        if _disk_error(error) is not None:
            raise
        raise _Spoiled from error
    return [(one.future, outcome) for one, outcome in zip(arrived, outcomes, strict=True)]


def _add_singly(connection: Connection, arrived: list[_Instance]) -> Done:
    """Index one by one, so that the others are not lost with the one that cannot be indexed."""
    done: Done = []
    for one in arrived:
        try:
            with connection.begin_nested():
                done.append((one.future, add_instances(connection, [one.arrived])[0]))
        except (SQLAlchemyError, sqlite3.Error) as error:
            if _disk_error(error) is not None:
                raise
            log.exception("instance_not_indexed")
            one.future.set_exception(OutOfResources("the index did not take the instance"))
    return done


def _ran(connection: Connection, future: Future[Any], work: Callable[[Connection], Any]) -> Done:
    try:
        with connection.begin_nested():
            return [(future, work(connection))]
    except Exception as error:  # whatever it is belongs to whoever asked for the work
        if _disk_error(error) is not None:
            raise
        future.set_exception(error)
        return []
