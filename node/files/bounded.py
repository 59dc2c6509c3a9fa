"""Limit the bytes read from a file: the header of an unknown file may be as long as the disk."""

from __future__ import annotations

from functools import partial
from io import SEEK_END
from typing import BinaryIO

from node.dicom.encoding import DEFLATED_LITTLE_ENDIAN
from node.dicom.header import MAX_INFLATED_AT_ONCE, require_inflatable
from node.dicom.part10 import META_BYTES, file_meta

READING_BYTES = 256
"""Cost of each read in addition to its bytes: pydicom makes an object of every element, even an empty one."""


class TooLong(Exception):
    """Reading would exceed the allowed number of bytes."""


def require_bounded(file: BinaryIO) -> None:
    """Raise if an open file has a deflated data set that is longer, inflated, than it may be; go back to its beginning.

    pydicom inflates a data set as a whole, whatever becomes of it.

    Raises NotUnderstood if it is cut or damaged, or it inflates to more than `node.dicom.header.MAX_INFLATED_AT_ONCE`.
    """
    head = file.read(META_BYTES)
    elements, offset = file_meta(head)
    file.seek(0)
    if elements.get(0x0010) != DEFLATED_LITTLE_ENDIAN:
        return
    file.seek(offset)
    require_inflatable(iter(partial(file.read, 1 << 20), b""), MAX_INFLATED_AT_ONCE)
    file.seek(0)


class BoundedFile:
    """An open file for pydicom from which only a limited number of bytes can be read.

    Memory is allocated for bytes that exist, not for a length that the file claims.

    `max_bytes`: limit of the sum of all reads, which raise `TooLong` beyond it; None: no limit.
    """

    def __init__(self, file: BinaryIO, max_bytes: int | None = None) -> None:
        self._file, self._left = file, max_bytes
        at = file.tell()
        self.length = file.seek(0, SEEK_END)
        file.seek(at)
        self.name = getattr(file, "name", "")

    def read(self, size: int = -1) -> bytes:
        """Read from the file; a read that would exceed the limit raises `TooLong` instead."""
        rest = max(self.length - self._file.tell(), 0)
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
