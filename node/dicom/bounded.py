"""Read no more of a file than was meant: the header of a stranger's file may be as long as a disk."""

from __future__ import annotations

import os
from typing import BinaryIO

READING_BYTES = 32
"""What each reading counts for beyond its bytes: pydicom makes objects of elements, also of empty ones."""


class TooLong(Exception):
    """More would have to be read than is allowed."""


class BoundedFile:
    """An open file, as pydicom reads it, of which only so much can be read.

    Room is made for what the file has, not for what a length in it says.

    Parameters
    ----------
    file : binary file
    most_bytes : int or None
        Readings beyond it, all together, raise `TooLong`; None: all of the file may be read.
    """

    def __init__(self, file: BinaryIO, most_bytes: int | None) -> None:
        self._file, self._left = file, most_bytes
        self._end = os.fstat(file.fileno()).st_size
        self.name = file.name

    def read(self, size: int = -1) -> bytes:
        """As that of a file; never a part of what would be too much."""
        rest = max(self._end - self._file.tell(), 0)
        wanted = rest if size is None or size < 0 else min(size, rest)
        if self._left is not None:
            self._left -= wanted + READING_BYTES
            if self._left < 0:
                raise TooLong
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As that of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As that of a file."""
        return self._file.tell()

    def fileno(self) -> int:
        """As that of a file."""
        return self._file.fileno()
