"""The node's side of child processes: start, ask, replace and end them.

A child starts as a copy of this process, or as another Python. None runs the program that starts it, as
multiprocessing would: its children import the main file again, so a program without ``if __name__ == "__main__"`` would
begin anew in each of them.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from time import monotonic
from typing import Protocol

from node.children.confinement import described
from node.children.messages import DEATH, IDENTITY_BYTES, ChildCancelled, Garbled, Wait, receive_answer, send_request
from node.children.serving import SIGNALS_LEFT_TO_THE_NODE, ChildEnds, serve_in_child, wait_for_order
from node.errors import VoxelnodeError, says_out_of_memory
from node.files.durable import IS_LINUX

_END_SECONDS = 10.0
"""How long a process that closed its pipes has to end."""

PATIENCE_SECONDS = 1.0
"""How long a call waits for a busy child: most answer before another has started, which takes half a second."""


_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; import voxelnode; from node.children.serving import main; main()"
"""The program of another Python: its arguments are the name of the process and the `sys.path` of this one.

A folder `node` beside the script may be first in that path: `voxelnode` loads the package of the installation.
"""


class Process(Protocol):
    """The part of `subprocess.Popen` that a child needs."""

    def poll(self) -> int | None:
        """Return how the process ended; None while it runs."""

    def wait(self) -> int:
        """Wait for the end of the process; return how it ended."""

    def kill(self) -> None:
        """Send SIGKILL, if it runs."""


@dataclass(frozen=True, slots=True)
class StartedChild:
    """A child, and the node's ends of what connects both, which do not block.

    `lifeline`: readable once the child has ended. Nothing is ever sent, and the child ends when the node has.
    """

    process: Process
    requests: int
    answers: int
    lifeline: int
    stderr: int | None

    def close(self) -> None:
        """Kill the child and wait until it has ended."""
        self.process.kill()
        self.process.wait()
        for end in (self.requests, self.answers, self.lifeline, self.stderr):
            if end is not None:
                os.close(end)


def start_child(serve: Callable[..., None], arguments: Sequence[object], name: str, reads_stderr: bool) -> StartedChild:
    """Start a process that calls a function; see `Child`.

    Raises OSError: the system has no room for another process.
    """
    with ExitStack() as ours, ExitStack() as theirs:

        def kept(end: int, stack: ExitStack) -> int:
            stack.callback(os.close, end)
            os.set_blocking(end, stack is theirs)
            return end

        def pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
            read, write = os.pipe()
            return kept(read, reader), kept(write, writer)

        its_requests, requests = pipe(theirs, ours)
        answers, its_answers = pipe(ours, theirs)
        stderr, its_stderr = pipe(ours, theirs) if reads_stderr else (None, None)
        lifeline, its_lifeline = (end.detach() for end in socket.socketpair())
        ends = ChildEnds(its_requests, its_answers, kept(its_lifeline, theirs), its_stderr)
        kept(lifeline, ours)
        if not IS_LINUX:
            _say_unconfined()
        with _blocked_signals():
            process = another(name, ends.descriptors, serve_in_child, serve, *arguments)
        ours.pop_all()
    return StartedChild(process, requests, answers, lifeline, stderr)


@cache
def _say_unconfined() -> None:
    """Log it once: by `logging`, which writes to standard error also where nobody has configured it."""
    logging.getLogger(__name__).warning("child processes are %s", described())


_ahead: dict[str, tuple[Process, socket.socket]] = {}
"""Copies of this process that wait for what they are to do, by name."""


def copied_ahead(name: str, load: Callable[[], object] = lambda: None) -> None:
    """Fork the process that `another` would start with this name: what is loaded is in memory once for both.

    This process must have no other thread. The copy ends with it.

    `load`: called in the copy while it waits for what it is to do.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        if number := os.fork():
            _ahead[name] = _Copy(number), ours
            return
        try:
            ours.close()
            wait_for_order(theirs, name, load)
            os._exit(0)
        except BaseException:
            traceback.print_exc()  # the node searches it for the word that memory ran out
        finally:
            os._exit(1)


def another(name: str, descriptors: Sequence[int], function: Callable[..., None], *arguments: object) -> Process:
    """Have a process call a function: one that was copied ahead, or else another Python.

    It imports from where this process does.

    `name`: of the process, or in its command line.
    `descriptors`: it inherits them; the function gets their numbers, before the arguments.
    """
    if name not in _ahead:
        return other_python(name, descriptors, function, *arguments)
    process, connection = _ahead.pop(name)
    with connection, suppress(BrokenPipeError):  # it has died: whoever talks to it finds out
        socket.send_fds(connection, [b"."], descriptors)
        connection.sendall(pickle.dumps((function, *arguments)))
    return process


def other_python(name: str, descriptors: Sequence[int], function: Callable[..., None], *arguments: object) -> Process:
    """Have another Python call a function; see `another`."""
    command = [sys.executable, "-P", "-c", _PROGRAM, name, *sys.path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as told:  # it has died: whoever talks to it finds out
        told.write(pickle.dumps((function, descriptors, *arguments)))
    return process


class _Copy:
    """A process that this one forked."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._ended: int | None = None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        ended = self._wait(0)
        assert ended is not None
        return ended

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self._number, signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self._ended is None:
            try:
                number, status = os.waitpid(self._number, options)
            except ChildProcessError:  # the program ignores SIGCHLD, or waits for every process
                number, status = self._number, 0
            if number:
                self._ended = os.waitstatus_to_exitcode(status)
        return self._ended


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block Ctrl-C while a child starts; it would kill the child before it is configured."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_LEFT_TO_THE_NODE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ChildDied(VoxelnodeError):
    """The child process ended without an answer.

    `exitcode`: negative: the number of the signal that killed it.
    `out_of_memory`: a library ended the process with an out-of-memory message.
    """

    def __init__(self, exitcode: int | None, out_of_memory: bool = False) -> None:
        super().__init__(f"the child process exited with status {exitcode}")
        self.exitcode, self.out_of_memory = exitcode, out_of_memory

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that killed the child, such as ``SIGSEGV``; None if it exited."""
        return None if self.exitcode is None or self.exitcode >= 0 else signal.Signals(-self.exitcode).name


class Child:
    """One child process at a time. Not thread-safe.

    Starting a process takes most of a second, so it starts with the first request and serves many. It is replaced when
    it dies, is late, or sends something that is no answer.

    `serve`: called in the child with a `node.children.serving.ChildPipes` and `arguments`; answers requests until
        the channel closes. Its module is loaded before the child is configured. It is not the file that the
        program was started with: a child does not run that again.
    `name`: in the command line of the process.
    `max_answer_bytes`: longest answer.
    `reads_stderr`: whether to search the output of the process for the cause of death. Its standard error is then
        non-blocking and fails when full: C libraries tolerate that, third-party Python code does not.
    """

    def __init__(
        self,
        serve: Callable[..., None],
        *arguments: object,
        name: str,
        max_answer_bytes: int,
        reads_stderr: bool = False,
    ) -> None:
        self._serve, self._arguments, self._name = serve, arguments, name
        self._max_answer_bytes, self._reads_stderr = max_answer_bytes, reads_stderr
        self._started: StartedChild | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a process that can answer at once."""
        return self._started is not None and self._started.process.poll() is None

    def start(self) -> None:
        """Start the process in advance, so that it loads its modules before the first request.

        If this process has no other thread yet, fork, which takes no time, where that is safe.
        """
        if IS_LINUX and threading.active_count() == 1:
            copied_ahead(self._name)
        self._running()

    def call(self, request: object, seconds: float, *cancelled: threading.Event) -> bytes:
        """Send a request and return the child's answer.

        The child may be in the hands of whoever made the data that it reads, so its answer is not to be trusted either.

        Raises ChildLate: there was no answer within `seconds`.
        Raises ChildCancelled: one of the events was set first.
        """
        started = self._running()
        wait = Wait(monotonic() + seconds, started.lifeline, cancelled)
        identity = os.urandom(IDENTITY_BYTES)
        try:
            send_request(started.requests, identity, pickle.dumps(request), wait)
            kind, content = receive_answer(started.answers, identity, self._max_answer_bytes, wait)
        except (EOFError, OSError) as error:
            ended = select.poll()
            ended.register(started.lifeline, select.POLLIN)
            ended.poll(1000 * _END_SECONDS)
            started.process.kill()  # it may have closed its pipes and gone on
            died = ChildDied(started.process.wait(), says_out_of_memory(self._printed()))
            self.close()
            raise died from error
        except Garbled as error:
            self.close()
            raise ChildDied(None) from error
        except BaseException:  # a late answer would only cost memory
            self.close()
            raise
        printed = self._printed()
        if kind == DEATH:
            raise ChildDied(_exit_status(content), says_out_of_memory(printed))
        return content

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        started, self._started = self._started, None
        if started is not None:
            started.close()

    def _printed(self) -> str:
        """Return the output on standard error since the last call, at most 64 KiB.

        It may contain patient data: it is only searched for messages of libraries, and never passed on.
        """
        if self._started is None or self._started.stderr is None:
            return ""
        try:
            return os.read(self._started.stderr, 1 << 16).decode("ascii", "replace")
        except BlockingIOError:
            return ""

    def _running(self) -> StartedChild:
        if self._started is None or not self.is_running:
            self.close()
            self._started = start_child(self._serve, self._arguments, self._name, self._reads_stderr)
        return self._started


def _exit_status(text: bytes) -> int | None:
    """Return what a child says of the end of its process; None if it is no exit status."""
    try:
        status = int(text)
    except ValueError:
        return None
    return status if 0 <= status < 256 or -status in list(signal.Signals) else None


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if IS_LINUX else os.cpu_count() or 1


class ChildPool:
    """A pool that grows to the number of concurrent calls. Thread-safe.

    Each call has a child to itself, so the death of a child affects only the request that it was serving. The child
    used last serves the next call: its memory is warm, and the others stay idle. Where there is already one for each
    processor, a call waits `PATIENCE_SECONDS` for it before it starts another.

    `serve`, `name`, `max_answer_bytes`: see `Child`. `busy`: number of calls under way.
    """

    def __init__(self, serve: Callable[..., None], *arguments: object, name: str, max_answer_bytes: int) -> None:
        self._new_child = partial(
            Child, serve, *arguments, name=name, max_answer_bytes=max_answer_bytes, reads_stderr=True
        )
        self._changed = threading.Condition()
        self._idle: list[Child] = []
        self.busy, self._processors = 0, processors()
        self._closed = threading.Event()

    def start(self) -> None:
        """Start one child before the first call, unless there is one; see `Child.start`."""
        if self.busy:
            return
        with self._child() as child:
            child.start()

    def call(self, request: object, seconds: float, *cancelled: threading.Event) -> bytes:
        """Send a request to an idle child, or to a new one, and return its answer; see `Child.call`.

        Raises ChildCancelled: one of the events was set first, or the pool is closed.
        """
        with self._child() as child:
            return child.call(request, seconds, self._closed, *cancelled)

    def close(self) -> None:
        """Kill all children and wait until they have ended; later calls fail."""
        self._closed.set()
        with self._changed:
            self._changed.wait_for(lambda: not self.busy)
            for child in self._idle:
                child.close()
            self._idle.clear()

    @contextmanager
    def _child(self) -> Iterator[Child]:
        with self._changed:
            if self.busy >= self._processors:
                self._changed.wait_for(lambda: self._idle or self._closed.is_set(), PATIENCE_SECONDS)
            if self._closed.is_set():
                raise ChildCancelled
            child = self._idle.pop() if self._idle else self._new_child()
            self.busy += 1
        try:
            yield child
        finally:
            with self._changed:
                self.busy -= 1
                if child.is_running:
                    self._idle.append(child)
                else:
                    child.close()
                self._changed.notify_all()
