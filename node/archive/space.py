"""How much room the disk of a root has, and what a node needs of it."""

from __future__ import annotations

import os
from pathlib import Path

STOPPED_FILE = "intake-stopped.json"
"""File in the root while intake is stopped, from which other processes read the reason."""

MIN_FREE_BYTES = 1 << 20
"""Reserve of a configuration without one: with less, nothing can be written, whatever is preallocated."""

MIN_FREE_INODES = 32


def free_bytes_of(folder: Path) -> int:
    """Return the bytes that this process may still write to the disk of a folder."""
    return free_bytes(os.statvfs(folder))


def free_inodes_of(folder: Path) -> int | None:
    """Return how many files may still be created; None if the file system has no such limit."""
    return free_inodes(os.statvfs(folder))


def free_bytes(disk: os.statvfs_result) -> int:
    """Return the bytes that this process may still write to a disk."""
    return disk.f_bavail * disk.f_frsize


def free_inodes(disk: os.statvfs_result) -> int | None:
    """Return how many files may still be created on a disk; None if it has no such limit."""
    return disk.f_favail if disk.f_files else None
