"""The converting children: what one loads, does and answers, what the node believes of it, and the pool of them.

Untrusted headers and pixels are decoded there, within limits. Whoever made the data may have taken over the child. Its
answer is therefore checked against the job and the folder: it can describe wrong voxels, but no file elsewhere, and no
instance of another series.
"""

import gc
import json
import math
import os
import re
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path

from node.archive.space import reason_of
from node.children.child import ChildDied, ChildPool, processors
from node.children.messages import ChildLate, WrongType, of_type
from node.children.serving import Apart, Assistance, ChildLimits, ChildPipes, isolated, serve_apart, use_one_thread
from node.conversion.job import ConversionJob, Converted
from node.dicom.attributes import is_identifier
from node.dicom.lean_import import load_for_volumes
from node.errors import VoxelnodeError, is_of_system, is_out_of_memory, type_and_location
from node.files.durable import IS_LINUX, NO_ROOM
from node.hookspecs import ObjectKind
from node.index.rows.converted import ConvertedFile
from node.registry import resolve
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
        shared = processors() // (self._children.busy + 1)
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


CONVERTED, SHORTAGE, FAILURE = b"c", b"s", b"f"
"""First byte of an answer; behind it a `Converted`, the errno of a shortage, which does not blame the series, or the
cause of a failure."""


def serve(
    channel: ChildPipes, niceness: int, objects: tuple[ObjectKind, ...] = (), options: WriteOptions | None = None
) -> None:
    """Convert until the channel closes, each series in a process of its own."""
    os.nice(niceness)
    use_one_thread()
    if IS_LINUX:
        isolated()
    work = partial(_answer, _loaded())
    if options is not None:
        _load_writers(options, objects)
    from node.volume.read.decoders import answer_request, use_assistants

    assistance = Assistance(answer_request, lambda assistants: use_assistants(assistants.ask))
    serve_apart(channel, work, load=_load_for, assistance=assistance)


def _answer(convert: Callable[[ConversionJob], Converted], job: ConversionJob, limits: ChildLimits) -> bytes:
    if not job.has_room:  # the kernel refuses every byte, whoever writes it; this process has no other job
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        return CONVERTED + write_answer(convert(job))
    except Exception as error:  # the boundary of the process: the node records the cause
        return _failure(error, limits)


def _failure(error: Exception, limits: ChildLimits) -> bytes:
    if is_out_of_memory(error):
        return FAILURE + memory_exceeded(limits).encode()
    if is_of_system(error):
        if error.errno in NO_ROOM:
            return SHORTAGE + error.errno.to_bytes(2)  # the node knows the remedies, and may ask how full the disk is
        return FAILURE + f"disk: {error.strerror}".encode()
    return FAILURE + type_and_location(error).encode()


def memory_exceeded(limits: ChildLimits) -> str:
    """Return in a sentence that a conversion has used up its memory."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
    if allowed != resource.RLIM_INFINITY and allowed <= limits.memory_bytes:
        return f"conversion needs more than {allowed} bytes (ulimit -v)"
    return f"conversion needs more than {limits.memory_bytes} bytes ([convert] memory_bytes)"


def _loaded() -> Callable[[ConversionJob], Converted]:
    """Load what every conversion needs, and exempt it from garbage collection: it stays loaded anyway."""
    gc.disable()
    load_for_volumes()
    from node.conversion.pipeline import convert

    gc.freeze()
    gc.enable()
    return convert


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


MAX_INTEGER = (1 << 63) - 1
"""Largest integer of SQLite."""

_WORD = re.compile(r"[A-Za-z0-9_.-]{0,100}")
_PLAIN = re.compile(r"[ -~]{0,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NoAnswer(VoxelnodeError):
    """The answer of a converting child cannot be believed."""


def write_answer(converted: Converted) -> bytes:
    """Return a result as JSON."""
    return json.dumps(asdict(converted), separators=(",", ":")).encode()


def read_answer(content: bytes, job: ConversionJob) -> Converted:
    """Return the result that a child gave for a job.

    Raises NoAnswer if it is not of the right form, names files or instances of another job, or the folder holds other
    files.
    """
    try:
        converted: Converted = of_type(Converted, json.loads(content, parse_int=_integer))
    except WrongType as error:
        raise NoAnswer(str(error)) from None
    except (ValueError, RecursionError):
        raise NoAnswer("it is not JSON") from None
    files = job.files
    if strangers := set(_uids(converted)) - set(files.values()):
        raise NoAnswer(f"it names {len(strangers)} instances that are not of the series")
    if any(one.file is not None and files.get(Path(one.file)) != one.sop_instance_uid for one in converted.exclusions):
        raise NoAnswer("it excludes a file that is not of its instance")
    if not all(is_identifier(uid) and (not study or is_identifier(study)) for study, uid in converted.references):
        raise NoAnswer("it refers to a series by a value that is not a UID")
    _check_files(converted, job.folder)
    return converted


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError
    return number


def _uids(converted: Converted) -> Iterator[str]:
    yield from (uid for _, uid, _ in converted.sources)
    yield from (exclusion.sop_instance_uid for exclusion in converted.exclusions)
    yield from (uid for refusal in converted.refusals for uid in refusal.sop_instance_uids)
    yield from (uid for uid, _ in converted.damaged)


def _check_files(converted: Converted, folder: Path) -> None:
    """Raise `NoAnswer` unless all that is in the folder are regular files, among them those of the answer, in full."""
    lengths = {}
    for path in folder.iterdir():
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise NoAnswer("its folder holds something that is not a file of its own")
        lengths[path.name] = status.st_size
    for file in converted.files:
        if file.path not in lengths:
            raise NoAnswer("it names a file that is not in its folder")
        words = file.suffix, file.kind, file.format, file.dtype, file.geometry, file.orientation or ""
        if not all(map(_WORD.fullmatch, words)) or not _SHA256.fullmatch(file.sha256):
            raise NoAnswer("a file has a kind, format or digest that is not valid")
        _check_scan(file)


def _check_scan(file: ConvertedFile) -> None:
    """Raise `NoAnswer` unless what describes the scan of a file are finite numbers and short plain texts."""
    texts = file.sequence, file.weighting, file.contrast_agent, file.convolution_kernel
    if not all(_PLAIN.fullmatch(text or "") for text in texts):
        raise NoAnswer("a file has a description of its scan that is not valid")
    affine = file.affine_lps or ()
    if affine and (len(affine) != 4 or any(len(row) != 4 for row in affine)):
        raise NoAnswer("a file has an affine that is not valid")
    numbers = (
        file.slice_thickness_mm, file.repetition_time_ms, file.echo_time_ms, file.inversion_time_ms,
        file.flip_angle_degrees, file.magnetic_field_strength_t, *chain.from_iterable(affine),
    )  # fmt: skip
    if not all(math.isfinite(number or 0) for number in numbers):
        raise NoAnswer("a file has a number that is not valid")
