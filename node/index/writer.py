"""The one writer of the index: collects a batch, syncs its folders, commits once, and then answers all callers.

A commit in SQLite costs a sync of the disk. During a commit the next batch collects by itself, and it waits for the
instances whose files are being synced at that moment: a lone sender waits for nothing, and many senders share a commit.
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
from node.index.records import Arrived, Kept
from node.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")
MAX_BATCH = 256
MAX_EXPECT_SECONDS = 0.001
"""Longest wait for instances whose files are being synced: shorter than a commit of their own."""

UNTRUSTED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY})
"""Primary result codes after which nothing more may be written; a full or a busy database recovers."""


@dataclass(slots=True)
class _Work:
    """Any work other than an instance: a function that reads and writes rows."""

    run: Callable[[Connection], Any]
    future: Future[Any]


@dataclass(slots=True)
class _Instance:
    """An instance whose file lies in `folder`."""

    arrived: Arrived
    folder: Path
    future: Future[Kept]


class IndexWriter:
    """Run pieces of work in shared transactions, on one connection in one thread.

    Parameters
    ----------
    engine : Engine
    sync_folder : callable
        Makes the names in a folder durable; called once for each folder of a batch, before the commit.
    on_disk_error : callable (str)
        Called once, with the reason, when the disk of the database fails. Nothing is written after that: after a
        failed sync a later success would prove nothing.
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
        self.commit_listeners: list[Callable[[], None]] = []
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
        """Announce an instance while its file is being synced: a batch waits a moment for it."""
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
            Holds the file that the row names; synced before the commit.

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
        """Return the result of `work` after its writes are committed; an exception undoes its own writes only.

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
        """Whether queued work will be done."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many pieces of work no batch has taken yet."""
        return self._queue.qsize()

    @property
    def failed(self) -> str | None:
        """The error of the disk after which nothing is written any more; None if there was none."""
        return self._failed

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
            until = perf_counter() + MAX_EXPECT_SECONDS
            while len(taken) < MAX_BATCH and (more := self._next(until)) is not None:
                taken += more
            self._metrics.queued_instances.set(self._queue.qsize())
            stopping = None in taken
            batch = [work for work in taken if work is not None]
            if batch:
                self._commit(connection, batch)
        connection.close()

    def _next(self, until: float) -> list[_Work | _Instance | None] | None:
        """Return the next piece of work, waiting until the moment `until` for an expected one; None ends the batch."""
        with suppress(queue.Empty):
            if self._queue.empty() and self._expected > 0 and (left := until - perf_counter()) > 0:
                return [self._queue.get(timeout=left)]
            return [self._queue.get_nowait()]
        return None

    def _commit(self, connection: Connection, batch: list[_Work | _Instance]) -> None:
        arrived = [work for work in batch if isinstance(work, _Instance)]
        started, changes = perf_counter(), _changes(connection)
        try:
            done = self._transact(connection, batch, arrived)
        except Exception as error:  # of any kind: no caller may wait for ever, or take it for a success
            log.exception("index_commit_failed", batch=len(batch))
            self._note_disk_error(error)
            for work in batch:
                if not work.future.done():
                    work.future.set_exception(OutOfResources(f"the index did not commit: {type(error).__name__}"))
            return
        if arrived:
            reached("rows-committed")
        self._metrics.commit_seconds.observe(perf_counter() - started)
        self._metrics.commit_instances.observe(len(arrived))
        for future, result in done:
            future.set_result(result)
        if _changes(connection) != changes:
            for listener in tuple(self.commit_listeners):
                listener()

    def _transact(self, connection: Connection, batch: list[_Work | _Instance], arrived: list[_Instance]) -> Done:
        """Sync the folders of the instances, then write all rows in one transaction."""
        if self._failed is not None:
            raise OutOfResources(self._failed)
        for folder in {instance.folder for instance in arrived}:
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


def _changes(connection: Connection) -> int:
    """Rows that this connection has changed since it was opened."""
    return int(connection.connection.driver_connection.total_changes)  # type: ignore[union-attr]


def _disk_error(error: Exception) -> sqlite3.Error | None:
    """Return the error of SQLite if it means that the disk or the file cannot be trusted, else None."""
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
    """Write all rows in one transaction; instances first, so that no work runs twice when an instance fails."""
    with connection.begin():
        done = add(connection, arrived)
        for work in batch:
            if isinstance(work, _Work):
                done += _ran(connection, work.future, work.run)
        if arrived:
            reached("rows-written")
    return done


def _add_together(connection: Connection, arrived: list[_Instance]) -> Done:
    """Index all instances at once, without a savepoint: it would cost as much as the rows."""
    try:
        outcomes = add_instances(connection, [instance.arrived for instance in arrived])
    except (SQLAlchemyError, sqlite3.Error) as error:
        if _disk_error(error) is not None:
            raise
        raise _Spoiled from error
    return [(instance.future, outcome) for instance, outcome in zip(arrived, outcomes, strict=True)]


def _add_singly(connection: Connection, arrived: list[_Instance]) -> Done:
    """Index each instance by itself, so that one that cannot be indexed does not take the others with it."""
    done: Done = []
    for instance in arrived:
        try:
            with connection.begin_nested():
                done.append((instance.future, add_instances(connection, [instance.arrived])[0]))
        except (SQLAlchemyError, sqlite3.Error) as error:
            if _disk_error(error) is not None:
                raise
            log.exception("instance_not_indexed")
            instance.future.set_exception(OutOfResources("the index did not take the instance"))
    return done


def _ran(connection: Connection, future: Future[Any], work: Callable[[Connection], Any]) -> Done:
    try:
        with connection.begin_nested():
            return [(future, work(connection))]
    except Exception as error:  # of any kind: it goes to the caller of the work
        if _disk_error(error) is not None:
            raise
        future.set_exception(error)
        return []
