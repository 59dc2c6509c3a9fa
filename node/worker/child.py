"""The child process that converts: pixels and headers of strangers are decoded here, within limits.

`serve` runs in the child, `Converter` is the node's handle on it. A child serves many series one after the other, since
starting one costs most of a second; it is replaced when it dies, overruns its deadline or has served its share.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from time import monotonic

from node.convert import ConversionJob, Converted, convert
from node.errors import VoxelnodeError

SERIES_PER_CHILD = 200
"""After so many series a child is replaced: codecs leak."""

NICENESS = 5
"""Conversion gives way to receiving."""

_CHECK_SECONDS = 0.2


class ConverterDied(VoxelnodeError):
    """The child process ended, or was ended, without an answer."""


class ConversionCancelled(VoxelnodeError):
    """The node stops; the conversion was ended and may begin again."""


class Converter:
    """One child process at a time, used by one thread.

    Parameters
    ----------
    memory_bytes : int
        Address space of the child.
    cpu_seconds : int
        Processor time of one conversion.
    deadline_seconds : float
        Wall time of one conversion.
    """

    def __init__(self, memory_bytes: int, cpu_seconds: int, deadline_seconds: float) -> None:
        self._memory_bytes, self._cpu_seconds, self._deadline_seconds = memory_bytes, cpu_seconds, deadline_seconds
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._served = 0

    def run(self, job: ConversionJob, cancelled: threading.Event) -> Converted:
        """Convert one series in the child.

        Raises
        ------
        ConverterDied
            The message says how: a signal, a limit, an error of ours.
        ConversionCancelled
            `cancelled` was set first.
        """
        pipe, process = self._running()
        deadline = monotonic() + self._deadline_seconds
        try:
            pipe.send(job)
            while not wait([pipe, process.sentinel], timeout=_CHECK_SECONDS):
                if cancelled.is_set():
                    raise ConversionCancelled
                if monotonic() > deadline:
                    raise ConverterDied(f"no result within {self._deadline_seconds:g} s ([convert] deadline_seconds)")
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            process.join()
            ended = ConverterDied(_how_it_ended(process.exitcode, self._cpu_seconds))
            self.close()
            raise ended from error
        except VoxelnodeError:
            self.close()
            raise
        self._served += 1
        if self._served >= SERIES_PER_CHILD:
            self.close()
        if isinstance(answer, str):
            raise ConverterDied(answer)
        return answer  # type: ignore[no-any-return]  # a pipe cannot know what it carries

    def close(self) -> None:
        """End the child, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _running(self) -> tuple[Connection, multiprocessing.process.BaseProcess]:
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self.close()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=serve, args=(theirs, self._memory_bytes, self._cpu_seconds), name="voxelnode-converter"
            )
            self._process.start()
            theirs.close()
            self._served = 0
        return self._pipe, self._process


def serve(pipe: Connection, memory_bytes: int, cpu_seconds: int) -> None:
    """Convert job after job until the pipe closes; answers with `Converted`, or with a sentence on what failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node, which decides what becomes of us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # codecs print what they read, and that may be patient data
        os.dup2(silence, stream)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        try:
            answer: Converted | str = convert(job)
        except MemoryError:
            answer = f"conversion needs more than {memory_bytes} bytes ([convert] memory_bytes)"
        except OSError as error:
            answer = f"disk: {error.strerror}"
        except Exception as error:  # the boundary of the process: the node records what it was
            place = traceback.extract_tb(error.__traceback__)[-1]
            answer = (
                f"{type(error).__name__} at {place.name}, line {place.lineno} of {os.path.basename(place.filename)}"
            )
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _how_it_ended(exitcode: int | None, cpu_seconds: int) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        if name == "SIGXCPU":
            return f"conversion used more than {cpu_seconds} s of processor time ([convert] cpu_seconds)"
        return f"conversion was ended by {name}"
    return f"conversion process ended with status {exitcode}"
