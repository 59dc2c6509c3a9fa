"""Child processes that convert: untrusted headers and pixels are decoded there, within limits.

`serve` runs in a child; `Converters` is the node's side. ``voxelnode convert`` imports this module before it starts a
child, on which everything waits: modules for answers and jobs are imported with these.
"""

from __future__ import annotations

import gc
import os
import resource
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from node.archive.space import reason_of
from node.children.child import ChildDied, ChildPool
from node.children.messages import ChildLate
from node.children.serving import Apart, Assistance, ChildLimits, ChildPipes, serve_apart, use_one_thread
from node.dicom.lean_import import load_pydicom
from node.errors import VoxelnodeError, is_of_system, is_out_of_memory, type_and_location
from node.files.durable import NO_ROOM

if TYPE_CHECKING:
    from node.conversion.job import ConversionJob, Converted
    from node.hookspecs import ObjectKind
    from node.writers.options import WriteOptions

MAX_ANSWER_BYTES = 64 << 20
MAX_CAUSE_CHARACTERS = 500

MAX_ASSISTANTS = 4
"""As many as there are threads that read frames; see `node.volume.intensities`."""

CONVERTED, SHORTAGE, FAILURE = b"c", b"s", b"f"
"""First byte of an answer; behind it a `Converted`, the errno of a shortage, which does not blame the series, or the
cause of a failure."""


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
            return _checked(content, job)
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


def _checked(content: bytes, job: ConversionJob) -> Converted:
    from node.conversion.answers import NoAnswer, read_answer

    try:
        return read_answer(content, job)
    except NoAnswer as error:
        raise ConverterDied(f"the converter gave an invalid answer: {error}") from error


def serve(
    channel: ChildPipes, niceness: int, objects: tuple[ObjectKind, ...] = (), options: WriteOptions | None = None
) -> None:
    """Convert until the channel closes, each series in a process of its own."""
    os.nice(niceness)
    use_one_thread()
    work = partial(_answer, *_loaded())
    if options is not None:
        _load_writers(options, objects)
    from node.volume.read.decoders import answer_request, use_assistants

    assistance = Assistance(answer_request, lambda assistants: use_assistants(assistants.ask))
    serve_apart(channel, work, load=_load_for, assistance=assistance)


def _answer(
    convert: Callable[[ConversionJob], Converted],
    encoded: Callable[[Converted], bytes],
    job: ConversionJob,
    limits: ChildLimits,
) -> bytes:
    try:
        return CONVERTED + encoded(convert(job))
    except Exception as error:  # the boundary of the process: the node records the cause
        return _failure(error, limits)


def _failure(error: Exception, limits: ChildLimits) -> bytes:
    if is_out_of_memory(error):
        return FAILURE + _memory_exceeded(limits).encode()
    if is_of_system(error):
        if error.errno in NO_ROOM:
            return SHORTAGE + error.errno.to_bytes(2)  # the node knows the remedies, and may ask how full the disk is
        return FAILURE + f"disk: {error.strerror}".encode()
    return FAILURE + type_and_location(error).encode()


def _memory_exceeded(limits: ChildLimits) -> str:
    allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
    if allowed != resource.RLIM_INFINITY and allowed <= limits.memory_bytes:
        return f"conversion needs more than {allowed} bytes (ulimit -v)"
    return f"conversion needs more than {limits.memory_bytes} bytes ([convert] memory_bytes)"


def _loaded() -> tuple[Callable[[ConversionJob], Converted], Callable[[Converted], bytes]]:
    """Load what every conversion needs, and exempt it from garbage collection: it stays loaded anyway."""
    gc.disable()
    load_pydicom()
    from node.conversion.answers import write_answer
    from node.conversion.pipeline import convert

    gc.freeze()
    gc.enable()
    return convert, write_answer


def _load_for(job: ConversionJob) -> None:
    """Load the codecs of a job, and the libraries that its options need.

    SimpleITK would use 300 MB of the conversion's limit, and takes 0.1 s to load.
    """
    if job.has_codestreams:
        from node.volume.read.decoders import load_codec

        for uid in job.transfer_syntax_uids:
            load_codec(uid)
    _load_writers(job.options, job.objects)


def _load_writers(options: WriteOptions, objects: tuple[ObjectKind, ...]) -> None:
    if objects:
        from node.registry import resolve

        for kind in objects:
            resolve(kind.place)
    if options.compress:
        import_module("isal.isal_zlib")
    if {"mhd", "nrrd"} & set(options.formats):
        import_module("node.writers.itk")
    if options.makes_pictures:
        import_module("node.writers.pictures")
    if options.segments_body:
        import_module("node.writers.bodymask")


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
