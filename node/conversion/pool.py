"""Child processes that convert: pixels and headers of strangers are decoded there, within limits.

`serve` runs in the child, `Converter` is the handle on it, `Converters` are several. Who only asks for conversions
loads no arrays and no codecs with this module.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from node.child_process import (
    Child,
    ChildCancelled,
    ChildDied,
    ChildLate,
    limit_memory,
    limit_processor_time,
    place_of,
    questions,
    settle,
)
from node.errors import VoxelnodeError

if TYPE_CHECKING:
    from node.conversion.job import ConversionJob, Converted, Limits

SERIES_PER_CHILD = 200
"""After so many series a child is replaced: codecs leak."""


class ConverterDied(VoxelnodeError):
    """The child process ended, or was ended, without an answer."""


class ConversionCancelled(VoxelnodeError):
    """The conversion was ended because its result is not wanted now; it may begin again."""


class Converter:
    """Converts in a child process; used by one thread at a time.

    Parameters
    ----------
    niceness : int
        Of the child: how far it gives way to other processes.
    """

    def __init__(self, niceness: int = 0) -> None:
        self._child = Child(serve, niceness, name="voxelnode-converter", answers=SERIES_PER_CHILD)

    def start(self) -> None:
        """Let the child load what it needs meanwhile."""
        self._child.start()

    def run(self, job: ConversionJob, limits: Limits, cancelled: threading.Event) -> Converted:
        """Convert one series in the child.

        Raises
        ------
        ConverterDied
            The message says how: a signal, a limit, an error of ours.
        ConversionCancelled
            `cancelled` was set first.
        """
        try:
            answer = self._child.ask((job, limits), limits.deadline_seconds, cancelled)
        except ChildCancelled:
            raise ConversionCancelled from None
        except ChildLate:
            late = f"no result within {limits.deadline_seconds:g} s ([convert] deadline_seconds)"
            raise ConverterDied(late) from None
        except ChildDied as died:
            raise ConverterDied(_how_it_ended(died.exitcode, limits.cpu_seconds)) from died
        if isinstance(answer, str):
            raise ConverterDied(answer)
        return answer  # type: ignore[no-any-return]  # a pipe cannot know what it carries

    def close(self) -> None:
        """End the child, whatever it does."""
        self._child.close()


class Converters:
    """As many child processes as are needed at once; safe to use from many threads."""

    def __init__(self, niceness: int = 0) -> None:
        self._niceness = niceness
        self._lock = threading.Lock()
        self._all: list[Converter] = []
        self._free: list[Converter] = []

    def start(self) -> None:
        """Let a child load what it needs meanwhile."""
        converter = self._taken()
        converter.start()
        self._free.append(converter)

    def run(self, job: ConversionJob, limits: Limits, cancelled: threading.Event) -> Converted:
        """Convert one series in a child that is free, as `Converter.run` does."""
        converter = self._taken()
        try:
            return converter.run(job, limits, cancelled)
        finally:
            self._free.append(converter)

    def close(self) -> None:
        """End all children, whatever they do."""
        for converter in self._all:
            converter.close()

    def _taken(self) -> Converter:
        with self._lock:
            if not self._free:
                self._free.append(Converter(self._niceness))
                self._all.append(self._free[0])
            return self._free.pop()


def serve(pipe: Connection, niceness: int) -> None:
    """Convert job after job until the pipe closes; answers with `Converted`, or with a sentence on what failed."""
    os.nice(niceness)
    settle()
    convert = _loaded()
    for job, limits in questions(pipe):
        memory_bytes = limit_memory(limits.memory_bytes)
        limit_processor_time(limits.cpu_seconds)
        try:
            answer: Converted | str = convert(job)
        except MemoryError:
            whose = "[convert] memory_bytes" if memory_bytes == limits.memory_bytes else "ulimit -v"
            answer = f"conversion needs more than {memory_bytes} bytes ({whose})"
        except OSError as error:
            answer = f"disk: {error.strerror}"
        except Exception as error:  # the boundary of the process: who asked records what it was
            answer = place_of(error)
        pipe.send(answer)


def _loaded() -> Callable[[ConversionJob], Converted]:
    """`convert`, with all that it needs; its modules stay, so that nobody looks for garbage among them."""
    gc.disable()
    from node.conversion.pipeline import convert

    gc.freeze()
    gc.enable()
    return convert


def _how_it_ended(exitcode: int | None, cpu_seconds: int) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        if name == "SIGXCPU":
            return f"conversion used more than {cpu_seconds} s of processor time ([convert] deadline_seconds)"
        return f"conversion was ended by {name}"
    return f"conversion process ended with status {exitcode}"
