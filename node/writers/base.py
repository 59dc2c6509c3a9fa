"""Shared by all writers: file names, new files and their records, real values in slabs.

Nothing is synced here. `node.conversion.volume_files.publish` syncs all files of a series that must survive a power
failure.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from node.volume.model import Array, Volume, VolumeKind

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SLAB_BYTES = 1 << 20
"""Approximate size of the pieces in which voxels are streamed, so that a writer needs no second copy of the volume."""

MAX_THREADS = 4
"""Number of threads that pack pieces, on as many processors."""

COMPRESSION_LEVEL = 1
"""Compression level of isal. On CT, files are within 2 % of the size of level 2, and writing is 10 % faster."""

SCALING_TOLERANCE = 0.01
"""Largest rounding error of a scaled value, in steps of the stored values (a step is the slope)."""


@dataclass(frozen=True, slots=True)
class FileGrid:
    """The numbers in a file, as its readers find them.

    `shape`: (columns, rows, slices), with a fourth number if there are several times; (width, height) of a picture.
        Colour is no axis.
    `spacing_mm`: along the first axes of `shape`; empty for a picture, whose pixels follow no axis of the patient.
    `dtype`: NumPy's name of the type of a stored number.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    dtype: str


def grid_of(volume: Volume, dtype: np.dtype[Any] | None = None) -> FileGrid:
    """Return the grid of a file that holds the voxels of `volume` in their order, as `dtype` if given."""
    spacing_mm = tuple(float(length) for length in volume.spacing_mm)
    return FileGrid(volume.shape, spacing_mm, (dtype or volume.voxels.dtype).name)


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One file, written and closed.

    `kind`: a value of `node.volume.model.VolumeKind`.
    `format`: the configured name of a volume format, or ``"png"``.
    `bytes`, `sha256`: size and digest of the file at `path`, without companions.
    `companions`: other files that belong to this one: ``.json``, ``.bval``, ``.bvec``, the data file of a header.
    """

    kind: str
    format: str
    grid: FileGrid
    path: Path
    bytes: int
    sha256: str
    companions: tuple[Path, ...] = ()


def stem_of(volume: Volume, name: str = "") -> str:
    """Return the name, without extension, for the files of `volume` in the folder of its series.

    Examples: ``volume``, ``volume_e2``, ``volume_e1_ph``, ``volume_resampled``. It combines the name of the series, the
    suffix that distinguishes the volume within it, and its kind. Only `name` may come from the network.
    """
    words = [name or "volume", *(word for word in volume.suffix.split("-") if word)]
    if volume.kind is not VolumeKind.VOLUME:
        words.append(volume.kind.value)
    return "_".join(words)


def slice_timing_of(volume: Volume) -> list[float] | None:
    """Return SliceTiming in the order of the slices; None if it is unknown, or if these are no longer those slices."""
    timing: list[float] = volume.attributes.get("SliceTiming", [])
    return timing if volume.kind is VolumeKind.VOLUME and len(timing) == volume.shape[2] else None


MIN_THREADED_DIGEST_BYTES = 1 << 18
"""Larger pieces are digested by another thread while they and later pieces are written."""

MAX_PIECES_AHEAD = 8
"""Number of pieces (of about `SLAB_BYTES`) that may await their digest."""


class NewFile(RawIOBase):
    """A new file whose bytes are counted and digested while it is written.

    A written piece must not change until the file is closed. `digested`: not of a companion, whose digest nobody asks
    for.

    Raises FileExistsError: `path` exists. No volume is ever overwritten; two volumes with one name are a bug.
    """

    def __init__(self, path: Path, *, digested: bool = True) -> None:
        super().__init__()
        self.path = path
        try:
            self._file = path.open("xb")
        except BaseException:
            super().close()  # otherwise the finalizer calls `close` on a half-initialized object
            raise
        self._digest = hashlib.sha256()
        self._is_digested = digested
        self._digester = ThreadPoolExecutor(1, "digest")
        self._ahead: deque[Future[None]] = deque()
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        if self._is_digested:
            if self._ahead or memoryview(data).nbytes >= MIN_THREADED_DIGEST_BYTES:
                self._ahead.append(self._digester.submit(self._digest.update, data))
            else:
                self._digest.update(data)
        count = self._file.write(data)
        self._bytes += count
        while len(self._ahead) > MAX_PIECES_AHEAD:
            self._ahead.popleft().result()
        return count

    def close(self) -> None:
        self._digester.shutdown()
        self._file.close()
        super().close()

    def written(
        self, kind: VolumeKind, file_format: str, grid: FileGrid, companions: tuple[Path, ...] = ()
    ) -> WrittenFile:
        """Return the record of this file, which must be closed."""
        return WrittenFile(kind.value, file_format, grid, self.path, self._bytes, self._digest.hexdigest(), companions)


def write_file(path: Path, data: bytes) -> NewFile:
    """Write a small file in one piece."""
    with NewFile(path) as file:
        file.write(data)
    return file


@dataclass(frozen=True, slots=True)
class Framing:
    """What is around a deflate stream (RFC 1951): `head` before it, behind it the `tail` of a checksum and a length.

    `checksum`: the name of a function of isal, which takes the checksum of the bytes before; `start`: that of no bytes.
    """

    head: bytes
    checksum: Literal["crc32", "adler32"]
    start: int
    tail: Callable[[int, int], bytes]


GZIP = Framing(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", "crc32", 0, lambda crc, length: struct.pack("<II", crc, length % 2**32))
"""RFC 1952, without name and time; the length is that of the content, modulo 2**32."""

ZLIB = Framing(b"\x78\x01", "adler32", 1, lambda adler, _: struct.pack(">I", adler))
"""RFC 1950."""


def write_packed(
    stream: NewFile, pieces: Iterable[ReadableBuffer], framing: Framing, packed: Path | None = None
) -> None:
    """Write `pieces` compressed; the bytes depend neither on the number of threads nor on the time.

    Once in thousands of files, igzip has packed the same bytes otherwise: who compares files must unpack them. No piece
    may change before the stream is written.

    `packed`: a file that has all pieces but the first, as `ZLIB`: they are copied from there.
    """
    checked = _Checked(pieces, framing)
    stream.write(framing.head)
    if packed is None:
        stream.writelines(_deflated(checked))
    else:
        stream.write(_packed(next(iter(checked))))
        stream.writelines(_unframed(packed))
        deque(checked, maxlen=0)
    stream.write(framing.tail(checked.checksum, checked.length))


class _Checked:
    """Iterate pieces; `checksum` and `length` are those of the pieces so far."""

    def __init__(self, pieces: Iterable[ReadableBuffer], framing: Framing) -> None:
        from isal import isal_zlib  # here, because files without compression do not need it

        self._pieces = iter(pieces)
        self._check = getattr(isal_zlib, framing.checksum)
        self.checksum, self.length = framing.start, 0

    def __iter__(self) -> Iterator[ReadableBuffer]:
        for piece in self._pieces:
            self.checksum = self._check(piece, self.checksum)
            self.length += memoryview(piece).nbytes
            yield piece


def _deflated(pieces: Iterable[ReadableBuffer]) -> Iterator[bytes]:
    """Yield a deflate stream of `pieces`, each of which a thread packs by itself, up to a whole byte."""
    from isal import isal_zlib

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), "deflate") as pool:
        ahead: deque[Future[bytes]] = deque()
        for piece in pieces:
            ahead.append(pool.submit(_packed, piece))
            if len(ahead) > MAX_THREADS:
                yield ahead.popleft().result()
        for packed in ahead:
            yield packed.result()
    yield isal_zlib.compress(b"", wbits=-isal_zlib.MAX_WBITS)


def _unframed(path: Path) -> Iterator[bytes]:
    """Yield the deflate stream in a file that is framed as `ZLIB`, in pieces."""
    left = path.stat().st_size - len(ZLIB.head) - len(ZLIB.tail(0, 0))
    with path.open("rb", buffering=0) as file:
        file.seek(len(ZLIB.head))
        while left > 0 and (piece := file.read(min(SLAB_BYTES, left))):
            yield piece
            left -= len(piece)


def _packed(piece: ReadableBuffer) -> bytes:
    """Return a piece as blocks of a deflate stream that end at a whole byte, and of which none is the last."""
    from isal import isal_zlib

    packer = isal_zlib.compressobj(COMPRESSION_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    return packer.compress(piece) + packer.flush(isal_zlib.Z_SYNC_FLUSH)


def real_dtype(volume: Volume) -> np.dtype[Any]:
    """Return the type for ``voxels * slope + intercept``: the stored type if it suffices.

    Integers stay integers if slope and intercept are whole numbers. Otherwise the type is float32, or float64 if
    float32 would change a value by more than `SCALING_TOLERANCE` of a step.
    """
    voxels, slope, intercept = volume.voxels, volume.slope, volume.intercept
    stored = voxels.dtype.newbyteorder("=")
    if slope == 1 and intercept == 0:
        return stored
    if stored.kind not in "iu":  # nothing says how far an intercept may round them
        return np.dtype(np.float64) if intercept else stored
    ends = sorted(int(end) * slope + intercept for end in (voxels.min(), voxels.max()))
    if float(slope).is_integer() and float(intercept).is_integer():
        for candidate in (stored, np.dtype(np.int16), np.dtype(np.int32)):
            limits = np.iinfo(candidate)
            if limits.min <= ends[0] and ends[1] <= limits.max:
                return candidate
    rounding = np.finfo(np.float32).eps * max(map(abs, ends)) + float(np.finfo(np.float32).tiny)
    return np.dtype(np.float32 if rounding <= SCALING_TOLERANCE * abs(slope) else np.float64)


def stored_slabs(voxels: Array) -> Iterator[memoryview]:
    """Yield the bytes of `voxels`, little-endian, in C order and in pieces."""
    flat = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("<")).reshape(-1)
    step = SLAB_BYTES // flat.itemsize
    for start in range(0, flat.size, step):
        yield flat[start : start + step].view(np.uint8).data


def real_slabs(volume: Volume, dtype: np.dtype[Any]) -> Iterator[memoryview]:
    """Yield the bytes of ``voxels * slope + intercept`` as `dtype`, little-endian, in C order and in pieces."""
    if volume.slope == 1 and volume.intercept == 0:
        yield from stored_slabs(volume.voxels.astype(dtype, copy=False))
        return
    flat = volume.voxels.reshape(-1)
    step = SLAB_BYTES // 8  # computed in float64, where whole numbers are exact
    for start in range(0, flat.size, step):
        real = flat[start : start + step] * np.float64(volume.slope) + np.float64(volume.intercept)
        yield real.astype(dtype.newbyteorder("<")).view(np.uint8).data
