"""How a child starts: as a copy of this process, or as another Python.

No child runs the program that starts it. `multiprocessing` would: its children import the main file again, so a program
without ``if __name__ == "__main__"`` would begin anew in each of them.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from node.child_process.serving import SIGNALS_LEFT_TO_THE_NODE, ChildEnds, serve_in_child

_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from node.child_process.serving import main; main()"
"""The program of another Python: its arguments are the name of the child and the `sys.path` of this process."""


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


def start_child(
    serve: Callable[..., None], arguments: tuple[object, ...], name: str, reads_stderr: bool, is_copy: bool
) -> StartedChild:
    """Start a process that calls a function; see `node.child_process.child.Child`.

    `is_copy`: fork, which takes no time. This process must have no other thread.

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
        with _blocked_signals():
            process = _copy(ours, ends, serve, arguments) if is_copy else _another(name, ends, serve, arguments)
        ours.pop_all()
    return StartedChild(process, requests, answers, lifeline, stderr)


def _another(name: str, ends: ChildEnds, serve: Callable[..., None], arguments: tuple[object, ...]) -> Process:
    """Start another Python, which imports from where this one does."""
    command = [sys.executable, "-P", "-c", _PROGRAM, name, *sys.path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=ends.descriptors)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as told:  # it has died: the first request tells
        told.write(pickle.dumps((ends, serve, *arguments)))
    return process


def _copy(ours: ExitStack, ends: ChildEnds, serve: Callable[..., None], arguments: tuple[object, ...]) -> Process:
    number = os.fork()
    if number:
        return _Copy(number)
    try:
        ours.close()
        serve_in_child(ends, serve, *arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()  # the node searches it for the word that memory ran out
    finally:
        os._exit(1)


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
