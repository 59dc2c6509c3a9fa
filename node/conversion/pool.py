"""Child processes that convert: untrusted headers and pixels are decoded there, within limits.

`serve` runs in a child; `Converters` is the node's side. Importing this module loads neither NumPy nor codecs.
"""

from __future__ import annotations

import gc
import os
import resource
import threading
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from node.child_process import (
    ChildDied,
    ChildLate,
    ChildLimits,
    ChildPool,
    limited_requests,
    type_and_location,
    use_one_thread,
)
from node.durable import NO_ROOM
from node.errors import VoxelnodeError, is_out_of_memory

if TYPE_CHECKING:
    from node.conversion.job import ConversionJob, Converted

MAX_SERIES_PER_CHILD = 200
"""A child is replaced after this many series, because codecs leak memory."""


class ConverterDied(VoxelnodeError):
    """The child process exited or was killed without an answer."""


class ShortOfResources(VoxelnodeError):
    """The machine lacked something for a conversion, such as space on the disk; the message says what."""


class _Shortage(str):
    """The cause of a failure that is not the fault of the series."""


class Converters:
    """A pool of child processes that grows to the number of concurrent conversions. Thread-safe.

    Parameters
    ----------
    niceness : int
        Niceness of the children.
    """

    def __init__(self, niceness: int = 0) -> None:
        self._children = ChildPool(serve, niceness, name="voxelnode-converter", max_answers=MAX_SERIES_PER_CHILD)

    def start(self) -> None:
        """Start a child in advance, so that it loads its modules before the first job."""
        self._children.start()

    def run(self, job: ConversionJob, limits: ChildLimits, cancelled: threading.Event) -> Converted:
        """Convert one series in a child.

        Raises
        ------
        ConverterDied
            The message gives the cause: a signal, a limit, an error of ours.
        ShortOfResources
        ChildCancelled
            `cancelled` was set first, or the converters are closed; the conversion may begin again.
        """
        try:
            answer = self._children.call((job, limits), limits.deadline_seconds, cancelled)
        except ChildLate:
            late = f"no result within {limits.deadline_seconds:g} s ([convert] deadline_seconds)"
            raise ConverterDied(late) from None
        except ChildDied as died:
            raise ConverterDied(_cause(died, limits)) from died
        if isinstance(answer, _Shortage):
            raise ShortOfResources(answer)
        if isinstance(answer, str):
            raise ConverterDied(answer)
        return answer  # type: ignore[no-any-return]  # a pipe cannot know what it carries

    def close(self) -> None:
        """Kill all children at once."""
        self._children.close()


def serve(pipe: Connection, niceness: int) -> None:
    """Run jobs until the pipe closes; answer each with `Converted` or the cause of its failure."""
    os.nice(niceness)
    use_one_thread()
    convert = _loaded()
    for job, limits in limited_requests(pipe):
        try:
            answer: Converted | str = convert(job)
        except Exception as error:  # the boundary of the process: the node records the cause
            answer = _failure(error, limits)
        pipe.send(answer)


def _failure(error: Exception, limits: ChildLimits) -> str:
    if is_out_of_memory(error):
        return _memory_exceeded(limits)
    if isinstance(error, OSError):
        cause = f"disk: {error.strerror}"
        return _Shortage(cause) if error.errno in NO_ROOM else cause
    return type_and_location(error)


def _memory_exceeded(limits: ChildLimits) -> str:
    allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
    if allowed != resource.RLIM_INFINITY and allowed <= limits.memory_bytes:
        return f"conversion needs more than {allowed} bytes (ulimit -v)"
    return f"conversion needs more than {limits.memory_bytes} bytes ([convert] memory_bytes)"


def _loaded() -> Callable[[ConversionJob], Converted]:
    """Load `convert` and its libraries, and exempt them from garbage collection: they stay loaded anyway."""
    gc.disable()
    from node.conversion.pipeline import convert

    import_module("node.writers.bodymask")  # SimpleITK would use 300 MB of the first conversion's limit

    gc.freeze()
    gc.enable()
    return convert


def _cause(died: ChildDied, limits: ChildLimits) -> str:
    if died.signal_name == "SIGXCPU":
        return f"conversion used more than {limits.cpu_seconds} s of processor time ([convert] deadline_seconds)"
    if died.out_of_memory:
        return _memory_exceeded(limits)
    if died.signal_name == "SIGKILL":
        return "conversion was killed by SIGKILL; most likely the machine or its container ran out of memory"
    if died.signal_name is not None:
        return f"conversion was killed by {died.signal_name}"
    return f"conversion process exited with status {died.exitcode}"
