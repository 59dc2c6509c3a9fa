"""Move the files of a root to its object store, or back to the folder, while no node runs; resumable."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from node.archive.base import StoreAway, is_of_revision
from node.archive.filesystem import Archive
from node.archive.intact import problem_with
from node.archive.remote import Remote
from node.errors import VoxelnodeError
from node.index.database.index import Index
from node.index.models import SPOOL
from node.index.nouns.instance_files import InstanceFile
from node.index.nouns.records import RevisionFile
from node.lifecycle.uploads import BATCH, Uploads


class NotCopied(VoxelnodeError):
    """The object store does not answer; what was copied until then stays copied."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The instances that were moved, those that are left, and the same of files of volumes; the log has the reasons."""

    instances: int
    left: int
    files: int = 0
    files_left: int = 0


def copy_to_store(uploads: Uploads, index: Index) -> Copied:
    """Move everything to the object store.

    Raises
    ------
    NotCopied
    """
    try:
        uploads.begin()
        index.objects.spool_all()  # some are in the folder again if the way back was interrupted
        before = uploads.moved
        while uploads.move_batch() == 0.0:
            pass
        instances, files = (now - then for now, then in zip(uploads.moved, before, strict=True))
        return Copied(instances, index.objects.count(SPOOL).instances, files, index.objects.count_spooled_files())
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
    total: Counter[bool] = Counter()  # instances, or files of revisions
    left: Counter[bool] = Counter()
    after = ""
    try:
        while batch := index.objects.stored(after, BATCH):
            after = batch[-1].key
            there = [file for file in batch if not (isinstance(file, InstanceFile) and file.file_missing)]
            with remote.held(there, damaged=True):
                whole = [file.key for file in batch if _is_whole(archive, remote, file)]
                archive.sync(whole)
                index.objects.record_local(whole)
                remote.keep(whole)
            of_revisions = Counter(map(is_of_revision, whole))
            total += of_revisions
            left += Counter(is_of_revision(file.key) for file in batch) - of_revisions
        if not left.total():
            uploads.remove_objects()
            remote.release()
            index.objects.leave_store()
    except StoreAway as error:
        raise NotCopied(f"{error.strerror}; run the command again to go on") from error
    return Copied(total[False], left[False], total[True], left[True])


def _is_whole(archive: Archive, remote: Remote, file: InstanceFile | RevisionFile) -> bool:
    path = archive.path(file.key)
    if problem_with(path, file.data_set_offset, file.bytes, file.sha256) is None:
        return True
    return remote.refreshed(file) is None
