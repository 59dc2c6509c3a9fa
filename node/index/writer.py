"""The one writer: takes what is queued, syncs folders, commits once, and then lets all of them go on.

A commit in SQLite costs a sync of the disk. While one is under way the next batch collects by itself, so a lone sender
waits for nothing and many senders share one commit.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from node.errors import OutOfResources
from node.failpoints import reached
from node.index.instances import add_instances
from node.index.levels import Arrived
from node.index.records import Kept
from node.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")
MAXIMUM_BATCH = 256
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
        self._lock = threading.Lock()  # nothing is queued behind the end
        connection = engine.connect()
        self._thread = threading.Thread(target=self._run, args=(connection,), name="index-writer", daemon=True)
        self._thread.start()

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
            while len(taken) < MAXIMUM_BATCH and not self._queue.empty():
                taken.append(self._queue.get())
            self._metrics.queued_instances.set(self._queue.qsize())
            stopping = None in taken
            batch = [one for one in taken if one is not None]
            if batch:
                self._commit(connection, batch)
        connection.close()

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

    def _transact(
        self, connection: Connection, batch: list[_Work | _Instance], arrived: list[_Instance]
    ) -> list[tuple[Future[Any], Any]]:
        """Sync the folders of what arrived, then write all rows in one transaction."""
        if self._failed is not None:
            raise OutOfResources(self._failed)
        done: list[tuple[Future[Any], Any]] = []
        for folder in {one.folder for one in arrived}:
            self._sync_folder(folder)
        if arrived:
            reached("folder-synced")
        with connection.begin():
            done += _add(connection, arrived)
            for work in batch:
                if isinstance(work, _Work):
                    done += _ran(connection, work.future, work.run)
            if arrived:
                reached("rows-written")
        return done

    def _note_disk_error(self, error: Exception) -> None:
        cause = _disk_error(error)
        if cause is not None and self._failed is None:
            self._failed = f"index: {cause.sqlite_errorname}: {cause}"
            self._on_disk_error(self._failed)


def _disk_error(error: Exception) -> sqlite3.Error | None:
    """The error of SQLite that says that its disk, or what lies there, cannot be trusted."""
    cause = getattr(error, "orig", None)
    return cause if isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF in UNTRUSTED else None


def _add(connection: Connection, arrived: list[_Instance]) -> list[tuple[Future[Any], Any]]:
    """Index all at once; when one of them spoils that, one by one, so that the others are not lost with it."""
    if not arrived:
        return []
    try:
        with connection.begin_nested():
            outcomes = add_instances(connection, [one.arrived for one in arrived])
        return [(one.future, outcome) for one, outcome in zip(arrived, outcomes, strict=True)]
    except SQLAlchemyError as error:
        if _disk_error(error) is not None:
            raise
        if len(arrived) > 1:
            return [done for one in arrived for done in _add(connection, [one])]
        log.exception("instance_not_indexed")
        arrived[0].future.set_exception(OutOfResources("the index did not take the instance"))
        return []


def _ran(
    connection: Connection, future: Future[Any], work: Callable[[Connection], Any]
) -> list[tuple[Future[Any], Any]]:
    try:
        with connection.begin_nested():
            return [(future, work(connection))]
    except Exception as error:  # whatever it is belongs to whoever asked for the work
        if _disk_error(error) is not None:
            raise
        future.set_exception(error)
        return []
