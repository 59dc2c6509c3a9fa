"""Move files to the object store, and remove the objects that nobody needs any more.

Instances move behind their acknowledgement, the files of a revision behind the outcome of their conversion:

    local file, compared with its digest -> object, created if there is none -> rows of a batch, one durable commit
                                         -> the local file is a copy, which may be removed

If the process dies in between, the file is still there, and the object is found to be there already when it is put
again. While the store is away, files stay on the local disk.
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from time import monotonic

import structlog

from node.archive.base import VOLUMES, StoreAway, StoreForeign, is_of_revision
from node.archive.base import Uploads as UploadService
from node.archive.filesystem import Archive, is_key
from node.archive.intact import MISSING, problem_with
from node.conversion.volume_files import stored_files
from node.extensions.object_store.places import AwaitedObjects, PlaceRepository
from node.extensions.object_store.remote import IN_FLIGHT, CachedStore
from node.extensions.object_store.stores import MAX_WHOLE_BYTES, ObjectNotTaken
from node.index.database import Index
from node.index.rows.about_keys import STORE_CHECKSUMS, STORE_SPOOLED
from node.index.rows.models.levels import STORE
from node.index.rows.records import InstanceFile, RevisionFile
from node.lifecycle.deletion import unlink
from node.receive.stored_files import report_damage
from node.runtime.failpoints import reached
from node.runtime.metrics import Metrics

log = structlog.get_logger()

BATCH = 128
"""Files whose rows are committed together."""

REVISIONS = 16
"""Revisions from before the store that are looked at in one step."""

REMOVALS = 500

FILE_DEPTH = 4
"""Slashes in the key of a file of a revision; its folder has fewer."""

GATHER_SECONDS = 0.2
"""Between a commit and the batch that it may have work for."""

RETRY_SECONDS = 60.0
"""Wait before what the store or the disk refused for its own sake is tried again."""

MARKS_SECONDS, MAX_MARKS_SECONDS = 30.0, 3600.0
"""Waits between comparisons of objects whose instances are marked as damaged; doubled while none is whole again."""

MAX_KEYS = 1000
"""Keys in one question to the index."""

LOOK_SECONDS = 0.5
"""Interval at which a wait for an upload looks whether the node stops."""

MIN_AWAY_SECONDS, MAX_AWAY_SECONDS = 2.0, 60.0
"""Waits for a store that is away."""

MAX_AWAITED_SECONDS = 5.0
"""Longest of them if senders wait for uploads: until the store is back, they are refused."""


class ObjectUploads(UploadService):
    """Uploads and removals of an archive that has an object store.

    `awaited`: senders wait for the upload of what they send: it goes first.

    `away`: why nothing can be moved now.
    `moved`: instances, and files of revisions, that were moved.
    """

    def __init__(
        self,
        archive: Archive,
        remote: CachedStore,
        index: Index,
        metrics: Metrics,
        *,
        awaited: bool = False,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("uploads")
        self._archive, self._remote, self._index, self._now = archive, remote, index, now
        self._places = index.repository(PlaceRepository)
        self._has_begun = False
        self._after = ""  # the last key that this round has seen
        self._refused = 0  # files of this round that are left
        self._unkept: str | None = None  # how an object of this batch differs from what was put
        self._has_news = False  # rows were written in this round: their keys may be behind it
        self._is_first_round = True
        self._noted = 0  # the last revision from before the store that was looked at
        self._attempts = 0
        self._marks_after, self._marks_at, self._marks_seconds, self._has_marks = "", 0.0, MARKS_SECONDS, False
        self._was_awaited = False
        self._awaited = remote.awaited = AwaitedObjects(self.wake) if awaited else None
        self.away: str | None = None
        self.moved = 0, 0
        metrics.object_store_up.set_function(lambda: float((self.away or remote.unkept) is None))
        self._spooled = metrics.spooled_instances
        self._spooled_files = metrics.spooled_volume_files
        self._uploaded = metrics.uploaded_instances
        index.commit_listeners.append(self._wake_by_commit)

    def step(self) -> float | None:
        """Move one batch, and remove what is to be removed."""
        self._spooled.set(self._places.count_spooled())
        self._spooled_files.set(self._places.count_spooled_files())
        self.remove_local()
        try:
            seconds = self.move_batch()
        except StoreAway as error:
            if self.away is None:
                log.warning("object_store_away", reason=error.strerror)
            self._remote.is_away, self._after = True, ""
            self._remote.foreign = error.strerror if isinstance(error, StoreForeign) else None
            self._attempts, self.away = self._attempts + 1, str(error.strerror)
            longest = MAX_AWAY_SECONDS if self._awaited is None else MAX_AWAITED_SECONDS
            return float(min(MIN_AWAY_SECONDS * 2.0 ** min(self._attempts - 1, 10), longest))
        if self.away is not None:
            log.info("object_store_back")
        self._remote.is_away, self._remote.foreign = False, None
        self._attempts, self.away = 0, None
        return seconds

    def move_batch(self) -> float | None:
        """Do one step; return the seconds until the next."""
        self.begin()
        self._remote.require_own()
        if self._awaited is not None and not self._was_awaited and (batch := self._batch_of(self._awaited)):
            self._was_awaited = True  # in turn with all else
            self._upload(batch)
            return 0.0
        self._was_awaited = False
        if (taken := self._remote.take_lost()) and (lost := sorted(self._places.named(taken))):  # not deleted
            log.error("objects_lost", count=len(lost), reason="the store had them, and has them no more: put again")
            self._places.record_spooled(lost)
            self._after = ""
        waiting = self.remove_objects()
        if not self._after:
            self._has_news = False
        limit = BATCH if self._awaited is None else IN_FLIGHT
        batch = self._places.spooled(self._after, limit, missing=self._is_first_round)
        if batch:
            self._after = batch[-1].key
            self._upload(batch)
            return 0.0
        if self._note_revisions():
            return 0.0
        refused, self._refused = self._refused, 0
        self._after, self._is_first_round = "", False
        waits_for_marks = self._take_marks_away()
        self._remote.trim()
        if self._has_news or (self._awaited is not None and self._awaited.keys(1)):  # since its last turn
            return 0.0
        return RETRY_SECONDS if refused or waiting or waits_for_marks or self._remote.is_over else None

    def _take_marks_away(self) -> bool:
        """Compare objects of instances that are marked as damaged; return whether some are left.

        One bad read on the way from the store, or an object that came back, is not a loss.
        """
        now = monotonic()
        if now < self._marks_at:
            return self._has_marks
        files = self._places.marked(self._marks_after, BATCH)
        self._marks_after = files[-1].key if len(files) == BATCH else ""
        problems = self._remote.object_problems(files)
        whole = [file.key for file, problem in zip(files, problems, strict=True) if problem is None]
        if whole:
            self._index.instances.mark_files(whole, missing=False, now=self._now())
        self._has_marks = bool(self._marks_after) or len(whole) < len(files)
        self._marks_seconds = MARKS_SECONDS if whole else min(2 * self._marks_seconds, MAX_MARKS_SECONDS)
        self._marks_at = now + (self._marks_seconds if self._has_marks else 0.0)
        return self._has_marks

    def _batch_of(self, awaited: AwaitedObjects) -> list[InstanceFile | RevisionFile]:
        """Return instances for whose upload somebody waits."""
        keys = awaited.keys(BATCH)
        files = self._places.of_keys(keys) if keys else []
        awaited.stored([file.key for file in files if file.place == STORE])
        awaited.failed(set(keys) - {file.key for file in files}, "the instance was deleted or replaced meanwhile")
        return [file for file in files if file.place != STORE]

    def _close(self) -> None:
        if self._awaited is not None:
            self._awaited.close()

    def finish(self, seconds: float) -> int:
        """Wait until all is in the store, for `seconds` at most; return how many files are not."""
        deadline = monotonic() + seconds
        while True:
            left = self._places.count_spooled() + self._places.count_spooled_files()
            if not left or self.away is not None or monotonic() >= deadline:
                return left
            self.wake()
            self._stopping.wait(LOOK_SECONDS)

    def _wake_by_commit(self) -> None:
        self._has_news = True
        if self.away is None:
            self.wake(GATHER_SECONDS)

    def begin(self) -> None:
        """Note what came before there was a store as to be moved, and which local files are copies; once."""
        if self._has_begun:
            return
        if self._index.about.get(STORE_SPOOLED) != "yes":  # later, an empty store is not ours
            self._remote.attach()
            self._places.spool_all()
        self._remote.require_own()
        self._remote.unkept = self._remote.trial_problem()
        if self._remote.unkept is not None:
            raise StoreAway(self._remote.unkept)
        self._note_checksums()
        self._remote.store.sweep()
        for folder in self._archive.local_folders():
            self._note_copies(self._places.stored_among(self._archive.keys(folder)))
        for study in self._archive.path(VOLUMES).glob("*"):
            keys = [str(path.relative_to(self._archive.root)) for path in study.glob("*/*/*")]
            for begin in range(0, len(keys), MAX_KEYS):
                self._note_copies(self._places.stored_among(keys[begin : begin + MAX_KEYS]))
        self._has_begun = True

    def _note_checksums(self) -> None:
        """Note in the index, for the status, whether the store looks at checksums."""
        problem = self._remote.checksum_problem() or ""
        if problem:
            log.warning("object_store_ignores_checksums", reason=problem)
        if (self._index.about.get(STORE_CHECKSUMS) or "") != problem:
            self._index.about.set(STORE_CHECKSUMS, problem)

    def _note_revisions(self) -> bool:
        """Note the files of some revisions from before the store as to be moved; return False if there are none left.

        Those whose folder is missing stay as they are: `voxelnode fsck` says so.
        """
        revisions = self._places.unnoted(self._noted, REVISIONS)
        for revision in revisions:
            self._noted = revision.conversion_id
            with suppress(FileNotFoundError):
                files = stored_files(self._archive.path(revision.folder), revision.folder, revision.sha256)
                self._places.note_files(revision.conversion_id, files)
        if revisions:
            self._after = ""
        return bool(revisions)

    def _note_copies(self, keys: set[str]) -> None:
        found = []
        for key in keys:
            try:
                status = self._archive.path(key).stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, key, status.st_size))
        self._remote.note_copies((key, size) for _, key, size in sorted(found))

    def _upload(self, batch: Sequence[InstanceFile | RevisionFile]) -> None:
        self._unkept = None
        puts = [(file, self._remote.threads.submit(self._put, file)) for file in batch]
        done, refused, away = [], [], None
        for file, put in puts:
            try:
                if self._is_stored(put):
                    done.append(file)
                else:
                    refused.append(file.key)
            except StoreAway as error:
                away = error
        if done:
            self._remote.recheck()  # a file system that was unmounted leaves an empty folder, which takes files as well
            stored = self._places.record_stored(
                [file.key for file in done], self._now(), [file.sha256 for file in done]
            )
            reached("objects-recorded")
            instances = sum(not is_of_revision(key) for key in stored)
            self._uploaded.inc(instances)
            self.moved = self.moved[0] + instances, self.moved[1] + len(stored) - instances
            self._note_copies(stored)
            if self._awaited is not None:
                self._awaited.stored(stored)
        if done or self._unkept is not None:
            self._remote.unkept = None if done else self._unkept
        self._refused += len(refused)
        if self._awaited is not None and not self._stopping.is_set():
            self._awaited.failed(refused, "the object store does not take it: see the log of this node")
        if away is not None:
            raise away

    def _is_stored(self, put: Future[bool]) -> bool:
        """Wait for an upload, unless the node stops: what it uploads then is found to be there by the next one."""
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                return put.result(LOOK_SECONDS)
        return not put.cancel() and put.done() and put.result()

    def _put(self, file: InstanceFile | RevisionFile) -> bool:
        """Put the object of a file; return whether the store has it now, as its row has it."""
        try:
            content, problem = self._content(file)
        except OSError as error:
            log.error("file_unreadable", path=file.key, reason=error.strerror)
            return False
        if problem is not None:
            return self._is_saved(file, problem)
        if isinstance(file, InstanceFile) and file.file_missing:  # its disk is back
            self._index.instances.mark_files([file.key], missing=False, now=self._now())
        try:
            return self._is_put(file, content)
        except ObjectNotTaken as error:
            log.error("object_not_taken", path=file.key, reason=str(error))
        except FileNotFoundError:  # a long file that was deleted meanwhile
            pass
        return False

    def _is_saved(self, file: InstanceFile | RevisionFile, problem: str) -> bool:
        """Return whether the store has what is missing or damaged here.

        Else the damage of an instance is reported, and a file of a revision is made again: so a host that lost its disk
        heals by itself, as volumes are made of instances.
        """
        if self._remote.object_problem(file) is None:
            return True
        if isinstance(file, InstanceFile):
            if not file.file_missing and self._index.instances.named_keys([file.key]):  # else deleted or replaced
                report_damage(self._archive, self._index, file.key, problem, self._now())
        elif self._places.revision_file(file.key) == file:  # else deleted, or a sidecar that was written again
            log.error("volume_damaged", path=file.key, reason=f"{problem}: its series is converted again")
            self._archive.remove(file.key)
            self._index.series.reopen(self._places.current_of(file.key), self._now())
            self._places.record_lost(file.key, self._now())
        return False

    def _is_put(self, file: InstanceFile | RevisionFile, content: bytes | Path) -> bool:
        """Put an object and read it back: an answer of success does not prove that the store has it."""
        is_new = self._remote.store.put(file, content)
        reached("object-put")
        problem = self._remote.object_problem(file)
        if problem is not None and not is_new:
            log.error("object_replaced", path=file.key, reason="the store had other bytes under its key")
            self._remote.store.put(file, content, replace=True)
            problem = self._remote.object_problem(file)
        if problem is not None:
            log.error("object_not_as_received", path=file.key, reason=problem)
            self._unkept = problem
        return problem is None

    def _content(self, file: InstanceFile | RevisionFile) -> tuple[bytes | Path, str | None]:
        """Return the bytes of a file, or the path of a long one, and how it differs from its row."""
        path = self._archive.path(file.key)
        if file.data_set_offset + file.bytes > MAX_WHOLE_BYTES:
            return path, problem_with(path, file.data_set_offset, file.bytes, file.sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return b"", MISSING
        digest = hashlib.sha256(memoryview(content)[file.data_set_offset :]).hexdigest()
        is_whole = digest == file.sha256
        return content, None if is_whole else f"has the SHA-256 {digest} instead of {file.sha256}"

    def _set_aside(self, key: str) -> None:
        """Bring the file of an object to quarantine if a conflict wants it there, and the store has it."""
        aside = self._archive.quarantine_key(key)
        if not self._index.instances.is_loser(aside):
            return
        # Another host may have received the version that replaces it, or this one has, and is about to move it.
        if not self._archive.path(aside).exists() and self._archive.path(key).exists():
            with suppress(FileNotFoundError):
                self._archive.quarantine(key)
        if self._archive.path(aside).exists():
            self._archive.sync([aside])  # it may have been a copy
        elif (part := self._remote.downloaded(key)) is not None:
            self._archive.keep_aside(part, key)

    def remove_local(self) -> None:
        """Remove from this disk what other hosts have deleted or replaced, after its object is gone."""
        paths = self._places.host_removals(REMOVALS)
        if not paths:
            return
        named = self._places.named(paths)
        # This host may have put an object while another one removed it.
        keys = [
            path
            for path in paths
            if path not in named and (is_key(path) or (is_of_revision(path) and path.count("/") == FILE_DEPTH))
        ]
        if keys:
            self._remote.require_own()
            self._remote.store.delete(keys)
        gone = [path for path in paths if path in named or self._is_removed(path)]
        self._places.removed_here(gone)

    def _is_removed(self, path: str) -> bool:
        try:
            if is_key(path) or (is_of_revision(path) and not self._archive.path(path).is_dir()):
                self._remote.forget(path)
            unlink(self._archive, [path])
        except OSError as error:  # tried again; the uploads do not wait for it
            log.error("file_not_removed", path=path, reason=error.strerror)
            return False
        return True

    def remove_objects(self) -> bool:
        """Remove the objects that are to be removed; return whether some are left."""
        keys = self._places.removals(REMOVALS)
        if not keys:
            return False
        named = self._places.named(keys)
        if ready := [key for key in keys if key not in named]:
            for key in ready:
                self._set_aside(key)
            self._remote.store.delete(ready)
        gone = [key for key in ready if self._remote.store.find(key) is None]
        for key in gone:  # somebody may have fetched it since its row went
            self._remote.forget(key)
            self._archive.derived.drop(key)
        reached("objects-removed")
        if gone:
            self._remote.recheck()
        self._places.removed([*gone, *named])
        return len(gone) + len(named) < len(keys)
