"""Restore a backup: into a new root, or into the scratch root of a proof."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from node.acknowledged import FOLDER as LEDGER
from node.acknowledged import segments
from node.archive.space import free_bytes_of
from node.counted import sized
from node.durable import make_folder, sync_file_system
from node.errors import UsageError, VoxelnodeError
from node.extensions.backup.making import COPYING, LEFT_OUT, PROVING, RESTORING, has_backup, settle, strange_in
from node.index.engine.place import FILE_NAME
from node.settings.model import Settings


def restore(settings: Settings, backup: Path, ledger: Path | None = None) -> None:
    """Copy a backup into the root, a new folder or an empty one. The index comes last: no node starts on a part of it.

    `ledger`: a folder ``acknowledged``, in place of that of the backup.

    Raises VoxelnodeError: there is no backup, the root is not empty, or has no room. Raises OSError.
    """
    root = settings.storage.root.absolute()
    if settings.index.url is not None or settings.storage.url is not None:
        raise UsageError(
            "a root with [index] url or [storage] url is not only in its folders: restore database and bucket, "
            "copy the folders, and run `voxelnode fsck --hash --repair` (docs/backup.md)"
        )
    if not has_backup(backup):
        raise UsageError(f"{backup} has no {FILE_NAME}: it is not the backup of a root, or not mounted")
    if root.resolve().is_relative_to(backup.resolve()):
        raise UsageError(f"{root} is inside the backup: name another folder with --root")
    if ledger is not None and not segments(ledger):
        raise UsageError(f"{ledger} has no segment of a ledger: name the folder {LEDGER} of the damaged root")
    if strange := strange_in(root):
        raise UsageError(f"{root} is not empty ({strange}): name a new folder with --root, or remove what is in it")
    make_folder(root)
    root.chmod(stat.S_IRWXU)
    work = root / RESTORING
    if work.exists():  # of a restore that was killed
        shutil.rmtree(work)
    require_room(backup, root, 0, "free some, or name a folder on another disk with --root")
    copy_backup(backup, work)
    if ledger is not None:
        shutil.rmtree(work / LEDGER, ignore_errors=True)
        shutil.copytree(ledger, work / LEDGER)
    sync_file_system(work)
    for name in sorted(os.listdir(work), key=lambda name: name == FILE_NAME):
        os.rename(work / name, root / name)
    work.rmdir()
    sync_file_system(root)


def copy_backup(backup: Path, target: Path) -> None:
    """Copy a backup to a new folder, and settle it there; the backup is only read."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        is_top = Path(folder) == backup
        return [name for name in names if not _is_restored(Path(folder, name), is_top)]

    shutil.copytree(backup, target, symlinks=True, ignore=left_out)
    target.chmod(stat.S_IRWXU)  # as a root, whatever the mode of the backup
    settle(target)


def _is_restored(path: Path, is_top: bool) -> bool:
    mode = os.lstat(path).st_mode
    if is_top and (path.name in LEFT_OUT or path.name.startswith((COPYING, PROVING))):
        return False
    # A link at the top may lead into the root itself.
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and not is_top)


def require_room(backup: Path, folder: Path, spare_bytes: int, remedy: str) -> None:
    """Raise VoxelnodeError if the disk of a folder has no room for a backup and this much beyond its size."""
    needed = spare_bytes + sum(
        found.st_size
        for inner, _, names in os.walk(backup)
        for name in names
        if stat.S_ISREG((found := os.lstat(f"{inner}/{name}")).st_mode)
    )
    if (free := free_bytes_of(folder)) < needed:
        raise VoxelnodeError(f"{folder} has {sized(free)} free, and {backup} needs {sized(needed)}: {remedy}")
