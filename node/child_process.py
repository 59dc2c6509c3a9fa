"""Child processes for work that may crash, hang or leak memory: untrusted pixels, third-party plugins.

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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any, Literal

from node.errors import VoxelnodeError, says_out_of_memory

_CHECK_SECONDS = 0.2

SIGNALS_LEFT_TO_THE_NODE = (signal.SIGINT, signal.SIGTERM)
"""Ignored by children: the node decides when a child ends, and kills it with SIGKILL."""

_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


class ChildDied(VoxelnodeError):
    """The child process ended without an answer.

    Parameters
    ----------
    exitcode : int or None
        Negative: the number of the signal that killed it.
    out_of_memory : bool
        A library ended the process with an out-of-memory message.
    """

    def __init__(self, exitcode: int | None, out_of_memory: bool = False) -> None:
        super().__init__(f"the child process exited with status {exitcode}")
        self.exitcode, self.out_of_memory = exitcode, out_of_memory

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that killed the child, such as ``SIGSEGV``; None if it exited."""
        return None if self.exitcode is None or self.exitcode >= 0 else signal.Signals(-self.exitcode).name


class ChildLate(VoxelnodeError):
    """The child process did not answer in time and was killed."""


class ChildCancelled(VoxelnodeError):
    """The answer is no longer wanted; the child process was killed."""


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """The limits of one request to a child: address space, processor time, and wall time, which the node watches."""

    memory_bytes: int  # beyond that of its loaded program
    cpu_seconds: int
    deadline_seconds: float


class Child:
    """One child process at a time. Not thread-safe.

    Starting a process takes most of a second, so it starts with the first request and serves many. It is replaced when
    it dies, is late, or has given `max_answers` answers.

    Parameters
    ----------
    serve : callable
        Called in the child with its end of the pipe and `arguments`; answers requests until the pipe closes (see
        `requests`). Its module is loaded before `configure_child` runs.
    name : str
        Name of the process.
    max_answers : int or None
        Number of answers per process; None: unlimited.
    reads_stderr : bool
        Whether to search the output of the process for the cause of death. Its standard error is then non-blocking and
        fails when full: C libraries tolerate that, third-party Python code does not.
    """

    def __init__(
        self,
        serve: Callable[..., None],
        *arguments: object,
        name: str,
        max_answers: int | None = None,
        reads_stderr: bool = False,
    ) -> None:
        self._serve, self._arguments, self._name, self._max_answers = serve, arguments, name, max_answers
        self._reads_stderr = reads_stderr
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._stderr: Connection | None = None
        self._answers = 0

    @property
    def is_running(self) -> bool:
        """Whether there is a process that can answer at once."""
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Start the process in advance, so that it loads its modules before the first request.

        If this process has no other thread yet, fork, which takes no time.
        """
        self._running("fork" if threading.active_count() == 1 else "spawn")

    def call(self, request: object, seconds: float, *cancelled: threading.Event) -> Any:
        """Send a request and return the child's answer.

        Raises
        ------
        ChildDied
        ChildLate
            There was no answer within `seconds`.
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
            died = ChildDied(process.exitcode, says_out_of_memory(self._printed()))
            self.close()
            raise died from error
        except BaseException:  # a later answer would be mistaken for that to the next request
            self.close()
            raise
        self._printed()
        self._answers += 1
        if self._answers == self._max_answers:
            self.close()
        return answer

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        for end in (self._pipe, self._stderr):
            if end is not None:
                end.close()
        self._process = self._pipe = self._stderr = None

    def _printed(self) -> str:
        """Return the output on standard error since the last call, at most 64 KiB.

        It may contain patient data: it is only searched for messages of libraries, and never passed on.
        """
        if self._stderr is None:
            return ""
        try:
            return os.read(self._stderr.fileno(), 1 << 16).decode("ascii", "replace")
        except BlockingIOError:
            return ""

    def _running(
        self, method: Literal["fork", "spawn"] = "spawn"
    ) -> tuple[Connection, multiprocessing.process.BaseProcess]:
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self.close()
            context: Any = multiprocessing.get_context(method)  # of either kind
            with ExitStack() as on_failure, ExitStack() as theirs:
                pipe, child_pipe = context.Pipe()
                on_failure.callback(pipe.close)
                theirs.callback(child_pipe.close)
                stderr = child_stderr = None
                if self._reads_stderr:
                    stderr, child_stderr = context.Pipe(duplex=False)
                    on_failure.callback(stderr.close)
                    theirs.callback(child_stderr.close)
                    os.set_blocking(stderr.fileno(), False)
                arguments = (self._serve, child_pipe, child_stderr, *self._arguments)
                process = context.Process(target=_run, args=arguments, name=self._name)
                with _blocked_signals():
                    process.start()
                on_failure.pop_all()
            self._pipe, self._stderr, self._process = pipe, stderr, process
            self._answers = 0
        return self._pipe, self._process


class ChildPool:
    """A pool that grows to the number of concurrent calls. Thread-safe.

    Each call has a child to itself, so the death of a child affects only the request that it was serving. The child
    used last serves the next call: its memory is warm, and the others stay idle.

    Parameters
    ----------
    serve, arguments, name, max_answers
        See `Child`.
    """

    def __init__(
        self, serve: Callable[..., None], *arguments: object, name: str, max_answers: int | None = None
    ) -> None:
        self._new_child = partial(Child, serve, *arguments, name=name, max_answers=max_answers, reads_stderr=True)
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
        """Kill all children and wait until they have ended; later calls fail."""
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
    """Block Ctrl-C while a child starts; it would kill the child before `configure_child` has run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_LEFT_TO_THE_NODE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(serve: Callable[..., None], pipe: Connection, stderr: Connection | None, *arguments: object) -> None:
    configure_child(stderr)
    serve(pipe, *arguments)


def configure_child(stderr: Connection | None = None) -> None:
    """Configure a child to ignore signals, print nothing, dump no core, and end with the node.

    Codecs and plugins may print values that they read, which may be patient data.

    Parameters
    ----------
    stderr : Connection or None
        Receives the standard error of the child, which is dropped while the pipe is full; None: all is dropped.
    """
    for number in SIGNALS_LEFT_TO_THE_NODE:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_LEFT_TO_THE_NODE)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.close(silence)
    if stderr is not None:
        os.dup2(stderr.fileno(), 2)
        stderr.close()
        os.set_blocking(2, False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def use_one_thread() -> None:
    """Prevent numerical libraries that are loaded later from starting one thread per processor.

    Each thread reserves address space, so a conversion within its limit on one machine could fail on another with more
    processors.
    """
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))


def _mapped_bytes() -> int:
    """Return the size in bytes of the mapped address space of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def limit_memory(size: int) -> int:
    """Limit the address space of this process to `size` bytes; return the limit in force, which may be lower."""
    return _limit(resource.RLIMIT_AS, size)


def limit_processor_time(seconds: int) -> None:
    """Limit this process to `seconds` more of processor time, after which SIGXCPU kills it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)


def _limit(kind: int, wanted: int) -> int:
    """Set a resource limit within the inherited one (``ulimit``, a batch system); return the limit in force."""
    hard = resource.getrlimit(kind)[1]
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (limit, hard))
    return limit


def requests(pipe: Connection) -> Iterator[Any]:
    """Yield the requests from a pipe until it closes."""
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        yield request


def limited_requests(pipe: Connection) -> Iterator[tuple[Any, ChildLimits]]:
    """Yield the pairs of request and limits that come through a pipe; the limits hold until the next pair.

    Everything that the child loads must be loaded before.
    """
    loaded_bytes = _mapped_bytes()  # differs between machines and versions of libraries, so it is not counted
    for request, limits in requests(pipe):
        limit_memory(loaded_bytes + limits.memory_bytes)
        limit_processor_time(limits.cpu_seconds)
        yield request, limits


def type_and_location(error: Exception) -> str:
    """Return the type of an error and the line that raised it, without its text, which may quote patient data."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {line.name}, line {line.lineno} of {os.path.basename(line.filename)}"
