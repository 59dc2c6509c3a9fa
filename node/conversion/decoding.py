"""Decode pixels of strangers on request, in child processes: a codec that crashes or never ends takes no node along.

So are headers read that are too long for our own memory. Functions of this module that take a path `into` write a file,
and return nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from pydicom import Dataset

from node.child_process import limit_processor_time, settle
from node.dicom.metadata import NoSuchValue, document, long_value
from node.dicom.pixel_element import FrameNotFound, PixelElement, header_and_pixels, single_frame
from node.dicom.reading import read_instance
from node.errors import ConversionRefused, OutOfResources, VoxelnodeError
from node.volume.read.pixels import frame_reader
from node.volume.read.single_frame import Window, decompressed_frame, rendered_frame
from node.volume.read.transcoding import NotTranscodable, transcoded
from node.volume.rendering import Picture
from node.writers.pictures import resized

JOBS_PER_CHILD = 2000
"""After so many jobs a child is replaced: codecs leak."""

STOPPING = "the node is stopping"

PictureFormat = Literal["JPEG", "PNG"]

Crop = tuple[int, int, int, int]
"""Left, top, width and height of a part of a frame, pixels from 0."""

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a child gives no answer."""

    reason: str


class NotDecoded(VoxelnodeError):
    """The pixels cannot be had in another form; the message says why, without patient data."""


class DecoderBusy(OutOfResources):
    """Too much is to be decoded at once, or it takes too long: ask again in a while."""


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """How a frame is shown.

    Attributes
    ----------
    frame_number : int
        From 1.
    size : (int, int) or None
        Width and height into which the picture fits; None: as many pixels as the frame has, made square.
    quality : int
        Of JPEG, 1 to 100.
    """

    frame_number: int
    format: PictureFormat = "JPEG"
    window: Window | None = None
    crop: Crop | None = None
    size: tuple[int, int] | None = None
    quality: int = 90


def frame(path: Path, frame_number: int) -> bytes:
    """Samples of one compressed frame, from 1, see `node.volume.read.single_frame.decompressed_frame`."""
    header, element = _opened(path)
    if element is None:
        raise FrameNotFound("the data set has no pixel data")
    return decompressed_frame(single_frame(header, element, frame_number))


@lru_cache(maxsize=1)
def _opened(path: Path) -> tuple[Dataset, PixelElement | None]:
    """The header of the last file that was asked for: its other frames are asked for next, and headers are long."""
    return header_and_pixels(path)


def picture(path: Path, order: PictureOrder) -> bytes:
    """A PNG or JPEG of one frame."""
    shown = _shown(path, order)
    image = resized(shown, max(shown.pixels.shape))
    if order.size is not None:
        factor = min(order.size[0] / image.width, order.size[1] / image.height)
        image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    stream = BytesIO()
    image.save(stream, order.format, **({"quality": order.quality} if order.format == "JPEG" else {}))
    return stream.getvalue()


def frame_file(path: Path, frame_number: int, into: Path) -> bytes:
    """Write what `frame` gives."""
    into.write_bytes(frame(path, frame_number))
    return b""


def stored_frame_file(path: Path, frame_number: int, into: Path) -> bytes:
    """Write one compressed frame, from 1, as it is stored."""
    element = _opened(path)[1]
    if element is None:
        raise FrameNotFound("the data set has no pixel data")
    into.write_bytes(element.encapsulated_frame(frame_number))
    return b""


def value_file(path: Path, place: str, into: Path) -> bytes:
    """Write one long value, see `node.dicom.metadata.long_value`."""
    into.write_bytes(long_value(path, place))
    return b""


def document_file(path: Path, into: Path) -> bytes:
    """Write the document that is encapsulated in an instance."""
    into.write_bytes(document(path))
    return b""


def transcode(path: Path, transfer_syntax_uid: str, into: Path) -> bytes:
    """Write the data set of a file in another transfer syntax to the file `into`; returns nothing."""
    into.write_bytes(transcoded(path, transfer_syntax_uid))
    return b""


def _shown(path: Path, order: PictureOrder) -> Picture:
    header, element = _opened(path)
    if element is not None and element.encapsulated:  # the other frames stay in the file
        ds, index = single_frame(header, element, order.frame_number), 0
    else:
        ds, index = read_instance(path), order.frame_number - 1
    reader = frame_reader(ds)
    if index >= reader.frames:
        raise FrameNotFound(f"there is no frame {order.frame_number} of {reader.frames}")
    shown = rendered_frame(header, order.frame_number, reader, index, order.window)
    if order.crop is None:
        return shown
    left, top, width, height = order.crop
    return Picture(shown.pixels[top : top + height, left : left + width], shown.pixel_size)


class Decoder:
    """Runs the functions of this module in child processes; safe to use from many threads.

    Children start with the first job; `close` ends them.

    Parameters
    ----------
    workers : int
        Jobs at once.
    memory_bytes : int
        Address space of a child.
    cpu_seconds : int
        Processor time of one job.
    deadline_seconds : float
        Time of one job on the clock; also the longest wait for its turn.
    most_waiting : int
        Jobs that wait for their turn; who asks for another one is refused at once, so that those who wait never hold
        all threads of a server.
    answer_bytes : int
        Longest answer; what may be longer is written to a file.
    """

    def __init__(
        self,
        workers: int = 2,
        memory_bytes: int = 4_000_000_000,
        cpu_seconds: int = 60,
        deadline_seconds: float = 120.0,
        most_waiting: int = 20,
        answer_bytes: int = 64_000_000,
    ) -> None:
        self._workers, self._memory_bytes, self._cpu_seconds = workers, memory_bytes, cpu_seconds
        self._deadline_seconds, self._answer_bytes = deadline_seconds, answer_bytes
        self._turns, self._places = threading.Semaphore(workers), threading.Semaphore(workers + most_waiting)
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._pools: set[ProcessPoolExecutor] = set()
        self._closed = False

    def run(
        self, function: Callable[Arguments, Answer], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Answer:
        """Run one job in a child and return what it gives.

        Raises
        ------
        NotDecoded
            The data forbid it, or the child died of it.
        DecoderBusy
            There are too many jobs, or this one took longer than `deadline_seconds`.
        OSError
            The file cannot be read.
        """
        job: Callable[[], Answer | _Refusal] = partial(
            _limited, self._cpu_seconds, self._answer_bytes, function, arguments, keywords
        )
        with self._turn():
            answer = self._answer(job)
        if isinstance(answer, _Refusal):
            raise NotDecoded(answer.reason)
        return answer

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise DecoderBusy
        try:
            if not self._turns.acquire(timeout=self._deadline_seconds):
                raise DecoderBusy
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._places.release()

    def _answer(self, job: Callable[[], Answer]) -> Answer:
        pool = self._running()
        try:
            return self._in_time(pool, pool.submit(job))
        except CancelledError:
            raise NotDecoded(STOPPING) from None
        except RuntimeError:  # the pool is broken, by this job or another one that took it along: now by itself
            self._discard(pool)
            return self._alone(job)

    def _alone(self, job: Callable[[], Answer]) -> Answer:
        with self._lock:
            pool = self._new_pool(1)
        try:
            return self._in_time(pool, pool.submit(job))
        except RuntimeError as error:
            raise NotDecoded(STOPPING if self._closed else "the decoder crashed, or used up its time") from error
        finally:
            self._discard(pool)

    def _in_time(self, pool: ProcessPoolExecutor, future: Future[Answer]) -> Answer:
        """What a job gives; the children of a pool in which one takes too long are ended."""
        try:
            return future.result(self._deadline_seconds)
        except TimeoutError as error:
            if future.done():  # the job's own, of a disk that does not answer
                raise
            self._end(pool)
            raise DecoderBusy from error

    def close(self) -> None:
        """End the children, whatever they do; nothing is decoded any more."""
        with self._lock:
            self._closed = True
            pools = list(self._pools)
        for pool in pools:
            self._end(pool)

    def _end(self, pool: ProcessPoolExecutor) -> None:
        children = pool._processes or {}  # no public way ends them before Python 3.14
        self._discard(pool)  # from now on there is no further one, as a job that is handed in meanwhile might bring
        for child in list(children.values()):
            child.kill()

    def _running(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = self._new_pool(self._workers)
            return self._pool

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        """Children; for whoever holds the lock."""
        if self._closed:
            raise NotDecoded(STOPPING)
        pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            initializer=settle,
            initargs=(self._memory_bytes,),
            max_tasks_per_child=JOBS_PER_CHILD,
        )
        self._pools.add(pool)
        return pool

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            self._pools.discard(pool)
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False, cancel_futures=True)


def _limited(
    cpu_seconds: int,
    answer_bytes: int,
    function: Callable[..., Answer],
    arguments: tuple[object, ...],
    keywords: dict[str, object],
) -> Answer | _Refusal:
    """Run a job within its processor time; refusals come back as words, since exceptions need not be picklable."""
    limit_processor_time(cpu_seconds)
    try:
        answer = function(*arguments, **keywords)
        if isinstance(answer, bytes) and len(answer) > answer_bytes:
            return _Refusal(f"it has {len(answer)} bytes, and at most {answer_bytes} are given")
        return answer
    except ConversionRefused as error:
        return _Refusal(error.detail)
    except (FrameNotFound, NotTranscodable, NoSuchValue) as error:
        return _Refusal(str(error))
    except MemoryError:
        return _Refusal("it needs more memory than a decoder may use")
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0)) from None
    except Exception as error:  # the boundary of the process
        return _Refusal(f"{type(error).__name__} while it was decoded")
