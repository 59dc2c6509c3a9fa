"""The lock of a root, what a root must have before it is opened, and requests to the process that holds it."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

from node.archive.root import FolderAway, lock_problem, require_folders
from node.archive.space import FOLDERS
from node.audit.audit_files import FILE_NAME as AUDIT_FILE
from node.control.control_socket import REQUEST_SECONDS, NoControlSocket, NotPerformed, request_action
from node.errors import UsageError, VoxelnodeError
from node.files.durable import IS_LINUX, locked, make_folder
from node.index.look.views import ReadIndex
from node.index.looking import is_there
from node.index.rows.backend import FILE_NAME, IndexUnusable, place_of
from node.index.rows.sqlite_file import is_as_left
from node.journal.inspection import inspect
from node.receive.record import JOURNAL_FOLDER
from node.registry import store_kind
from node.settings.model import Settings

LOCK_FILE = "lock"

REBUILDING_FILE = "rebuilding.json"
"""In the root while a new index is built: the name of the index before it."""

RETRY_SECONDS = 0.2
"""Interval at which a command retries while the process that holds the root has no control socket."""

_Held = TypeVar("_Held")


class RootInUse(VoxelnodeError):
    """Another voxelnode process holds the lock of this root."""


class LocksUnusable(VoxelnodeError):
    """Locks do not work on the file system of this root."""


def require_place(root: Path) -> None:
    """Refuse a path that cannot be a root: it is no folder, something there cannot be written, or locks do not work.

    Raises UsageError, VoxelnodeError. Raises OSError if no file can be made there.
    """
    there = next(path for path in (root, *root.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UsageError(f"{root} cannot be a root: {there} is not a folder")
    for path in (there, *(root / name for name in (LOCK_FILE, FILE_NAME, AUDIT_FILE, *FOLDERS))):
        if path.exists() and not os.access(path, os.W_OK):
            raise VoxelnodeError(
                f"{path} cannot be written: let the account that runs the node own it, on a disk for writing"
            )
    if (problem := lock_problem(there)) is not None:
        raise LocksUnusable(
            f"{problem}: the index needs locks that exclude other processes and machines; use a local disk"
        )


def require_store(settings: Settings, index: ReadIndex) -> None:
    """Refuse a root with instances in an object store, without the store. Raises VoxelnodeError."""
    if store_kind(settings) is None and index.archive_in_store and index.has_used_store:
        raise VoxelnodeError(
            "instances of this root are in an object store: set [storage] url again; to do without it, run "
            "`voxelnode archive copy --to folder` first"
        )


def require_barrier() -> None:
    """Refuse a system on which a sync is not known to reach the disk. Raises VoxelnodeError."""
    if not IS_LINUX:
        raise VoxelnodeError(
            "this needs Linux: here, a sync may end before the disk has the bytes, so a power cut could lose what was "
            "acknowledged; `voxelnode convert` and `voxelnode open` run here"
        )


def locked_root(root: Path, *, keeps: bool = True) -> ExitStack:
    """Lock the root for this process, until the stack is closed: whoever changes something there asks here.

    `keeps`: whether this process may acknowledge what the root then has to keep.

    Raises RootInUse if another process holds it. Raises FolderAway if a folder of it is away. Raises as
    `require_barrier`.

    The folder is locked as well as the file: whoever removes the lock file lets no second node in.
    """
    if keeps:
        require_barrier()
    with ExitStack() as locks:
        for path, flags in ((root, os.O_RDONLY | os.O_DIRECTORY), (root / LOCK_FILE, os.O_RDWR | os.O_CREAT)):
            lock = locked(path, flags)
            if lock is None:
                raise RootInUse(f"{root} is in use by another voxelnode process: stop it, or choose another root")
            locks.callback(os.close, lock)
        require_folders(root)
        return locks.pop_all()


def is_held(root: Path) -> bool:
    """Return whether a node, or an import, holds the lock of a root."""
    try:
        locked_root(root, keeps=False).close()
    except RootInUse:
        return True
    except FolderAway:
        pass
    return False


def hold_or_request(
    root: Path, hold: Callable[[], _Held], action: str, arguments: Mapping[str, Any]
) -> _Held | dict[str, Any]:
    """Hold a root and return the result of `hold`, or return the answer of the process that holds the root already.

    Raises NotPerformed if the node refused or failed, or no process was ready within `REQUEST_SECONDS`.
    """
    deadline = monotonic() + REQUEST_SECONDS
    while True:
        try:
            return hold()
        except RootInUse:
            try:
                return request_action(root, action, arguments)
            except NoControlSocket:
                if monotonic() > deadline:
                    raise NotPerformed(
                        f"the process that holds {root} accepted no request within {REQUEST_SECONDS:g} s; it may be an "
                        "import, or a node that is still starting: try again later"
                    ) from None
        sleep(RETRY_SECONDS)


def make_root(root: Path) -> None:
    """Make a root that a node may serve; nothing changes if it is one."""
    make_folder(root / "objects")


def is_root(root: Path) -> bool:
    """Return whether a folder was made as a root."""
    return (root / FILE_NAME).exists() or (root / "objects").is_dir()


def require_root(root: Path, command: str) -> None:
    """Refuse a folder that was not made as a root, or has lost all that a root has.

    Its disk may not be mounted: what the node acknowledges would lie below the mount point, and vanish with the mount.
    `command`: makes a root there. Raises UsageError.
    """
    if not is_root(root):
        raise UsageError(
            f"{root} is not a root: it has neither {FILE_NAME} nor objects/. If its disk is not mounted, mount it; "
            f"to make a new root there, run `{command}`"
        )


def require_created(settings: Settings) -> None:
    """Refuse a root that has no index yet.

    Raises IndexUnusable.
    """
    from node.index.rows.place import require_there

    require_there(place_of(settings.storage.root, settings.index.url))


def require_index(root: Path, url: str | None = None) -> None:
    """Refuse a root that has instances, in the archive or in the journal, but no index.

    A start would build a new index from the instances and then remove all volumes as unknown.

    Raises IndexUnusable if the index is missing, or is not finished.
    """
    if (root / REBUILDING_FILE).exists():
        raise IndexUnusable(f"the index of {root} is not finished: run `voxelnode db rebuild` again")
    place = place_of(root, url)
    if is_there(place):
        return
    journal = inspect(root / JOURNAL_FOLDER)
    if journal.last > journal.freed or next((root / "objects").glob("*/*.dcm"), None) is not None:
        from node.index.rows.place import require_there  # here, because a look at a root needs no SQLAlchemy

        require_there(place)


def require_startable(root: Path, url: str | None) -> None:
    """Refuse an index that a start refuses, and change nothing. Raises IndexUnusable, in the words of a start."""
    require_index(root, url)
    if is_there(place := place_of(root, url)) and not (isinstance(place, Path) and is_as_left(place)):
        from node.index.rows.copying import require_usable  # here, because a sound index needs no SQLAlchemy

        require_usable(place)
