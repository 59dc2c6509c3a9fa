"""The root is its owner's alone: what the node writes there is patient data, or leads to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The rights of the group and of everybody else."""


def keep_private() -> None:
    """Let this process create files and folders for its owner only, whatever umask it was started with."""
    os.umask(OTHERS)


def others_may(path: Path) -> bool:
    """Return whether others than the owner have rights on a file or folder.

    A symbolic link has no rights of its own, and neither has what a running node has removed since it was listed.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & OTHERS)


def open_to_others(root: Path) -> Iterator[Path]:
    """Yield the folders and files of a root on which others have rights, the root first."""
    if others_may(root):
        yield root
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            if others_may(path := Path(folder, name)):
                yield path


def make_private(root: Path) -> None:
    """Withdraw the rights of others on a root and on all that is in it.

    Raises
    ------
    OSError
        The process is not the owner of one of them.
    """
    for path in open_to_others(root):
        with suppress(FileNotFoundError):
            path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~OTHERS)
