"""The node's side of the child processes that convert (`node.conversion.converter`)."""

from __future__ import annotations

import os
import threading

from node.archive.space import reason_of
from node.children.child import ChildDied, ChildPool
from node.children.messages import ChildLate
from node.children.serving import Apart, ChildLimits
from node.conversion.converter import CONVERTED, SHORTAGE, NoAnswer, memory_exceeded, read_answer, serve
from node.conversion.job import ConversionJob, Converted
from node.errors import VoxelnodeError
from node.hookspecs import ObjectKind
from node.writers.options import WriteOptions

MAX_ANSWER_BYTES = 64 << 20
MAX_CAUSE_CHARACTERS = 500

MAX_ASSISTANTS = 4
"""As many as there are threads that read frames; see `node.volume.intensities`."""


class ConverterDied(VoxelnodeError):
    """The child process exited or was killed without an answer."""


class ShortOfResources(VoxelnodeError):
    """The machine lacked something for a conversion, such as space on the disk; the message says what."""


class Converters:
    """A pool of child processes that grows to the number of concurrent conversions. Thread-safe.

    `niceness`: niceness of the children.
    `objects`: what jobs have of it (`ConversionJob.objects`), if their instances may be of that kind.
    `options`: those of most jobs: a child loads what they need before its first job, and with the job otherwise.
    """

    def __init__(
        self, niceness: int = 0, objects: tuple[ObjectKind, ...] = (), options: WriteOptions | None = None
    ) -> None:
        self.objects = objects
        self._children = ChildPool(
            serve, niceness, objects, options, name="voxelnode-converter", max_answer_bytes=MAX_ANSWER_BYTES
        )

    def start(self) -> None:
        """Start a child in advance, so that it loads its modules before the first job."""
        self._children.start()

    def run(self, job: ConversionJob, limits: ChildLimits, cancelled: threading.Event) -> Converted:
        """Convert one series in a child.

        Raises ConverterDied: the message gives the cause: a signal, a limit, an error of ours.
        Raises ShortOfResources.
        Raises ChildCancelled: `cancelled` was set first, or the converters are closed; the conversion may begin again.
        """
        job = job.with_objects(self.objects)
        apart = Apart(job, limits, tuple(job.files), (job.folder,), self._assistants() if job.has_codestreams else 0)
        try:
            answer = self._children.call(apart, limits.deadline_seconds, cancelled)
        except ChildLate:
            late = f"no result within {limits.deadline_seconds:g} s ([convert] deadline_seconds)"
            raise ConverterDied(late) from None
        except ChildDied as died:
            raise ConverterDied(_cause(died, limits)) from died
        kind, content = answer[:1], answer[1:]
        if kind == CONVERTED:
            try:
                return read_answer(content, job)
            except NoAnswer as error:
                raise ConverterDied(f"the converter gave an invalid answer: {error}") from error
        if kind == SHORTAGE:
            number = int.from_bytes(content[:2])
            raise ShortOfResources(f"disk: {reason_of(OSError(number, os.strerror(number)), job.folder.parent)}")
        raise ConverterDied(content[:MAX_CAUSE_CHARACTERS].decode("utf-8", "replace"))

    def _assistants(self) -> int:
        """Return how many processes help to decode: as many as there are processors for each conversion under way."""
        shared = len(os.sched_getaffinity(0)) // (self._children.busy + 1)
        return min(shared, MAX_ASSISTANTS) if shared > 1 else 0

    def close(self) -> None:
        """Kill all children at once."""
        self._children.close()


def _cause(died: ChildDied, limits: ChildLimits) -> str:
    if died.signal_name == "SIGXCPU":
        return f"conversion used more than {limits.cpu_seconds} s of processor time ([convert] deadline_seconds)"
    if died.out_of_memory:
        return memory_exceeded(limits)
    if died.signal_name == "SIGKILL":
        return "conversion was killed by SIGKILL; most likely the machine or its container ran out of memory"
    if died.signal_name is not None:
        return f"conversion was killed by {died.signal_name}"
    return f"conversion process exited with status {died.exitcode}"
