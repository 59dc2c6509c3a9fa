"""Make files and folders durable: a synced file in a synced folder survives a power cut."""

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
    """Make the bytes of a file durable, including those written by another process."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents durably."""
    made = not folder.is_dir()
    if made:
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        sync_folder(folder.parent)
    except PermissionError:  # the parent of an existing folder is unreadable: syncing it is not our task
        if made:
            raise
