"""Make files and folders durable: a power cut keeps the bytes of a synced file under a name in a synced folder."""

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
    """Make the bytes of a file durable, also those that another process wrote."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and make them durable."""
    made = not folder.is_dir()
    if made:
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        sync_folder(folder.parent)
    except PermissionError:  # an existing folder in one that we may not read: its name is not ours to sync
        if made:
            raise
