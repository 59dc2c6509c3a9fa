"""The one writer of the index: collects a batch of work, commits once, and then answers all callers.

A commit costs a sync of the disk; during a commit the next batch collects by itself. Work that can be derived
again, such as the rows of instances that the journal still holds, is committed in SQLite without a sync. The next
durable commit makes it durable too: SQLite's write-ahead log keeps the order.

An index in PostgreSQL has several writers. Work that takes many locks takes them in an order, so that no two writers
wait for each other. It has a transaction of its own there, because the locks of other work before it would break that
order. If writers wait for each other all the same, the batch of one is undone, and each piece of its work is done again
in a transaction of its own.
"""

import queue
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, NamedTuple, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from node.errors import OutOfResources
from node.index.rows.backend import Failure, Place, WriterServer, backend_of, reason_of
from node.index.rows.scope import OutOfScope, current_scope
from node.index.rows.sharing import Sharing
from node.runtime.background import BackgroundService, SupervisedThread
from node.runtime.link import VERSION, CalledBack, SharedNumbers
from node.runtime.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")

MAX_BATCH = 256

MAX_ATTEMPTS = 8
"""At work that meets other writers."""

PAUSE_SECONDS = 0.005
"""Mean pause before the second attempt at one piece of work; it doubles with each."""


_ONE_HOST = Sharing()


class Change(NamedTuple):
    """A method of a repository that writes, by the name of its function, and what it is called with."""

    repository: Any
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


def _require_whole() -> None:
    if current_scope() is not None:
        raise OutOfScope("what a caller changes is compared with their projects first")


Done = list[tuple[Future[Any], Any]]


@dataclass(slots=True)
class _Work:
    """A function that reads and writes rows, and the future that its caller waits on."""

    run: Callable[[Connection], Any]
    future: Future[Any]
    durable: bool
    is_apart: bool


class _OtherWriters(Exception):
    """Work has met other writers."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class IndexWriter:
    """Run pieces of work in shared transactions, on one connection in one thread.

    Work may be run several times, of which all but the last were undone.

    `on_disk_error`: called once, with the reason, when the disk of the database fails. Nothing is written after that:
    after a failed sync a later success would prove nothing. `sharing`: for the repositories that write through it.
    `place`: where the index is, for who finds it locked.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        numbers: SharedNumbers,
        on_disk_error: Callable[[str], None] = lambda reason: None,
        sharing: Sharing = _ONE_HOST,
        place: Place | None = None,
    ) -> None:
        self.sharing, self._place = sharing, place
        self._metrics, self._numbers = metrics, numbers
        self._on_disk_error = on_disk_error
        self.commit_listeners: list[Callable[[], None]] = []
        self._noted: set[str] = set()
        self._failed: str | None = None
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()  # nothing is queued behind the end
        connection = engine.connect()
        self.database = backend_of(connection)
        self.database.watch(connection, partial(connection.info.__setitem__, _TAKEN, 1))
        self._has_ended = False
        self._busy_since: float | None = None
        self.thread = SupervisedThread("index-writer", partial(self._run, connection))
        self.thread.start()

    def run(self, work: Callable[[Connection], T], *, durable: bool = True, takes_many_locks: bool = False) -> T:
        """Return the result of `work` after its writes are committed; an exception undoes its own writes only.

        `durable`: sync the commit. Without it, a power cut may undo this commit, but no durable one that came before
            it.
        `takes_many_locks`: on rows that other writers may be about to lock.

        Raises OutOfResources: the commit failed or may have failed.
        Raises OutOfScope: the caller has a scope (`node.index.rows.scope`): whoever has compared the change with it
            leaves it first.
        """
        return self._result(work, durable=durable, takes_many_locks=takes_many_locks)

    def perform(self, change: Change, work: Callable[..., T]) -> T:
        """Return what a change returns, once it is committed; `work` makes it, with a connection before its `args`.

        Terms that another process looks at see what is committed: such a change has a transaction to itself.
        """
        has_terms_elsewhere = any(isinstance(one, CalledBack) for one in (*change.args, *change.kwargs.values()))

        def done(connection: Connection) -> T:
            return work(connection, *change.args, **change.kwargs)

        return self._result(done, is_apart=has_terms_elsewhere)

    def _result(
        self,
        work: Callable[[Connection], T],
        *,
        durable: bool = True,
        takes_many_locks: bool = False,
        is_apart: bool = False,
    ) -> T:
        _require_whole()
        future: Future[T] = Future()
        self._put(_Work(work, future, durable, is_apart or (takes_many_locks and self.sharing.host is not None)))
        return future.result()

    def _put(self, pending: _Work) -> None:
        with self._lock:
            if self._closed or self._failed is not None:
                raise OutOfResources(self._failed or "the index is closed")
            self._queue.put(pending)

    @property
    def busy_seconds(self) -> float:
        """The age of the transaction that is being committed; 0 if there is none."""
        since = self._busy_since
        return 0.0 if since is None else monotonic() - since

    def take_note(self, what: str) -> bool:
        """Return whether a commit since the last call has noted something; always, if other hosts commit as well."""
        is_noted = what in self._noted
        self._noted.discard(what)
        return is_noted or self.sharing.host is not None

    def give_up(self, reason: str) -> None:
        """Commit nothing more; the commit under way, which somebody has to interrupt, counts as failed."""
        self._failed = reason

    def close(self, last: Callable[[Connection], None]) -> None:
        """Commit what is queued and, unless the disk has failed, `last` as the last work; then stop, once."""
        with self._lock:
            if not self._closed:
                if self._failed is None:
                    self._queue.put(_Work(last, Future(), durable=True, is_apart=False))
                self._queue.put(None)
            self._closed = True
        self.thread.join()

    def _run(self, connection: Connection) -> None:
        try:
            self._work_until_closed(connection)
        except Exception:  # called again
            raise
        except BaseException:
            self._end(connection)
            raise
        self._end(connection)

    def _end(self, connection: Connection) -> None:
        """Let nobody wait for a writer that is gone."""
        with self._lock:
            self._closed = True
        with suppress(queue.Empty):
            while True:
                if (work := self._queue.get_nowait()) is not None:
                    work.future.set_exception(OutOfResources("the index is closed"))
        connection.close()

    def _work_until_closed(self, connection: Connection) -> None:
        while not self._has_ended:
            taken = [self._queue.get()]
            with suppress(queue.Empty):
                while len(taken) < MAX_BATCH:
                    taken.append(self._queue.get_nowait())
            self._has_ended = None in taken
            batch = [work for work in taken if work is not None]
            try:
                for together in self._transactions(batch):
                    self._busy_since = monotonic()
                    self._commit(connection, together)
            finally:  # such as a listener that raises: nobody waits for ever
                self._busy_since = None
                for work in batch:
                    if not work.future.done():
                        work.future.set_exception(OutOfResources("the index did not commit"))

    def _transactions(self, batch: list[_Work]) -> Iterator[list[_Work]]:
        """Yield the work of a batch, in its order, by transaction."""
        for is_apart, some in groupby(batch, lambda work: work.is_apart):
            together = list(some)
            yield from ([work] for work in together) if is_apart else [together]

    def _commit(self, connection: Connection, batch: list[_Work], attempt: int = 1) -> None:
        started = perf_counter()
        met: Exception | None = None
        try:
            if self._failed is not None:
                raise OutOfResources(self._failed)
            done, has_changed = self._written(connection, batch)
        except _OtherWriters as error:
            met = error.cause
        except Exception as error:  # of any kind: no caller may wait for ever, or take it for a success
            log.exception("index_commit_failed", batch=len(batch))
            self._note_disk_error(error)
            why = self._reason(error)
            for work in batch:
                if not work.future.done():
                    work.future.set_exception(OutOfResources(f"the index did not commit: {why}"))
            return
        if met is not None:
            self._commit_again(connection, batch, attempt, met)
            return
        self._metrics.commit_seconds.observe(perf_counter() - started)
        self._noted |= connection.info.pop(_NOTED, set())
        self._numbers.at[VERSION] += connection.info.pop(_TAKEN, 0)  # before anybody is told that it is done
        for future, result in done:
            future.set_result(result)
        if has_changed:
            for listener in tuple(self.commit_listeners):
                listener()

    def _commit_again(self, connection: Connection, batch: list[_Work], attempt: int, met: Exception) -> None:
        """Commit work that has met other writers, piece by piece."""
        self._metrics.commit_conflicts.inc()
        if attempt == MAX_ATTEMPTS:
            reason = reason_of(met)
            log.warning("index_commit_conflicts", attempts=attempt, reason=reason)
            is_of_rows = Failure.ROWS in self.database.failure(met)
            for work in batch:
                work.future.set_exception(met if is_of_rows else OutOfResources(f"other writers: {reason}"))
            return
        if len(batch) == 1:
            sleep(PAUSE_SECONDS * 2**attempt * random.random())  # so that two do not meet again
        for work in batch:
            if not work.future.done():
                self._commit(connection, [work], attempt + 1)

    def _written(self, connection: Connection, batch: list[_Work]) -> tuple[Done, bool]:
        """Write all rows in one transaction, durably if any work asks for it; return also whether rows have changed."""
        has_changed = self.database.begin_batch(connection, durable=any(work.durable for work in batch))
        done: Done = []
        is_alone = len(batch) == 1  # then there is no other work that its failure must not undo
        with connection.begin() as transaction:
            for work in batch:
                try:
                    with nullcontext() if is_alone else connection.begin_nested():
                        done.append((work.future, work.run(connection)))
                except Exception as error:  # of any kind: it goes to the caller of the work
                    failure = self.database.failure(error, connection)
                    if Failure.OTHER_WRITERS in failure:
                        raise _OtherWriters(error) from error
                    if Failure.BATCH in failure:
                        raise
                    if is_alone:
                        transaction.rollback()
                    work.future.set_exception(error)
                    if is_alone:
                        return done, False
            return done, has_changed()

    def _reason(self, error: Exception) -> str:
        if isinstance(self._place, Path) and Failure.LOCKED in self.database.failure(error):
            return self.database.lockers(self._place)
        return type(error).__name__

    def _note_disk_error(self, error: Exception) -> None:
        if Failure.DISK in self.database.failure(error) and self._failed is None:
            self._failed = f"index: {reason_of(error, coded=True)}"
            self._on_disk_error(self._failed)


class WriterElsewhere(IndexWriter):
    """The writer of a process beside the one that holds the root, which makes the changes.

    `make`: has that process make a change, by the class of its repository.
    """

    def __init__(self, sharing: Sharing, make: Callable[[type, str, Sequence[Any], Mapping[str, Any]], Any]) -> None:
        self.sharing, self._make = sharing, make
        self.commit_listeners = []

    def perform(self, change: Change, work: Callable[..., T]) -> T:
        """See `IndexWriter.perform`. Raises OutOfScope, and what the change raises there."""
        _require_whole()
        made: T = self._make(type(change.repository), change.name, change.args, change.kwargs)
        return made

    def take_note(self, what: str) -> bool:
        """Return True: what commits note is known where they are made."""
        return True


_NOTED, _TAKEN = "noted", "taken"


def note(connection: Connection, what: str) -> None:
    """Note what the transaction of a writer leaves to do, for `IndexWriter.take_note` after the commit."""
    connection.info.setdefault(_NOTED, set()).add(what)


STEP_SECONDS = 2.5
STALL_SECONDS = 5.0
"""The age of a transaction at which the server is asked what the transaction waits for."""


class ServerWatch(BackgroundService):
    """Finds out why a transaction is not committed.

    `stall`: what keeps commits waiting, to be read after "the server of the index".
    """

    def __init__(self, server: WriterServer, writer: IndexWriter) -> None:
        super().__init__("server of the index")
        self._server, self._writer = server, writer
        self.stall: str | None = None
        self._gives_up = False

    @property
    def trouble(self) -> str | None:
        """As of every service; also what keeps the writer waiting."""
        return self.stall or super().trouble

    def give_up_stalls(self) -> None:
        """From now on, end the writing of this process when the server keeps it waiting."""
        self._gives_up = True

    def step(self) -> float:
        """Look at the writer; return the seconds until the next look."""
        is_stalled = self._writer.busy_seconds > STALL_SECONDS
        stall = self._server.why_waiting() if is_stalled else None
        if stall is not None and self.stall is None:
            log.warning("index_stalled", detail=f"the {self.name} {stall}")
        self.stall = stall
        if stall is not None and self._gives_up:
            self._writer.give_up(f"the {self.name} {stall}, and the node stops")
            self._server.cut_writer()
        return STEP_SECONDS
