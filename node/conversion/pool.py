"""Child processes that convert: foreign pixels and headers are decoded there, within limits.

`serve` runs in a child, `Converters` is the node's side. A process that only asks for conversions loads no arrays and
no codecs with this module.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from node.child_process import (
    ChildCancelled,
    ChildDied,
    ChildLate,
    ChildPool,
    limit_memory,
    limit_processor_time,
    requests,
    type_and_location,
)
from node.errors import VoxelnodeError

if TYPE_CHECKING:
    from node.conversion.job import ConversionJob, ConversionLimits, Converted

MAX_SERIES_PER_CHILD = 200
"""A child is replaced after so many series, because codecs leak."""


class ConverterDied(VoxelnodeError):
    """The child process ended, or was ended, without an answer."""


class ConversionCancelled(VoxelnodeError):
    """The conversion was ended because its result is not wanted now; it may begin again."""


class Converters:
    """As many child processes as there are conversions at once; safe to use from many threads.

    Parameters
    ----------
    niceness : int
        Of the children: how far they give way to other processes.
    """

    def __init__(self, niceness: int = 0) -> None:
        self._children = ChildPool(serve, niceness, name="voxelnode-converter", max_answers=MAX_SERIES_PER_CHILD)

    def start(self) -> None:
        """Start a child, so that it can load its modules meanwhile."""
        self._children.start()

    def run(self, job: ConversionJob, limits: ConversionLimits, cancelled: threading.Event) -> Converted:
        """Convert one series in a child.

        Raises
        ------
        ConverterDied
            The message gives the cause: a signal, a limit, an error of ours.
        ConversionCancelled
            `cancelled` was set first.
        """
        try:
            answer = self._children.call((job, limits), limits.deadline_seconds, cancelled)
        except ChildCancelled:
            raise ConversionCancelled from None
        except ChildLate:
            late = f"no result within {limits.deadline_seconds:g} s ([convert] deadline_seconds)"
            raise ConverterDied(late) from None
        except ChildDied as died:
            raise ConverterDied(_cause(died, limits)) from died
        if isinstance(answer, str):
            raise ConverterDied(answer)
        return answer  # type: ignore[no-any-return]  # a pipe cannot know what it carries

    def close(self) -> None:
        """Kill all children, whatever they do."""
        self._children.close()


def serve(pipe: Connection, niceness: int) -> None:
    """Convert job after job until the pipe closes; answers with `Converted`, or with a sentence on what failed."""
    os.nice(niceness)
    convert = _loaded()
    for job, limits in requests(pipe):
        memory_bytes = limit_memory(limits.memory_bytes)
        limit_processor_time(limits.cpu_seconds)
        try:
            answer: Converted | str = convert(job)
        except MemoryError:
            whose = "[convert] memory_bytes" if memory_bytes == limits.memory_bytes else "ulimit -v"
            answer = f"conversion needs more than {memory_bytes} bytes ({whose})"
        except OSError as error:
            answer = f"disk: {error.strerror}"
        except Exception as error:  # the boundary of the process: the node records the cause
            answer = type_and_location(error)
        pipe.send(answer)


def _loaded() -> Callable[[ConversionJob], Converted]:
    """Load `convert` and all that it needs; the modules stay, so the garbage collector need not search them."""
    gc.disable()
    from node.conversion.pipeline import convert

    gc.freeze()
    gc.enable()
    return convert


def _cause(died: ChildDied, limits: ConversionLimits) -> str:
    if died.signal_name == "SIGXCPU":
        return f"conversion used more than {limits.cpu_seconds} s of processor time ([convert] deadline_seconds)"
    if died.signal_name is not None:
        return f"conversion was ended by {died.signal_name}"
    return f"conversion process ended with status {died.exitcode}"
