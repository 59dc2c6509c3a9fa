"""Child processes that decode for pictures, frames and transfers, so that a crash or hang of a codec spares the node.

The children run functions of `node.conversion.decoding`. Importing this module loads no codecs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from node.child_process import (
    ChildCancelled,
    ChildDied,
    ChildLate,
    ChildLimits,
    ChildPool,
    limited_requests,
    use_one_thread,
)
from node.errors import OutOfResources, VoxelnodeError

MAX_JOBS_PER_CHILD = 2000
"""A child is replaced after this many jobs, because codecs leak memory."""

STOPPING = "the node is stopping"
NO_MEMORY = "decoding needs more memory than a decoder may use"

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class NotDecoded(VoxelnodeError):
    """The pixels cannot be decoded or converted; the message gives the reason, without patient data."""


class DecoderBusy(OutOfResources):
    """Too many jobs wait for a decoder, or this one took too long; try again later."""


class Decoder:
    """Runs functions of `node.conversion.decoding` in child processes. Thread-safe.

    The first job starts the children; `close` ends them.

    Parameters
    ----------
    workers : int
        Number of jobs at once.
    memory_bytes : int
        Address space of a child beyond that of its loaded program.
    cpu_seconds : int
        Processor time of one job.
    deadline_seconds : float
        Wall time of one job, and the longest wait for its turn.
    max_waiting : int
        Number of jobs that may wait. Another one is refused at once, so that waiting jobs never occupy all threads of
        a server.
    max_answer_bytes : int
        Longest result; a function that may exceed it writes a file instead.
    """

    def __init__(
        self,
        workers: int = 2,
        memory_bytes: int = 4_000_000_000,
        cpu_seconds: int = 60,
        deadline_seconds: float = 120.0,
        max_waiting: int = 20,
        max_answer_bytes: int = 64_000_000,
    ) -> None:
        self._limits = ChildLimits(memory_bytes, cpu_seconds, deadline_seconds)
        self._turns, self._queue = threading.Semaphore(workers), threading.Semaphore(workers + max_waiting)
        self._children = ChildPool(serve, max_answer_bytes, name="voxelnode-decoder", max_answers=MAX_JOBS_PER_CHILD)

    def run(
        self, function: Callable[Arguments, Answer], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Answer:
        """Run one job in a child and return its result.

        Raises
        ------
        NotDecoded
            The data cannot be decoded, or the child crashed on them.
        DecoderBusy
            Too many jobs are waiting, or this one took longer than `deadline_seconds`.
        OSError
            The file cannot be read.
        """
        with self._turn():
            ok, answer = self._call(partial(function, *arguments, **keywords))
        if ok:
            return answer  # type: ignore[no-any-return]  # a pipe cannot know what it carries
        raise answer if isinstance(answer, OSError) else NotDecoded(answer)

    def close(self) -> None:
        """Kill the children at once; jobs under way and later ones fail."""
        self._children.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._queue.acquire(blocking=False):
            raise DecoderBusy
        try:
            if not self._turns.acquire(timeout=self._limits.deadline_seconds):
                raise DecoderBusy
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._queue.release()

    def _call(self, job: Callable[[], object]) -> tuple[bool, Any]:
        try:
            return self._children.call((job, self._limits), self._limits.deadline_seconds)  # type: ignore[no-any-return]
        except ChildCancelled:
            raise NotDecoded(STOPPING) from None
        except ChildLate:
            raise DecoderBusy from None
        except ChildDied as died:
            if died.signal_name == "SIGXCPU":
                raise NotDecoded(f"it took more than {self._limits.cpu_seconds} s of processor time") from died
            raise NotDecoded(NO_MEMORY if died.out_of_memory else "the decoder crashed") from died


def serve(pipe: Connection, max_answer_bytes: int) -> None:
    """Run jobs until the pipe closes; answer each with (True, result) or (False, reason or OSError)."""
    use_one_thread()
    from node.conversion.decoding import LIBRARIES, result_of

    for name in LIBRARIES:
        import_module(name)
    for job, _limits in limited_requests(pipe):
        try:
            pipe.send(result_of(job, max_answer_bytes))
        except MemoryError:
            pipe.send((False, NO_MEMORY))
