"""Read an instance from its file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread

from node.dicom.reading import DataSetCut, LeftToPydicom, StoredFile, data_set_of_file
from node.files.bounded import BoundedFile, require_bounded

HEAD_BYTES = 1 << 16
"""Bytes of a file to read first: usually the header of a slice, or all of a small file."""


def read_instance(path: Path) -> Dataset:
    """Return the data set of a file, with its `file_meta`; see `node.dicom.reading.data_set_of_file`.

    Raises anything that pydicom raises for a damaged file.
    """
    with open(path, "rb", buffering=0) as file:  # as `Path.open`, at two thirds of its cost
        head = file.read(HEAD_BYTES)
        file_bytes = len(head) if len(head) < HEAD_BYTES else os.fstat(file.fileno()).st_size
        try:
            try:
                return data_set_of_file(head, file_bytes, _ClosedFile(path))
            except DataSetCut:
                return data_set_of_file(head + file.readall(), file_bytes, _ClosedFile(path))
        except LeftToPydicom:
            with path.open("rb") as buffered:
                require_bounded(buffered)
                return dcmread(BoundedFile(buffered), force=True)


@dataclass(slots=True)
class _ClosedFile(StoredFile):
    """A file that is open only while bytes are read from it: a series has more files than a process may hold open."""

    path: Path
    _at: int = field(default=0)

    def read_at(self, offset: int, length: int) -> bytes:
        """See `node.dicom.reading.StoredFile`."""
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length)

    def read(self, size: int = -1) -> bytes:
        """See `node.dicom.reading.StoredFile`."""
        data = self.read_at(self._at, size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `node.dicom.reading.StoredFile`."""
        if whence == os.SEEK_END:
            offset += self.path.stat().st_size
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        """See `node.dicom.reading.StoredFile`."""
        return self._at
