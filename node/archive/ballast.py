"""Ballast: some space that a full disk still has, so that something can be deleted from it.

A deletion needs room itself, for its audit line and its rows. The ballast is a file without content, whose space is
given back to the disk for the time of a deletion.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from node.archive.intake import MIN_FREE_INODES, free_bytes_of, free_inodes_of

BALLAST_FILE = "ballast"
BALLAST_BYTES = 8 << 20
KEEPS_BYTES = 4 * BALLAST_BYTES
"""With less free space, no ballast is made: it must not fill the disk itself."""


class Ballast:
    """The ballast of one root."""

    def __init__(self, root: Path) -> None:
        self._root, self._path = root, root / BALLAST_FILE

    def keep(self) -> None:
        """Make the ballast, if the disk has room for it and it does not exist."""
        with suppress(OSError):
            if self._path.exists() or free_bytes_of(self._root) < KEEPS_BYTES:
                return
            part = self._path.with_suffix(".part")
            file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, BALLAST_BYTES)
            finally:
                os.close(file)
            os.replace(part, self._path)

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Give the space back if the disk is full, for what is done within."""
        if self._is_needed():
            self._path.unlink(missing_ok=True)
        try:
            yield
        finally:
            self.keep()

    def _is_needed(self) -> bool:
        inodes = free_inodes_of(self._root)
        return free_bytes_of(self._root) < BALLAST_BYTES or (inodes is not None and inodes < MIN_FREE_INODES)
