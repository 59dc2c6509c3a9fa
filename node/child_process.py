"""Child processes for work that may crash, hang or leak: foreign pixels, plugins of others.

`Child` and `ChildPool` are the node's side. The functions run in the child.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any, Literal

from node.errors import VoxelnodeError

_CHECK_SECONDS = 0.2

SIGNALS_LEFT_TO_THE_NODE = (signal.SIGINT, signal.SIGTERM)
"""Children ignore them: the node decides when a child ends, and ends it by SIGKILL."""


class ChildDied(VoxelnodeError):
    """The child process ended without an answer.

    Parameters
    ----------
    exitcode : int or None
        Negative: the number of the signal that ended it.
    """

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(f"the child process ended with status {exitcode}")
        self.exitcode = exitcode

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that ended the child, such as ``SIGSEGV``; None if it exited."""
        return None if self.exitcode is None or self.exitcode >= 0 else signal.Signals(-self.exitcode).name


class ChildLate(VoxelnodeError):
    """The child process did not answer in time and was killed."""


class ChildCancelled(VoxelnodeError):
    """The answer is no longer wanted; the child process was killed."""


class Child:
    """One child process at a time, used by one thread.

    The process starts with the first request, because starting it costs most of a second, and serves many. It is
    replaced when it dies, is late or has given its share of answers.

    Parameters
    ----------
    serve : callable
        Runs in the child with its end of the pipe and `arguments`, and answers request after request until the pipe
        closes (see `requests`). Its module is loaded before `configure_child` runs.
    name : str
        Of the process.
    max_answers : int or None
        Answers of one process; None: unlimited.
    """

    def __init__(
        self, serve: Callable[..., None], *arguments: object, name: str, max_answers: int | None = None
    ) -> None:
        self._serve, self._arguments, self._name, self._max_answers = serve, arguments, name, max_answers
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._answers = 0

    @property
    def is_running(self) -> bool:
        """Whether there is a process that can answer at once."""
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Start the process before the first request, so that it can load its modules meanwhile.

        Forks, which takes no time, if this process has no other thread yet.
        """
        self._running("fork" if threading.active_count() == 1 else "spawn")

    def call(self, request: object, seconds: float, *cancelled: threading.Event) -> Any:
        """Send a request and return the child's answer.

        Raises
        ------
        ChildDied
        ChildLate
            There is no answer after `seconds`.
        ChildCancelled
            One of the events was set first.
        """
        pipe, process = self._running()
        deadline = monotonic() + seconds
        try:
            pipe.send(request)
            while not wait([pipe, process.sentinel], timeout=_CHECK_SECONDS):
                if any(event.is_set() for event in cancelled):
                    raise ChildCancelled
                if monotonic() > deadline:
                    raise ChildLate
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            process.join()
            died = ChildDied(process.exitcode)
            self.close()
            raise died from error
        except BaseException:  # an answer that comes later would be taken for that to the next request
            self.close()
            raise
        self._answers += 1
        if self._answers == self._max_answers:
            self.close()
        return answer

    def close(self) -> None:
        """Kill the process, whatever it does, and wait until it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _running(
        self, method: Literal["fork", "spawn"] = "spawn"
    ) -> tuple[Connection, multiprocessing.process.BaseProcess]:
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self.close()
            context: Any = multiprocessing.get_context(method)  # of either kind
            ours, theirs = context.Pipe()
            process = context.Process(target=_run, args=(self._serve, theirs, *self._arguments), name=self._name)
            try:
                with _blocked_signals():
                    process.start()
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
            self._pipe, self._process = ours, process
            self._answers = 0
        return self._pipe, self._process


class ChildPool:
    """As many children as there are calls at once; safe to use from many threads.

    Each call has a child to itself, so a child that dies, or is killed, costs only the request that it was serving.
    The child that was used last serves the next call: its memory is warm, and the others stay idle.

    Parameters
    ----------
    serve, arguments, name, max_answers
        See `Child`.
    """

    def __init__(
        self, serve: Callable[..., None], *arguments: object, name: str, max_answers: int | None = None
    ) -> None:
        self._new_child = partial(Child, serve, *arguments, name=name, max_answers=max_answers)
        self._changed = threading.Condition()
        self._idle: list[Child] = []
        self._busy = 0
        self._closed = threading.Event()

    def start(self) -> None:
        """Start one child before the first call; see `Child.start`."""
        with self._child() as child:
            child.start()

    def call(self, request: object, seconds: float, *cancelled: threading.Event) -> Any:
        """Send a request to an idle child, or to a new one, and return its answer; see `Child.call`.

        Raises
        ------
        ChildDied, ChildLate
        ChildCancelled
            One of the events was set first, or the pool is closed.
        """
        with self._child() as child:
            return child.call(request, seconds, self._closed, *cancelled)

    def close(self) -> None:
        """Kill all children, whatever they do, and wait until they have ended; no call succeeds any more."""
        self._closed.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            for child in self._idle:
                child.close()
            self._idle.clear()

    @contextmanager
    def _child(self) -> Iterator[Child]:
        with self._changed:
            if self._closed.is_set():
                raise ChildCancelled
            child = self._idle.pop() if self._idle else self._new_child()
            self._busy += 1
        try:
            yield child
        finally:
            with self._changed:
                self._busy -= 1
                if child.is_running:
                    self._idle.append(child)
                else:
                    child.close()
                self._changed.notify_all()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Start a child with Ctrl-C blocked, which would end it before `configure_child` has run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_LEFT_TO_THE_NODE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(serve: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    configure_child()
    serve(pipe, *arguments)


def configure_child() -> None:
    """Prepare a child: it leaves signals to the node, prints nothing, dumps no core and ends with the node."""
    for number in SIGNALS_LEFT_TO_THE_NODE:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_LEFT_TO_THE_NODE)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # codecs and plugins print values that they read, and those may be patient data
        os.dup2(silence, stream)
    os.close(silence)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def limit_memory(size: int) -> int:
    """Limit the address space of this process to `size` bytes; returns the limit, which may be lower."""
    return _limit(resource.RLIMIT_AS, size)


def limit_processor_time(seconds: int) -> None:
    """Let this process use `seconds` more of processor time; SIGXCPU ends it then."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)


def _limit(kind: int, wanted: int) -> int:
    """Set a limit of this process, within that of its starter (``ulimit``, a batch system); returns the limit."""
    hard = resource.getrlimit(kind)[1]
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (limit, hard))
    return limit


def requests(pipe: Connection) -> Iterator[Any]:
    """Yield the requests that come through a pipe, until it closes."""
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        yield request


def type_and_location(error: Exception) -> str:
    """Return the type of an error and the line that raised it, without its text, which may quote patient data."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {line.name}, line {line.lineno} of {os.path.basename(line.filename)}"
