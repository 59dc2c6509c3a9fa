"""How much room the disk of a root has, and what a node needs of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from node.errors import sized
from node.files.durable import DISK_FULL

MIN_FREE_BYTES = 1 << 20
"""Reserve of a configuration without one: with less, nothing can be written, whatever is preallocated."""

MIN_FREE_INODES = 32

KEPT = ("incoming", "objects", "quarantine", "journal", "acknowledged", "volumes")
"""Folders of a root without whose content nothing is whole."""

FOLDERS = (*KEPT, "work")
"""Folders of a root that may be links to other disks, or mount points."""


_REMEDIES = {
    **dict.fromkeys((errno.ENOTCONN, errno.ESTALE), "its server or process (NFS, FUSE) has gone: mount it again"),
    errno.EMFILE: "this process may open no more: raise its limit (`ulimit -n`, LimitNOFILE= of systemd)",
    errno.ENFILE: "the machine opens no more: raise fs.file-max, or end other programs",
    errno.EFBIG: "remove the limit of this process (`ulimit -f`, LimitFSIZE= of systemd), or use another file system",
    errno.EOPNOTSUPP: "this file system cannot do what the node needs: use one like ext4 or XFS",
}


def reason_of(error: OSError, folder: Path) -> str:
    """Return an error of the disk of a folder in words, with a remedy if it is known; if it is full, with its room."""
    remedy = room_of(folder) if error.errno in DISK_FULL else _REMEDIES.get(error.errno or 0)
    return "; ".join(filter(None, [error.strerror or str(error), remedy]))


def room_of(folder: Path) -> str:
    """Return how much room the disk of a folder has left, as a sentence for who can make some."""
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    inodes = free_inodes(disk)
    files = "" if inodes is None else f" and {inodes} inodes"
    return f"{folder} has {sized(free_bytes(disk))}{files} free: remove files from its disk, or raise the quota"


def disks_of(root: Path) -> list[Path]:
    """Return one folder on each disk that holds files of a root, the root first."""
    found: dict[int, Path] = {}
    for folder in (root, *(root / name for name in FOLDERS)):
        with suppress(FileNotFoundError):
            found.setdefault(folder.stat().st_dev, folder)
    return list(found.values())


def fullest(root: Path) -> Path:
    """Return the folder of `disks_of` that has the least room.

    Raises OSError if the root is gone.
    """
    return min(disks_of(root) or [root], key=free_bytes_of)


def free_bytes_of_root(root: Path) -> int:
    """Return the bytes that the fullest disk of a root has; 0 if a disk does not answer."""
    try:
        return free_bytes_of(fullest(root))
    except OSError:
        return 0


def free_bytes_of(folder: Path) -> int:
    """Return the bytes that this process may still write to the disk of a folder."""
    return free_bytes(os.statvfs(folder))


def free_bytes(disk: os.statvfs_result) -> int:
    """Return the bytes that this process may still write to a disk."""
    return disk.f_bavail * disk.f_frsize


def free_inodes(disk: os.statvfs_result) -> int | None:
    """Return how many files may still be created on a disk; None if it has no such limit."""
    return disk.f_favail if disk.f_files else None


def lack_for_senders(disks: Iterable[Path], low_bytes: int, factor: float = 1.0) -> tuple[Path, str] | None:
    """Return what `lack` says of the room below which new associations are refused."""
    rule = "but {} are required (twice [storage] reserve_bytes)"
    return lack(disks, max(low_bytes, MIN_FREE_BYTES), rule, factor)


def lack(disks: Iterable[Path], required_bytes: int, rule: str, factor: float = 1.0) -> tuple[Path, str] | None:
    """Return a folder whose disk has too little room, and how much with the rule; None if all disks have enough.

    `rule`: has a place for the bytes that are required.
    """
    for folder in disks:
        try:
            disk = os.statvfs(folder)
        except FileNotFoundError:
            return folder, f"nothing is free, {rule.format(sized(required_bytes))}"
        if (free := free_bytes(disk)) < required_bytes * factor:
            return folder, f"{sized(free)} free, {rule.format(sized(required_bytes))}"
        inodes = free_inodes(disk)
        if inodes is not None and inodes < MIN_FREE_INODES * factor:
            return folder, f"{inodes} inodes free, {MIN_FREE_INODES} are needed: the disk can hold no more files"
    return None
