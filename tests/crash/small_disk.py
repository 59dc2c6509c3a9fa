"""Small file systems, mounted for a test and filled by other programs than the node."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path


def mount_small(place: Path, options: str) -> bool:
    """Mount a file system at an empty folder; False where that is not allowed (it needs root)."""
    command = ["mount", "-t", "tmpfs", "-o", options, "none", place]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fill(ballast: Path) -> None:
    """Write a file until the disk has no byte left."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def use_inodes(folder: Path) -> None:
    """Make files until the disk has no inode left."""
    folder.mkdir()
    with suppress(OSError):
        for number in range(1_000_000):
            (folder / str(number)).touch()
