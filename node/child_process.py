"""Child processes for what may crash, hang or leak: pixels of strangers, plugins of others.

`Child` is the node's end of one; the functions are for the child's.
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
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any, Literal

from node.errors import VoxelnodeError

_CHECK_SECONDS = 0.2

LEFT_TO_THE_NODE = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C and the like are for the node, which decides what becomes of its children."""


class ChildDied(VoxelnodeError):
    """The child process ended without an answer.

    Parameters
    ----------
    exitcode : int or None
        Below 0: of the signal that ended it.
    """

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(f"the child process ended with status {exitcode}")
        self.exitcode = exitcode


class ChildLate(VoxelnodeError):
    """The child process gave no answer in time, and was ended."""


class ChildCancelled(VoxelnodeError):
    """The node stops; the child process was ended."""


class Child:
    """One child process at a time, used by one thread.

    It starts with the first question and serves many, since starting one costs most of a second; it is replaced when it
    dies, is late or has served its share.

    Parameters
    ----------
    serve : callable
        Runs in the child, with its end of the pipe and `arguments`: answers question after question until the pipe
        closes (see `questions`).
    name : str
        Of the process.
    answers : int or None
        The share of one child; None: no end to it.
    """

    def __init__(self, serve: Callable[..., None], *arguments: object, name: str, answers: int | None = None) -> None:
        self._serve, self._arguments, self._name, self._answers = serve, arguments, name, answers
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._served = 0

    def start(self) -> None:
        """Begin before the first question, so that the child can make itself ready meanwhile.

        It is forked, which takes no time, where this process has no other thread yet.
        """
        self._running("fork" if threading.active_count() == 1 else "spawn")

    def ask(self, question: object, seconds: float, cancelled: threading.Event) -> Any:
        """Return the child's answer.

        Raises
        ------
        ChildDied
        ChildLate
            There is none after so many seconds.
        ChildCancelled
            `cancelled` was set first.
        """
        pipe, process = self._running()
        deadline = monotonic() + seconds
        try:
            pipe.send(question)
            while not wait([pipe, process.sentinel], timeout=_CHECK_SECONDS):
                if cancelled.is_set():
                    raise ChildCancelled
                if monotonic() > deadline:
                    raise ChildLate
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            process.join()
            died = ChildDied(process.exitcode)
            self.close()
            raise died from error
        except VoxelnodeError:
            self.close()
            raise
        self._served += 1
        if self._served == self._answers:
            self.close()
        return answer

    def close(self) -> None:
        """End the child, whatever it does."""
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
            process = context.Process(target=self._serve, args=(theirs, *self._arguments), name=self._name)
            try:
                with _without_interrupts():
                    process.start()
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
            self._pipe, self._process = ours, process
            self._served = 0
        return self._pipe, self._process


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a child begin without Ctrl-C, which would interrupt it before it can `settle`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_NODE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def settle(memory_bytes: int | None = None) -> None:
    """Begin a child: signals are left to the node, nothing is printed, memory has a bound, and it ends with the node.

    Parameters
    ----------
    memory_bytes : int or None
        See `limit_memory`; None: no bound yet.
    """
    for number in LEFT_TO_THE_NODE:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_NODE)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # codecs and plugins print what they read, and that may be patient data
        os.dup2(silence, stream)
    if memory_bytes is not None:
        limit_memory(memory_bytes)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def limit_memory(size: int) -> int:
    """Let this process have so many bytes of address space, of which nothing is ever dumped; returns what it has."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _limit(resource.RLIMIT_AS, size)


def limit_processor_time(seconds: int) -> None:
    """Let this process use so many seconds of processor time from now on; SIGXCPU ends it then."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)


def _limit(kind: int, wanted: int) -> int:
    """Set a limit of this process, no wider than who started it allows (``ulimit``, a batch system); returns it."""
    hard = resource.getrlimit(kind)[1]
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (limit, hard))
    return limit


def questions(pipe: Connection) -> Iterator[Any]:
    """What is asked through a pipe, until it closes."""
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        yield question


def place_of(error: Exception) -> str:
    """Say what an error was and where: its text may quote patient data, its place does not."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {place.name}, line {place.lineno} of {os.path.basename(place.filename)}"
