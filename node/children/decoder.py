"""Child processes that decode for pictures, frames and transfers, so that a crash or hang of a codec spares the node.

Each process of a node has one `Decoder`: that which receives, and that which serves HTTP. The children run functions of
`node.children.decoding`. Importing this module loads no codecs.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from math import inf
from pathlib import Path
from sys import modules
from time import monotonic
from typing import ParamSpec, Self

from node.children.child import ChildDied, ChildPool
from node.children.decoding import CANNOT_BE_COMPARED, LIBRARIES, NoSuchValue, differences_between
from node.children.forwarding import CopyChange
from node.children.messages import ChildCancelled, ChildLate
from node.children.serving import Apart, ChildLimits, ChildPipes, load_for_all, serve_apart, use_one_thread
from node.errors import ConversionRefused, OutOfResources, VoxelnodeError, is_of_system, is_out_of_memory
from node.runtime.budget import Turns, current_caller, remember
from node.volume.read.transfer_syntaxes import NotTranscodable

MAX_JOBS_PER_PROCESS = 2000
"""Most frames of one file or series that a process decodes: codecs leak memory."""

MAX_REASON_CHARACTERS = 500

STOPPING = "the node is stopping, or the client closed the connection"
NO_MEMORY = "decoding needs more memory than a decoder may use"

SLOW_SECONDS = 1.0
"""A refusal that took longer is remembered."""

REMEMBERED_SECONDS = 3600.0
"""How long a refusal is remembered; a slow machine may have been the cause."""

MAX_REMEMBERED = 1000

Arguments = ParamSpec("Arguments")
RESULT, REASON, ERROR = b"r", b"n", b"e"
"""First byte of an answer; behind it the result, the reason why there is none, or the number of an `OSError`."""


class NotDecoded(VoxelnodeError):
    """The pixels cannot be decoded or converted; the message gives the reason, without patient data."""


class NotDecodedNow(NotDecoded):
    """The decoder was killed from outside, or the node stops: the data may be right, and another try may succeed."""


class DecoderBusy(OutOfResources):
    """Too many jobs wait for a decoder, or this one took too long; try again later."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a job is about: a function, a file by its place on the disk, and what it is asked for of that file.

    `changes` are those that a copy is to have: what is wrong with one says nothing about another.
    """

    function: str
    file: tuple[int, int, int, int]
    asked: tuple[object, ...] = ()
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, function: Callable[..., object], arguments: tuple[object, ...]) -> Self | None:
        """Return the subject of a job whose first argument is a file, else None."""
        if not arguments or not isinstance(arguments[0], Path):
            return None
        try:
            status = arguments[0].stat()
        except OSError:  # the job tells
            return None
        # How a frame is to be shown does not matter: decoding comes before.
        asked = tuple(getattr(argument, "frame_number", argument) for argument in arguments[1:])
        asked = tuple(what for what in asked if isinstance(what, int | str))
        changes = tuple(repr(argument) for argument in arguments if isinstance(argument, CopyChange))
        return cls(
            function.__name__, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns), asked, changes
        )

    @property
    def whole_file(self) -> Self:
        """The same for all frames."""
        return replace(self, asked=())


class Decoder:
    """Runs functions, such as those of `node.children.decoding`, in child processes. Thread-safe.

    The first job starts the children; `close` ends them. A file on which a function crashed or exceeded its budget is
    refused for an hour without another try, and so is a frame whose refusal took long.

    `workers`: number of jobs at once.
    `memory_bytes`: address space of a child beyond that of its loaded program.
    `cpu_seconds`: processor time of one job.
    `frame_cpu_seconds`: processor time of a job whose result is short enough for a pipe: a frame, a picture, a header.
    `deadline_seconds`: wall time of one job, and the longest wait for its turn.
    `max_waiting`: number of jobs that may wait. Another one is refused at once, so that waiting jobs never occupy all
        threads of a server.
    `max_answer_bytes`: longest result; a function that may exceed it writes a file instead.
    """

    def __init__(
        self,
        workers: int = 4,
        memory_bytes: int = 4_000_000_000,
        cpu_seconds: int = 60,
        frame_cpu_seconds: int = 20,
        deadline_seconds: float = 120.0,
        max_waiting: int = 20,
        max_answer_bytes: int = 64_000_000,
    ) -> None:
        self._limits = ChildLimits(memory_bytes, cpu_seconds, deadline_seconds)
        self._frame_cpu_seconds = min(cpu_seconds, frame_cpu_seconds)
        self._refusals = _Refusals()
        self._turns = Turns(workers, max_waiting, DecoderBusy)
        self._children = ChildPool(
            serve, max_answer_bytes, name="voxelnode-decoder", max_answer_bytes=1 + max_answer_bytes
        )

    def run(
        self, function: Callable[Arguments, bytes], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> bytes:
        """Run one job in a child, in a process for its file, and return its result.

        The job reads the files that are among its arguments, and writes the existing file that its keyword `into`
        names.

        Raises NotDecoded: the data cannot be decoded, the child crashed on them, or they need more than a job may use.
        Raises DecoderBusy: too many jobs are waiting, or this one took longer than `deadline_seconds`.
        Raises OSError: the file cannot be read.
        """
        return self._run(b"", partial(function, *arguments, **keywords))

    def run_beside(
        self,
        beside: bytes,
        function: Callable[Arguments, bytes],
        *arguments: Arguments.args,
        **keywords: Arguments.kwargs,
    ) -> bytes:
        """Run one job as `run` does; the process that serves it serves others of the same series.

        To start one takes five times as long as a picture.

        `beside`: the files of the series (`node.children.serving.packed`), that of the job among them; or nothing.
        """
        return self._run(beside, partial(function, *arguments, **keywords))

    def _run(self, beside: bytes, job: partial[bytes]) -> bytes:
        function, arguments, keywords = job.func, job.args, job.keywords
        into = keywords.get("into")
        reads = tuple(argument for argument in arguments if isinstance(argument, Path))
        limits = self._limits if into else replace(self._limits, cpu_seconds=self._frame_cpu_seconds)
        subject = _Subject.of(function, arguments)
        self._refusals.check(subject)
        with self._turns.turn(current_caller(), self._limits.deadline_seconds):
            self._refusals.check(subject)  # many may have asked for the same
            began = monotonic()
            writes = (into,) if isinstance(into, Path) else ()
            answer = self._call(Apart(job, limits, reads, writes, beside=beside), subject)
        kind, content = answer[:1], answer[1:]
        if kind == RESULT:
            return content
        if kind == ERROR and content.isdigit():
            number = int(content[:4])
            raise OSError(number, os.strerror(number))
        refusal = content.decode("utf-8", "replace")[:MAX_REASON_CHARACTERS]
        if monotonic() > began + SLOW_SECONDS:
            self._refusals.remember(subject, refusal)
        raise NotDecoded(refusal)

    def differences(self, mine: Path, theirs: Path) -> str:
        """Return in words how the pixels and elements of two files differ, or why that cannot be said."""
        try:
            return self.run(differences_between, mine, theirs).decode()
        except (NotDecoded, OutOfResources) as error:
            return f"{CANNOT_BE_COMPARED}: {error or 'too much else is being decoded'}"
        except OSError as error:
            return f"{CANNOT_BE_COMPARED}: {error.strerror}"

    def close(self) -> None:
        """Kill the children at once; jobs under way and later ones fail."""
        self._children.close()

    def _call(self, apart: Apart, subject: _Subject | None) -> bytes:
        try:
            return self._children.call(apart, apart.limits.deadline_seconds, current_caller().gone)
        except ChildCancelled:
            raise NotDecodedNow(STOPPING) from None
        except ChildLate:
            raise DecoderBusy from None
        except ChildDied as died:
            refusal = NO_MEMORY if died.out_of_memory else "the decoder crashed"
            if died.signal_name == "SIGXCPU":
                refusal = f"it took more than {apart.limits.cpu_seconds} s of processor time"
            if died.signal_name == "SIGKILL":  # by the kernel, which may have chosen any process
                raise NotDecodedNow(refusal) from died
            self._refusals.remember(subject and subject.whole_file, refusal)
            raise NotDecoded(refusal) from died


class _Refusals:
    """The refusals of the last hour that were costly. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[_Subject, tuple[float, str]] = {}

    def check(self, subject: _Subject | None) -> None:
        """Raise `NotDecoded` if a subject, or its whole file, was refused."""
        if subject is None:
            return
        with self._lock:
            for known in (subject, subject.whole_file):
                moment, refusal = self._known.get(known, (-inf, ""))
                if monotonic() < moment + REMEMBERED_SECONDS:
                    raise NotDecoded(refusal)

    def remember(self, subject: _Subject | None, refusal: str) -> None:
        """Refuse this subject for the next hour."""
        if subject is None:
            return
        with self._lock:
            remember(self._known, subject, (monotonic(), refusal), MAX_REMEMBERED)


def serve(channel: ChildPipes, max_answer_bytes: int) -> None:
    """Run jobs until the channel closes, those of each file, or of a series, in a process of its own."""
    use_one_thread()
    from node.volume.read.decoders import load_codecs

    load_codecs()
    load_for_all(LIBRARIES)
    serve_apart(channel, partial(_answer, max_answer_bytes), MAX_JOBS_PER_PROCESS, _load_for)


def _load_for(job: partial[bytes]) -> None:
    for name in getattr(modules[job.func.__module__], "LIBRARIES", ()):
        import_module(name)
    for argument in job.args:
        if isinstance(argument, CopyChange):
            argument.load()


def _answer(max_bytes: int, job: Callable[[], bytes], _limits: ChildLimits) -> bytes:
    """Run a job; return its result, the reason why there is none, or the error if the file cannot be read."""
    try:
        result = job()
    except ConversionRefused as error:
        reason = error.detail
    except (NotTranscodable, NoSuchValue) as error:
        reason = str(error)
    except Exception as error:  # the boundary of the process
        if is_of_system(error) and not is_out_of_memory(error):
            return ERROR + b"%d" % (error.errno or 0)
        reason = NO_MEMORY if is_out_of_memory(error) else f"{type(error).__name__} while decoding"
    else:
        if len(result) <= max_bytes:
            return RESULT + result
        reason = f"the result has {len(result)} bytes; at most {max_bytes} can be returned"
    return REASON + reason[:MAX_REASON_CHARACTERS].encode("utf-8", "replace")
