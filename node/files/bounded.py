"""Limit the bytes read from a file: the header of an unknown file may be as long as the disk."""

from __future__ import annotations

import os
from typing import BinaryIO

READING_BYTES = 32
"""Cost of each read in addition to its bytes: pydicom makes an object of every element, even an empty one."""


class TooLong(Exception):
    """Reading would exceed the allowed number of bytes."""


class BoundedFile:
    """An open file for pydicom from which only a limited number of bytes can be read.

    Memory is allocated for bytes that exist, not for a length that the file claims.

    Parameters
    ----------
    file : binary file
    max_bytes : int or None
        Limit of the sum of all reads, which raise `TooLong` beyond it; None: no limit.
    """

    def __init__(self, file: BinaryIO, max_bytes: int | None) -> None:
        self._file, self._left = file, max_bytes
        self._end = os.fstat(file.fileno()).st_size
        self.name = file.name

    def read(self, size: int = -1) -> bytes:
        """Read from the file; a read that would exceed the limit raises `TooLong` instead."""
        rest = max(self._end - self._file.tell(), 0)
        wanted = rest if size is None or size < 0 else min(size, rest)
        if self._left is not None:
            self._left -= wanted + READING_BYTES
            if self._left < 0:
                raise TooLong
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()
