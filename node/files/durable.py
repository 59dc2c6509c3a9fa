"""Make files and folders durable: a synced file in a synced folder survives a power cut."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import filecmp
import hashlib
import os
import shutil
from pathlib import Path
from typing import IO

IS_LINUX = hasattr(os, "sched_getaffinity")
"""Else this is macOS: an fsync there is no barrier, a fork of loaded libraries not safe, and there is no /proc."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of a file system without hard links, such as some of FUSE."""

NO_ROOM = DISK_FULL | {errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors that end once resources are free again; after any other error, the disk cannot be trusted."""


def write_all(descriptor: int, content: bytes | bytearray | memoryview) -> None:
    """Write all bytes to a file or a pipe: the system may take fewer at once."""
    rest = memoryview(content)
    while rest.nbytes:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    _sync(folder, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable, including those written by another process."""
    _sync(path, 0)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_data(file: int | IO[bytes]) -> None:
    """Make the bytes of an open file durable, and of what is known of it only the length."""
    (os.fdatasync if IS_LINUX else os.fsync)(file)


def sync_file_system(folder: Path) -> None:
    """Make everything durable that was written to the file system of a folder, by this process or another one.

    Raises OSError if the disk failed, now or since the last look: also for the file of a stranger (Linux 5.8 and
    later).
    """
    if not IS_LINUX:
        return os.sync()
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(folder))
    finally:
        os.close(descriptor)


def move_file(source: Path, target: Path) -> None:
    """Move a file, or a link, over what has the other name; between file systems, its bytes are copied durably.

    Only the kernel knows what one file system is (bind mounts, overlays and subvolumes differ from `st_dev`): it is
    asked by the rename itself. The names are not synced. If the process dies while it copies, the file has its old
    name, or both, and never a part of it has the new one.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_file(source, target)
        source.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, or a link, durably over what has the other name, which no part of it ever has."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        shutil.copy2(source, part, follow_symlinks=False)
        if not part.is_symlink():
            sync_file(part)
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def move_aside(source: Path, target: Path) -> Path:
    """Do `move_file`, but replace nothing: a file that has the name already stays. Returns where the source is then.

    If that has the same bytes, the source goes; else the source gets the name of its bytes. Only for folders in which
    this process alone makes names.
    """
    target = place_aside(source, target)
    if os.path.lexists(target) and filecmp.cmp(source, target, shallow=False):
        sync_file(target)
        source.unlink()
    else:
        move_file(source, target)
    return target


def place_aside(source: Path, target: Path) -> Path:
    """Return the path to which `move_aside` moves a file."""
    is_taken = os.path.lexists(target) and not filecmp.cmp(source, target, shallow=False)
    return target.with_name(named_by_content(source)).with_suffix(target.suffix) if is_taken else target


def named_by_content(path: Path) -> str:
    """Return the name that a file gets by its bytes: the same each time that a start repeats what it did."""
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()[:32]}{path.suffix}"


def moved(path: Path, opened: os.stat_result, least_bytes: int = 0) -> str | None:
    """Return how a file or a folder is no longer the one at its path, or is shorter; None if it is neither.

    By one call of the system, because the journal asks after each sync.

    `opened`: its status when it was opened, or first looked at. Raises OSError if the system does not tell.
    """
    try:
        there = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} was removed while the node was running"
    if (there.st_dev, there.st_ino) != (opened.st_dev, opened.st_ino):
        return f"{path} was replaced while the node was running"
    is_cut = there.st_size < least_bytes
    return f"{path} was cut to {there.st_size} bytes while the node was running" if is_cut else None


def locked(path: Path, flags: int) -> int | None:
    """Return the descriptor of a file or a folder that this process has locked; None if another process has.

    The kernel releases the lock when the process ends for any reason.

    `flags`: how it is opened (`os.open`).
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks
        os.close(descriptor)
        raise
    return descriptor


def write_durably(path: Path, content: bytes) -> None:
    """Replace a small file by another content; a power cut leaves either the old content or the new one."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


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
