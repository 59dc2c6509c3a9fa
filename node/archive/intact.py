"""Is a file as it was received? The one comparison of a kept file with its row.

An error while reading says nothing about the bytes of a file: it is raised, and never taken for damage.
"""

import hashlib
import os
import struct
from pathlib import Path

MISSING = "is missing"
"""The problem of a file that does not exist."""

_META = 132
"""Offset of the File Meta Information, after preamble and prefix (PS3.10 7.1)."""

_GROUP_LENGTH = b"DICM\x02\x00\x00\x00UL\x04\x00"


def problem_with(path: Path, offset: int, length: int | None, sha256: str | None) -> str | None:
    """Return how the bytes of a file from `offset` differ from what was received, or None if it is whole.

    `length`: None: any.
    `sha256`: None: the digest is not compared, and the file is not read.

    Raises OSError: the file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return MISSING
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        actual = os.fstat(descriptor).st_size - offset
        if length is not None and actual != length:
            return length_problem(actual, length)
        if sha256 is None:
            return None
        file.seek(offset)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest == sha256 else digest_problem(digest, sha256)


def data_set_head(path: Path, offset: int) -> bytes:
    """Return the first eight bytes of the data set in a file, which show its encoding: `node.dicom.encoding`.

    Raises OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), 8, offset)


def length_problem(actual: int, expected: int) -> str:
    """Return how a file differs that has another length."""
    return f"has {max(actual, 0)} bytes instead of {expected}"  # below 0: it ends before the data set begins


def digest_problem(actual: str, expected: str) -> str:
    """Return how a file differs that has another digest."""
    return f"has the SHA-256 {actual} instead of {expected}"


def intact_bytes(path: Path, offset: int, length: int, sha256: str) -> bytes | str:
    """Return the bytes of a file from `offset`, or how they differ from what was received; see `problem_with`.

    Raises OSError if the file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return MISSING
    try:
        data = os.pread(descriptor, length + 1, offset)
    finally:
        os.close(descriptor)
    if len(data) != length:
        return f"has another length than {length} bytes"
    digest = hashlib.sha256(data).hexdigest()
    return data if digest == sha256 else digest_problem(digest, sha256)


def data_set_offset(path: Path) -> int | None:
    """Return where the data set begins in a DICOM file; None if its head is not one that this node writes.

    Raises OSError if the file is missing or cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(_META + 12)
    if len(head) < _META + 12 or head[_META - 4 : _META + 8] != _GROUP_LENGTH:
        return None
    return _META + 12 + int(struct.unpack_from("<I", head, _META + 8)[0])
