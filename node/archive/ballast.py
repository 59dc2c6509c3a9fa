"""Ballast: some space that a full disk still has, so that something can be deleted from it.

A deletion needs room itself, for its audit line and its rows. The ballast is a folder of files without content, whose
space and inodes are given back to the disk for the time of a deletion.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from node.archive.intake import MIN_FREE_INODES, free_bytes_of, free_inodes_of

BALLAST_FOLDER = "ballast"
FILES = 16
FILE_BYTES = 512 << 10
KEEPS_BYTES = 4 * FILES * FILE_BYTES
"""With less free space, no ballast is made: it must not fill the disk itself."""


class Ballast:
    """The ballast of one root."""

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / BALLAST_FOLDER

    def _keep(self) -> None:
        """Make the ballast, or what is missing of it, if the disk has room for it."""
        with suppress(OSError):
            inodes = free_inodes_of(self._root)
            if free_bytes_of(self._root) < KEEPS_BYTES or (inodes is not None and inodes < 4 * FILES):
                return
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for path in (self._folder / str(number) for number in range(FILES)):
                if not path.exists():
                    _allocate(path)

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Remove the ballast during the block if the disk is full; afterwards, make it again if there is room."""
        if self._is_needed():
            shutil.rmtree(self._folder, ignore_errors=True)
        try:
            yield
        finally:
            self._keep()

    def _is_needed(self) -> bool:
        inodes = free_inodes_of(self._root)
        return free_bytes_of(self._root) < FILES * FILE_BYTES or (inodes is not None and inodes < MIN_FREE_INODES)


def _allocate(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, FILE_BYTES)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(file)
