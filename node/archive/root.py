"""Check a root: file locks work where it is, and it is its owner's alone.

Without locks, two nodes could write to one index and damage it. What the node writes there is patient data, or leads
to it.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from node.durable import NO_ROOM

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

    Raises OSError if the process is not the owner of one of them.
    """
    for path in open_to_others(root):
        with suppress(FileNotFoundError):
            path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~OTHERS)


MOUNTS = Path("/proc/self/mountinfo")
NO_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix", "nobrl"})
"""Options of NFS and SMB mounts whose locks do not reach other machines."""

LOCAL_ONLY = frozenset({"fuse.sshfs"})
"""File systems whose locks never reach other machines."""

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", *LOCAL_ONLY})

_ESCAPED = re.compile(r"\\(\d{3})")
_LOCK = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock, the whole file


def file_system(folder: Path, mounts: Path = MOUNTS) -> tuple[str, frozenset[str]]:
    """Return the type of the file system of a folder, and its mount options; empty if they are unknown."""
    folder = folder.resolve()
    try:
        lines = mounts.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return "", frozenset()
    found = "", frozenset[str]()
    longest = -1
    for line in lines:  # proc(5): a later mount hides an earlier one at the same place
        fields, _, rest = line.partition(" - ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields.split(" ")[4])
        if folder.is_relative_to(point) and len(point) >= longest:
            kind, _, options = rest.split(" ", 2)
            longest, found = len(point), (kind, frozenset(options.split(",")))
    return found


def lock_problem(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Return why locks do not work in a folder, or None if they do; on a full disk, the mount options alone tell.

    Raises OSError if no file can be made there.
    """
    kind, options = file_system(folder, mounts)
    if kind in LOCAL_ONLY or (kind in NETWORK and options & NO_LOCKS):
        return f"{folder} is on {kind} ({', '.join(sorted(options & NO_LOCKS)) or 'without locks'})"
    try:
        problem = _tried(folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            return None
        raise
    return f"{folder} is on {kind or 'a file system'} {problem}" if problem is not None else None


def _tried(folder: Path) -> str | None:
    """Lock a new file twice; return what is wrong with that."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".locks-") as file, open(file.name, "r+b") as other:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LOCK)
        except OSError as error:
            return f"without locks ({error.strerror})"
        if not (
            _is_excluded(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
            and _is_excluded(lambda: fcntl.fcntl(other, fcntl.F_OFD_SETLK, _LOCK))
        ):
            return "whose locks exclude nobody"
    return None


def _is_excluded(take_lock: Callable[[], object]) -> bool:
    try:
        take_lock()
    except OSError:
        return True
    return False
