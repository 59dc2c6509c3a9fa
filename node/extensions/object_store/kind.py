"""What the node asks of `[storage] url` (`node.registry.STORE`), and the move of an archive there, or back.

Every function but `tried` and `findings` may raise `node.archive.base.StoreAway`, and each `UsageError` if the
configuration cannot be used.
"""

import datetime as dt
import errno
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Literal

from node.archive.base import VOLUMES, ArchivedFile, File, LocalFile, Remote, StoreAway, is_of_revision
from node.archive.base import Uploads as UploadService
from node.archive.filesystem import MAX_FILES_PER_FOLDER, Archive, is_key
from node.archive.intact import MISSING, problem_with
from node.control.repository import Repository
from node.conversion.volume_files import LostSources
from node.errors import UsageError, VoxelnodeError
from node.extensions.object_store.bucket import configured_store
from node.extensions.object_store.listed import PlaceViews
from node.extensions.object_store.places import HostOf, Hosts, PlaceRepository, unknown_volumes
from node.extensions.object_store.remote import LOST, CachedStore, no_other
from node.extensions.object_store.settings import StoreSettings
from node.extensions.object_store.stores import (
    ObjectNotTaken,
    ObjectStore,
    StoredObject,
    checksum_problem,
    marked,
    problem_in_store,
    try_store,
)
from node.extensions.object_store.uploads import BATCH, ObjectUploads
from node.index.database import Index
from node.index.look.views import ReadIndex
from node.index.reading import reading
from node.index.rows.about_keys import STORE as STORE_KEY
from node.index.rows.models.levels import STORE
from node.index.rows.place import IndexUnusable
from node.index.rows.records import InstanceFile, RevisionFile
from node.lifecycle.fsck import RECEIVING_SECONDS, Finding, revision_of, to_convert_again
from node.receive.apply import MAX_BATCH
from node.receive.recovery import adopt
from node.receive.stored_files import report_damage
from node.runtime.metrics import Metrics
from node.settings.model import Settings


def opened(settings: Settings, archive: Archive, index: Index, *, new_index: bool) -> Remote:
    """Return the store of a root that this process has opened; `new_index`: the index has no rows yet."""
    return RootStore(settings.table(StoreSettings), archive, index, new_index=new_index)


def uploads(settings: Settings, archive: Archive, index: Index, metrics: Metrics) -> UploadService:
    """Return the service that moves files to the store of an opened root."""
    remote, awaited = archive.remote, settings.acknowledge == "object"
    assert isinstance(remote, RootStore)
    return ObjectUploads(archive, remote, index, metrics, awaited=awaited, now=index.now)


def files(settings: Settings) -> AbstractContextManager[LocalFile]:
    """Yield what gives the files of the archive to a process that does not hold its lock."""
    root = settings.storage.root.absolute()
    return fetching(root, configured_store(settings.table(StoreSettings)), other_host_of(settings))


def other_host_of(settings: Settings) -> HostOf:
    """Return what asks which other host alone has the file with a key, by what is committed then."""

    def asked(key: str) -> str | None:
        with reading(settings.storage.root, settings.index.url) as index:
            found = index.views(PlaceViews).only_host_of(key)
        return found if found != settings.holder else None

    return asked if settings.holder else no_other


def findings(
    settings: Settings, index: ReadIndex, losers: set[str], *, digests: bool, serving: bool
) -> Iterator[Finding]:
    """Yield the differences between the index and the objects (`node.lifecycle.fsck.examine`).

    `losers`: keys of files that lost a conflict.
    """
    store = configured_store(settings.table(StoreSettings))
    try:
        yield from _compared(store, index, losers, digests=digests, serving=serving)
    except StoreAway as error:
        yield Finding("store-away", store.place, str(error.strerror))


def tried(settings: Settings) -> tuple[str, str | None, str | None]:
    """Return the place of a store that was tried, its problem, and a warning; None: there is none."""
    store = configured_store(settings.table(StoreSettings))
    identity, has_used_store = None, False
    with suppress(IndexUnusable), reading(settings.storage.root, settings.index.url) as index:
        identity, has_used_store = index.archive_in_store, index.has_used_store
    try:
        problem = try_store(store, identity, has_used_store)
        return store.place, problem, None if problem is not None else checksum_problem(store)
    except (StoreAway, ObjectNotTaken) as error:
        return store.place, str(getattr(error, "strerror", None) or error), None


def _compared(
    store: ObjectStore, index: ReadIndex, losers: set[str], *, digests: bool, serving: bool
) -> Iterator[Finding]:
    """Compare the objects of the store with the rows that name them, a folder at a time."""
    if marked(store) != index.archive_in_store:
        yield Finding("store-away", store.place, "it is not the store of this archive")
        return
    stored = (row for row in index.files.of_instances() if row.place == STORE and not row.file_missing)
    for row, found in _with_objects(store, stored):
        problem = _object_problem(store, row, found, digests=digests)
        if problem == MISSING:
            yield Finding("object-missing", row.key, sop_instance_uid=row.sop_instance_uid)
        elif problem is not None:
            yield Finding("object-altered", row.key, problem, sop_instance_uid=row.sop_instance_uid)
    volumes = (file for file in index.files.of_volumes() if file.place == STORE)
    for file, found in _with_objects(store, volumes):
        problem = _object_problem(store, file, found, digests=digests)
        if problem is not None:
            detail = f"{revision_of(file)}: the object {problem}"
            yield Finding("volume-object", file.key, detail, series=to_convert_again(file))

    def known(found: StoredObject) -> bool:
        return found.key in losers or (serving and time() - found.written_at < RECEIVING_SECONDS)

    yield from _without_rows(store, index, known)


def _without_rows(store: ObjectStore, index: ReadIndex, known: Callable[[StoredObject], bool]) -> Iterator[Finding]:
    strays = (found.key for found in store.objects("objects") if is_key(found.key) and not known(found))
    while batch := list(islice(strays, MAX_FILES_PER_FOLDER)):
        yield from (Finding("object-unknown", key) for key in index.files.unknown_keys(batch))
    lost = LostSources(index.lost.by_series())
    strays = (found.key for found in store.objects(VOLUMES) if not known(found))
    while batch := list(islice(strays, MAX_FILES_PER_FOLDER)):
        for key in unknown_volumes(index.connection, batch):
            yield Finding("volume-kept" if lost.may_be_in(key) else "object-unknown", key)


def _with_objects(store: ObjectStore, files: Iterable[File]) -> Iterator[tuple[File, StoredObject | None]]:
    """Yield files, which are sorted by their keys, with their objects; the store is asked a folder at a time."""
    for folder, rows in groupby(files, key=lambda file: file.key.rpartition("/")[0]):
        objects = {found.key: found for found in store.objects(folder)}
        yield from ((row, objects.get(row.key)) for row in rows)


def _object_problem(store: ObjectStore, file: ArchivedFile, found: StoredObject | None, *, digests: bool) -> str | None:
    """Return what is wrong with an object; with `digests`, it is read."""
    if found is None:
        return MISSING
    if found.bytes != file.data_set_offset + file.bytes:
        return f"has {found.bytes} bytes instead of {file.data_set_offset + file.bytes}"
    return problem_in_store(store, file) if digests else None


class RootStore(CachedStore):
    """The store of a root that this process has opened; see `node.archive.base.Remote`.

    Nothing is asked of it unless the index is new.

    Raises StoreAway: a new index needs to know whose store it is.
    """

    def __init__(self, storage: StoreSettings, archive: Archive, index: Index, *, new_index: bool) -> None:
        store = configured_store(storage, index.sharing.holder or "")
        identity = index.about.get(STORE_KEY)
        if not identity:
            identity = (marked(store) if new_index else None) or uuid.uuid4().hex
            identity = index.about.set_once(STORE_KEY, identity)
        self._archive, self._index, self._places = archive, index, index.repository(PlaceRepository)
        if index.sharing.holder is not None:
            key = self._places.of_no_host()
            if key is not None and archive.path(key).exists():
                self._places.own_spool()
        super().__init__(store, archive.root, archive.intake, storage.cache_bytes, identity, self._places.host_of)

    def adopt(self, keys: Sequence[str], quiet_seconds: Callable[[str], float], now: dt.datetime) -> Mapping[str, str]:
        """See `node.archive.base.Remote`; so for the methods below."""
        self.require_own()
        deleted = self._index.deletions.deleted_among(keys)
        self._places.remove(sorted(deleted), now)
        unknown = [
            key
            for key in self._index.instances.unknown_keys(keys)
            if key not in deleted and self._archive.take_in(key, self.downloaded(key))
        ]
        fates = adopt(self._archive, self._index, unknown, quiet_seconds, now)
        stored = self._places.record_stored(unknown, now)
        self.note_copies((key, self._archive.path(key).stat().st_size) for key in stored)
        return fates | dict.fromkeys(deleted, "removed: it was deleted")

    def adopt_all(self, quiet_seconds: Callable[[str], float], now: dt.datetime) -> None:
        keys = (found.key for found in self.store.objects("objects") if is_key(found.key))
        while batch := list(islice(keys, MAX_BATCH)):
            self.adopt(batch, quiet_seconds, now)

    def remove_unknown_volumes(self, keeps: Callable[[str], bool], now: dt.datetime) -> None:
        keys = (found.key for found in self.store.objects(VOLUMES) if not keeps(found.key))
        while batch := list(islice(keys, MAX_BATCH)):
            self._places.remove(batch, now)


MAX_FETCHED_BYTES, MIN_FETCHED_FILES = 1_000_000_000, 16
"""Of the copies of a process without the lock; more go when others come, the oldest first, but never the last ones."""


@contextmanager
def fetching(root: Path, store: ObjectStore, host_of: HostOf = no_other) -> Iterator[LocalFile]:
    """Yield what gives the files of an archive to a process that does not hold its lock.

    Files that only the store has are copied into a temporary folder. What it yields waits for other hosts and raises
    errors as `CachedStore.local` does, but does not compare the objects of instances.
    """
    hosts = Hosts(host_of)
    with TemporaryDirectory(prefix="voxelnode-") as folder:
        fetched: deque[tuple[Path, int]] = deque()

        def local(file: ArchivedFile) -> Path:
            path = root / file.key
            if path.exists():
                return path
            copy = Path(folder, file.key)
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                if not _is_fetched(store, file.key, copy):
                    hosts.wait(file.key)
                    _is_fetched(store, file.key, copy)
                if is_of_revision(file.key):
                    problem = problem_with(copy, file.data_set_offset, file.bytes, file.sha256)
                    if problem is not None:
                        copy.unlink(missing_ok=True)
                        raise (
                            FileNotFoundError(errno.ENOENT, LOST)
                            if problem == MISSING
                            else OSError(errno.EIO, f"its object {problem}: run `voxelnode fsck --hash`")
                        )
                fetched.append((copy, file.bytes))
                while len(fetched) > MIN_FETCHED_FILES and sum(size for _, size in fetched) > MAX_FETCHED_BYTES:
                    fetched.popleft()[0].unlink(missing_ok=True)
            return copy

        yield local


def _is_fetched(store: ObjectStore, key: str, into: Path) -> bool:
    try:
        store.fetch(key, into)
    except FileNotFoundError:
        return False
    return True


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
        return Copied(instances, places.count_spooled(), files, places.count_spooled_files())
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
