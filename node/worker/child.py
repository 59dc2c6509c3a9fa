"""The child process that converts: pixels and headers of strangers are decoded here, within limits.

`serve` runs in the child, `Converter` is the node's handle on it.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection

from node.children import Child, ChildCancelled, ChildDied, ChildLate, limit_processor_time, place_of, questions, settle
from node.convert import ConversionJob, Converted, convert
from node.errors import VoxelnodeError

SERIES_PER_CHILD = 200
"""After so many series a child is replaced: codecs leak."""

NICENESS = 5
"""Conversion gives way to receiving."""


class ConverterDied(VoxelnodeError):
    """The child process ended, or was ended, without an answer."""


class ConversionCancelled(VoxelnodeError):
    """The node stops; the conversion was ended and may begin again."""


class Converter:
    """Converts in a child process; used by one thread.

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
        self._cpu_seconds, self._deadline_seconds = cpu_seconds, deadline_seconds
        self._child = Child(serve, memory_bytes, cpu_seconds, name="voxelnode-converter", answers=SERIES_PER_CHILD)

    def run(self, job: ConversionJob, cancelled: threading.Event) -> Converted:
        """Convert one series in the child.

        Raises
        ------
        ConverterDied
            The message says how: a signal, a limit, an error of ours.
        ConversionCancelled
            `cancelled` was set first.
        """
        try:
            answer = self._child.ask(job, self._deadline_seconds, cancelled)
        except ChildCancelled:
            raise ConversionCancelled from None
        except ChildLate:
            raise ConverterDied(f"no result within {self._deadline_seconds:g} s ([convert] deadline_seconds)") from None
        except ChildDied as died:
            raise ConverterDied(_how_it_ended(died.exitcode, self._cpu_seconds)) from died
        if isinstance(answer, str):
            raise ConverterDied(answer)
        return answer  # type: ignore[no-any-return]  # a pipe cannot know what it carries

    def close(self) -> None:
        """End the child, whatever it does."""
        self._child.close()


def serve(pipe: Connection, memory_bytes: int, cpu_seconds: int) -> None:
    """Convert job after job until the pipe closes; answers with `Converted`, or with a sentence on what failed."""
    os.nice(NICENESS)
    settle(memory_bytes)
    for job in questions(pipe):
        limit_processor_time(cpu_seconds)
        try:
            answer: Converted | str = convert(job)
        except MemoryError:
            answer = f"conversion needs more than {memory_bytes} bytes ([convert] memory_bytes)"
        except OSError as error:
            answer = f"disk: {error.strerror}"
        except Exception as error:  # the boundary of the process: the node records what it was
            answer = place_of(error)
        pipe.send(answer)


def _how_it_ended(exitcode: int | None, cpu_seconds: int) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        if name == "SIGXCPU":
            return f"conversion used more than {cpu_seconds} s of processor time ([convert] cpu_seconds)"
        return f"conversion was ended by {name}"
    return f"conversion process ended with status {exitcode}"
