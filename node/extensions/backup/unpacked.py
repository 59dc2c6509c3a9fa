"""What a volume file says, whatever its bytes: igzip may pack the same voxels otherwise (`node.writers.base`)."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

_PIECE_BYTES = 1 << 20

_PACKED_BYTES = 1 << 16
"""Read at once of a packed file: deflate makes at most 1032 times as much of it."""

_Readable = IO[bytes] | gzip.GzipFile

_VOX_OFFSET = {348: ("<f", 108), 540: ("<q", 168)}
"""Where NIfTI-1 and NIfTI-2 say where their voxels begin, by the size of their headers."""


def unpacked(path: Path) -> tuple[str, str]:
    """Return the SHA-256 of the header of a volume file, and that of its voxels, as they are without compression.

    Those of a pair are read from the file that the header names. Of other files, all is header.

    Raises OSError: the file is missing, or cannot be read. Raises ValueError: it is damaged.
    """
    try:
        return _unpacked(path)
    except (EOFError, LookupError, struct.error, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error


def _unpacked(path: Path) -> tuple[str, str]:
    with ExitStack() as files:
        file: IO[bytes] = files.enter_context(path.open("rb"))
        if path.name.endswith(".nii.gz"):
            plain: _Readable = files.enter_context(gzip.open(file, "rb"))
            return _digest([_header_of_nifti(plain)]), _digest(_pieces(plain))
        if path.suffix == ".nrrd":
            lines = [*iter(file.readline, b"\n")]
            plain = files.enter_context(gzip.open(file, "rb")) if b"encoding: gzip\n" in lines else file
            return _digest(lines), _digest(_pieces(plain))
        if path.suffix == ".mhd":
            fields = [line.split(b" = ", 1) for line in file.read().splitlines()]
            name = dict(fields)[b"ElementDataFile"].decode()
            said = [b" = ".join(field) for field in fields if field[0] != b"CompressedDataSize"]
            data = files.enter_context(path.with_name(name).open("rb"))
            return _digest(said), _digest(_inflated(data) if name.endswith(".zraw") else _pieces(data))
        return _digest(_pieces(file)), _digest(())


def _header_of_nifti(stream: _Readable) -> bytes:
    start = stream.read(4)
    size = int.from_bytes(start, "little")
    header = start + stream.read(size - 4)
    form, at = _VOX_OFFSET[size]
    return header + stream.read(int(struct.unpack_from(form, header, at)[0]) - size)


def _inflated(stream: IO[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj()
    for piece in iter(lambda: stream.read(_PACKED_BYTES), b""):
        yield unpacker.decompress(piece)
    if not unpacker.eof:
        raise EOFError("the voxels are cut off")


def _pieces(stream: _Readable) -> Iterator[bytes]:
    return iter(lambda: stream.read(_PIECE_BYTES), b"")


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
