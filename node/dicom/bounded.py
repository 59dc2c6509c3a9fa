"""Read no more of a file than intended: the header of an unknown file may be as long as a disk."""

from __future__ import annotations

import os
from typing import BinaryIO

READING_BYTES = 32
"""What each read costs beyond its bytes: pydicom makes objects of elements, also of empty ones."""


class TooLong(Exception):
    """More bytes than allowed would have to be read."""


class BoundedFile:
    """An open file for pydicom, of which only a limited number of bytes can be read.

    Memory is allocated for the bytes of the file, not for a length that the file states.

    Parameters
    ----------
    file : binary file
    max_bytes : int or None
        Limit of all reads together, beyond which they raise `TooLong`; None: no limit.
    """

    def __init__(self, file: BinaryIO, max_bytes: int | None) -> None:
        self._file, self._left = file, max_bytes
        self._end = os.fstat(file.fileno()).st_size
        self.name = file.name

    def read(self, size: int = -1) -> bytes:
        """Read as from a file; never a part of a read that exceeds the limit."""
        rest = max(self._end - self._file.tell(), 0)
        wanted = rest if size is None or size < 0 else min(size, rest)
        if self._left is not None:
            self._left -= wanted + READING_BYTES
            if self._left < 0:
                raise TooLong
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek as in a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()
