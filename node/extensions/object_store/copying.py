"""Move all of an archive to its object store, or back to the folder, while no node serves it."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from node.archive.base import StoreAway, is_of_revision
from node.archive.filesystem import Archive
from node.archive.intact import problem_with
from node.control.repository import Repository
from node.errors import UsageError, VoxelnodeError
from node.extensions.object_store.kind import RootStore
from node.extensions.object_store.places import PlaceRepository
from node.extensions.object_store.remote import CachedStore
from node.extensions.object_store.uploads import BATCH, ObjectUploads
from node.index.database import Index
from node.index.rows.models.levels import SPOOL
from node.index.rows.records import InstanceFile, RevisionFile
from node.receive.stored_files import report_damage
from node.settings.model import Settings


class NotCopied(VoxelnodeError):
    """The object store does not answer; what was copied until then stays copied."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The instances that were moved, those that are left, and the same of files of volumes; the log has the reasons."""

    instances: int
    left: int
    files: int = 0
    files_left: int = 0


def _to_store(uploads: ObjectUploads, places: PlaceRepository) -> Copied:
    """Move everything to the object store."""
    try:
        uploads.begin()
        places.spool_all()  # some are in the folder again if the way back was interrupted
        before = uploads.moved
        while uploads.move_batch() == 0.0:
            pass
        instances, files = (now - then for now, then in zip(uploads.moved, before, strict=True))
        return Copied(instances, places.count(SPOOL).instances, files, places.count_spooled_files())
    except StoreAway as error:
        raise NotCopied(f"{error.strerror}; run the command again to go on") from error


def _to_folder(
    uploads: ObjectUploads, archive: Archive, index: Index, remote: CachedStore, places: PlaceRepository
) -> Copied:
    """Bring everything back from the object store, which keeps its objects; it is of no archive afterwards.

    Raises OutOfResources if the disk has no room.
    """
    total: Counter[bool] = Counter()  # instances, or files of revisions
    left: Counter[bool] = Counter()
    after = ""
    try:
        while batch := places.stored(after, BATCH):
            after = batch[-1].key
            there = [file for file in batch if not (isinstance(file, InstanceFile) and file.file_missing)]
            with remote.held(there, damaged=True):
                problems = {file.key: _problem(archive, remote, file) for file in batch}
                whole = [key for key, problem in problems.items() if problem is None]
                archive.sync(whole)
                places.record_local(whole)
                remote.keep(whole)
            found = [file.key for file in batch if isinstance(file, InstanceFile) and file.file_missing]
            index.instances.mark_files([key for key in found if problems[key] is None], missing=False, now=index.now())
            for key, problem in problems.items():
                if problem is not None and not is_of_revision(key):
                    report_damage(archive, index, key, problem, index.now())
            of_revisions = Counter(map(is_of_revision, whole))
            total += of_revisions
            left += Counter(is_of_revision(file.key) for file in batch) - of_revisions
        if not left.total():
            uploads.remove_objects()
            remote.release()
            places.leave_store()
    except StoreAway as error:
        raise NotCopied(f"{error.strerror}; run the command again to go on") from error
    return Copied(total[False], left[False], total[True], left[True])


def _problem(archive: Archive, remote: CachedStore, file: InstanceFile | RevisionFile) -> str | None:
    """Fetch a file unless it is here; return how its object differs from what was received."""
    path = archive.path(file.key)
    if problem_with(path, file.data_set_offset, file.bytes, file.sha256) is None:
        return None
    return remote.refreshed(file)


def copy_archive(settings: Settings, to: Literal["store", "folder"]) -> Copied:
    """Move all instances of a root to its object store, or back to the folder.

    Raises UsageError if ``[storage] url`` is not set, or other hosts need the store. Raises RootInUse if a node or an
    import holds the lock of the root. Raises NotCopied if the store does not answer.
    """
    if settings.storage.url is None:
        raise UsageError("set [storage] url to the object store of the root")
    with Repository(settings) as repository:
        archive, index, remote = repository.archive, repository.index, repository.archive.remote
        assert isinstance(remote, RootStore)
        places = index.repository(PlaceRepository)
        if to == "folder" and settings.holder:
            _require_alone(index, places, settings.holder)
        if to == "folder" and index.trash.has_objects():
            raise UsageError(
                "files in the trash are in the object store: `voxelnode trash restore` or `voxelnode trash empty` first"
            )
        uploads = ObjectUploads(archive, remote, index, repository.metrics)
        return _to_store(uploads, places) if to == "store" else _to_folder(uploads, archive, index, remote, places)


def _require_alone(index: Index, places: PlaceRepository, host: str) -> None:
    """Refuse to bring back instances from a store that other hosts use, or are to move instances to."""
    with index.reading() as view:
        others = [row for row in view.hosts.all(view.hosts.now()) if row["name"] != host]
    if living := [row["name"] for row in others if row["state"] in ("alive", "draining")]:
        raise UsageError(f"{', '.join(living)}: stop all other hosts, which need the object store")
    if spooling := [row["name"] for row in others if places.only_at(row["name"])]:
        raise UsageError(
            f"{', '.join(spooling)}: has instances or volumes that are not in the object store; first run "
            "`voxelnode archive copy --to store` there, or `voxelnode db hosts forget`"
        )
