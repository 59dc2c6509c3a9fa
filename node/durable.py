"""What outlasts a power cut: bytes of files that were synced, under names whose folder was synced too."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable, whoever wrote them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that it is still there after a power cut."""
    made = not folder.is_dir()
    if made:
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        sync_folder(folder.parent)
    except PermissionError:  # nothing of ours: a folder that was there before us, in one that we may not read
        if made:
            raise
