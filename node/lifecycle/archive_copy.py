"""Move the instances of a root to its object store, or back to the folder, while no node runs; resumable."""

from __future__ import annotations

from dataclasses import dataclass

from node.archive.base import StoreAway
from node.archive.filesystem import Archive
from node.archive.intact import problem_with
from node.archive.remote import Remote
from node.errors import VoxelnodeError
from node.index.database import Index
from node.index.instances import InstanceFile
from node.index.models import SPOOL
from node.lifecycle.uploads import BATCH, Uploads


class NotCopied(VoxelnodeError):
    """The object store does not answer; what was copied until then stays copied."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The instances that were moved, and those that are left; the log has the reason of each."""

    instances: int
    left: int


def copy_to_store(uploads: Uploads, index: Index) -> Copied:
    """Move everything to the object store.

    Raises
    ------
    NotCopied
    """
    moved = 0
    try:
        uploads.begin()
        waiting = index.objects.count(SPOOL).instances
        while True:
            seconds = uploads.move_batch()
            left = index.objects.count(SPOOL).instances
            moved, waiting = moved + waiting - left, left
            if seconds != 0.0:
                return Copied(moved, left)
    except StoreAway as error:
        raise NotCopied(f"{error.strerror}; run the command again to go on") from error


def copy_to_folder(uploads: Uploads, archive: Archive, remote: Remote, index: Index) -> Copied:
    """Bring everything back from the object store, which keeps its objects; it is of no archive afterwards.

    Raises
    ------
    NotCopied
    OutOfResources
        The disk has no room.
    """
    total = left = 0
    after = ""
    try:
        while batch := index.objects.stored(after, BATCH):
            after = batch[-1].key
            with remote.held([file for file in batch if not file.file_missing]):
                whole = [file.key for file in batch if _is_whole(archive, remote, file)]
                archive.sync(whole)
                index.objects.record_local(whole)
                remote.keep(whole)
            total, left = total + len(whole), left + len(batch) - len(whole)
        if not left:
            uploads.remove_objects()
            remote.release()
            index.objects.leave_store()
    except StoreAway as error:
        raise NotCopied(f"{error.strerror}; run the command again to go on") from error
    return Copied(total, left)


def _is_whole(archive: Archive, remote: Remote, file: InstanceFile) -> bool:
    path = archive.path(file.key)
    if problem_with(path, file.data_set_offset, file.bytes, file.sha256) is None:
        return True
    return remote.refreshed(file) is None
