"""The object store behind a local archive, and the local files that are copies of its objects.

A local file is one of two: the only one there is, until its object is in the store and its row says so; or a copy of
that object, which may be removed at any time and is fetched when something reads it. Both have the same path. Copies
have a bound; those in use, and those used in the last minute, stay beyond it.

Readers of instances compare them with their digests themselves, and record damage. Those of volumes do not: an object
of a revision that has other bytes never becomes a local file.
"""

import errno
import json
import os
import threading
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from time import monotonic

import structlog

from node.archive.base import (
    ArchivedFile,
    AwaitedUploads,
    File,
    Found,
    FoundFile,
    StoreAway,
    StoreForeign,
    is_of_revision,
)
from node.archive.intact import MISSING, problem_with
from node.archive.intake import Intake
from node.extensions.object_store.places import HostOf, Hosts
from node.extensions.object_store.stores import (
    FETCHES,
    MARKER,
    ObjectNotTaken,
    ObjectStore,
    checksum_problem,
    owner_problem,
    problem_in_store,
    try_store,
)
from node.files.durable import make_folder

log = structlog.get_logger()


IN_FLIGHT = 8
"""Requests at a time."""

AHEAD = 2 * IN_FLIGHT
"""Files that are fetched before they are asked for."""


PRESENCE_SECONDS = 5.0
"""Longest wait of instances that come again for whether the store has them."""


STAYS_SECONDS = 60.0
"""A copy that was used so short a time ago stays: its reader may be about to open it."""


DAMAGE = (errno.EIO, errno.ENOENT)
"""Of the errors of a file of a revision that the store has not, or with other bytes."""

LOST = "neither the disk nor the object store has it"

_LOCKS = 64


def no_other(key: str) -> None:
    """Return None: no other host shares the store."""


@dataclass(slots=True)
class _Copy:
    bytes: int
    used_at: float


class CachedStore:
    """The store of one archive, and the copies of its objects: most of a `node.archive.base.Remote`. Thread-safe.

    `root`: of the local archive.
    `intake`: of the same root; nothing is fetched while its disk has no room.
    `cache_bytes`: bound of the local copies.
    `identity`: of this archive. A store of another one is never read or written.
    """

    def __init__(
        self,
        store: ObjectStore,
        root: Path,
        intake: Intake,
        cache_bytes: int,
        identity: str,
        host_of: HostOf = no_other,
    ) -> None:
        self.store = store
        self.identity = identity
        self.stays_seconds, self.hosts = STAYS_SECONDS, Hosts(host_of)
        self._root, self._intake, self._cache_bytes = root, intake, cache_bytes
        self.is_away = False
        self.foreign: str | None = None
        self.unkept: str | None = None
        self.awaited: AwaitedUploads | None = None
        self._is_own = False
        self._lock = threading.Lock()  # guards the next five
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._bytes = 0
        self._held: Counter[str] = Counter()
        self._lost: list[str] = []
        self._trimming = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._fetching = [threading.Lock() for _ in range(_LOCKS)]

    @property
    def threads(self) -> ThreadPoolExecutor:
        """The threads of requests to the store."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="objects")
            return self._threads

    def close(self) -> None:
        """End the threads."""
        self.hosts.closing.set()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def attach(self) -> None:
        """Make the store that of this archive if it is of none yet; only before anything is in it.

        Raises StoreAway if it does not answer, or it is of another archive.
        """
        if not self._is_own:
            self.store.put_bytes(MARKER, json.dumps({"archive": self.identity}).encode())
            self.require_own()

    def require_own(self) -> None:
        """Raise unless the store is that of this archive: another one has none of its objects."""
        if self._is_own:
            return
        if (problem := owner_problem(self.store, self.identity, has_used_store=True)) is not None:
            raise StoreForeign(problem)
        self._is_own = True

    def trial_problem(self) -> str | None:
        """Return what the store does not do as it should, or None; see `try_store`."""
        return try_store(self.store, self.identity, has_used_store=True, name=self._name_of_trials())

    def checksum_problem(self) -> str | None:
        """Return how the store takes an object whose checksum is wrong, or None."""
        return checksum_problem(self.store, self._name_of_trials())

    def _name_of_trials(self) -> str:
        return uuid.uuid5(uuid.NAMESPACE_URL, f"{gethostname()} {self._root}").hex

    def local(self, file: ArchivedFile) -> Path:
        """Return the path of the local file, which is fetched if it is only in the store.

        If the store has no object of an instance either, there is no file; if the object has other bytes, the file has
        them too.

        Raises HostAway: another host alone has the file, and does not move it to the store within `HOST_SECONDS`.
        Raises FileNotFoundError: a file of a revision is neither here nor in the store.
        Raises OSError: there is no room for it, or the object of a file of a revision has other bytes.
        """
        path = self._root / file.key
        with self._lock:
            if (copy := self._copies.get(file.key)) is not None:
                copy.used_at = monotonic()
                self._copies.move_to_end(file.key)
        if copy is not None and is_of_revision(file.key) and copy.bytes != file.bytes:
            self.forget(file.key)  # of a sidecar that another host has written again
        if not path.exists() and not self._fetch(file, path):
            self.hosts.wait(file.key)
            self._fetch(file, path)  # a host may have moved it since we asked the store
            if is_of_revision(file.key) and not path.exists():
                raise FileNotFoundError(errno.ENOENT, LOST)
        return path

    def ahead(self, files: Iterable[File]) -> Iterator[File]:
        """Yield files in their order, while those that follow are fetched."""
        following: deque[tuple[File, Future[object] | None]] = deque()
        for file in files:
            is_local = (self._root / file.key).exists()
            following.append((file, None if is_local else self.threads.submit(self._try_fetch, file)))
            if len(following) > AHEAD:
                yield self._received(*following.popleft())
        while following:
            yield self._received(*following.popleft())

    @contextmanager
    def held(self, files: Sequence[ArchivedFile], *, damaged: bool = False) -> Iterator[None]:
        """Fetch files, and keep all of them during the block.

        `damaged`: leave out files of revisions that the store has not, or with other bytes. Raises OSError if there is
        no room for them, or a file of a revision cannot be had.
        """
        keys = [file.key for file in files]
        with self._lock:
            self._held.update(keys)
        try:
            absent = [file for file in files if not (self._root / file.key).exists()]
            for _ in self.threads.map(self._fetch_whole if damaged else self.local, absent) if absent else ():
                pass
            yield
        finally:
            with self._lock:
                self._held.subtract(keys)
                self._held = +self._held
            self.trim()

    def refreshed(self, file: ArchivedFile) -> str | None:
        """Fetch the object of a file whose local file is missing or damaged.

        None if the local file is whole now; else how the object differs from what was received, and the local file is
        left as it is. Raises OSError if there is no room for it.
        """
        path = self._root / file.key
        with self._fetching[hash(file.key) % _LOCKS]:
            part, problem = self._downloaded(file)
            try:
                if problem is None:
                    self._place(part, file, path)
            finally:
                part.unlink(missing_ok=True)
        return problem

    def has(self, file: FoundFile) -> bool:
        """Return whether the store has the object of a file, by its noted digest, and its length if that is known."""
        self.require_own()
        found = self.store.find(file.key)
        if found is None:
            self.recheck()
            return False
        is_of_length = file.bytes is None or found.bytes == (file.data_set_offset or 0) + file.bytes
        return is_of_length and found.sha256 in (None, file.sha256)

    def presence(self, files: Sequence[Found]) -> Iterator[tuple[Found, bool | None]]:
        """Yield whether the store has the object of each file; None if it does not say so soon."""
        if self.is_away:
            yield from ((file, None) for file in files)
            return
        asked = [(file, self.threads.submit(self.has, file)) for file in files]
        deadline = monotonic() + PRESENCE_SECONDS
        for file, answer in asked:
            try:
                yield file, answer.result(max(0.0, deadline - monotonic()))
            except (OSError, TimeoutError):
                yield file, None

    def object_problem(self, file: ArchivedFile) -> str | None:
        """Return how the object of a file differs from what was received; None if it is whole.

        Reads all of it, and writes none of it. Raises OSError if the store does not answer.
        """
        self.require_own()
        problem = problem_in_store(self.store, file)
        if problem == MISSING:
            self.recheck()
        return problem

    def object_problems(self, files: Sequence[ArchivedFile]) -> Iterator[str | None]:
        """See `node.archive.base.Remote.object_problems`."""
        return self.threads.map(self.object_problem, files)

    def has_any(self, folder: str) -> bool:
        """See `node.archive.base.Remote`."""
        self.require_own()
        return next(self.store.objects(folder), None) is not None

    def downloaded(self, key: str) -> Path | None:
        """Copy an object of any content to a new file in `incoming`, and return its path; None if there is none.

        Raises OSError if there is no room for it.
        """
        self.require_own()
        part = self._new_part()
        try:
            self.store.fetch(key, part)
        except FileNotFoundError:
            self.recheck()
            return None
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part

    def keep(self, keys: Iterable[str]) -> None:
        """Take local files as copies no more: they stay."""
        with self._lock:
            for key in keys:
                if (copy := self._copies.pop(key, None)) is not None:
                    self._bytes -= copy.bytes

    def withdraw(self, keys: Sequence[str]) -> None:
        """See `node.archive.base.Remote`."""
        self.keep(keys)
        with suppress(StoreForeign):  # nothing of ours was moved there yet
            self.require_own()
            self.store.delete(keys)

    def release(self) -> None:
        """Make the store that of no archive."""
        self.store.delete([MARKER])
        self._is_own = False

    def forget(self, key: str) -> None:
        """Remove the local copy of an object that was removed."""
        with self._fetching[hash(key) % _LOCKS], self._lock:
            if (copy := self._copies.pop(key, None)) is not None:
                self._bytes -= copy.bytes
            path = self._root / key
            path.unlink(missing_ok=True)
            if is_of_revision(key):  # its folder may be there again, because of a reader
                with suppress(OSError):
                    path.parent.rmdir()

    @property
    def is_over(self) -> bool:
        """Whether there are more copies than their bound allows."""
        return self._bytes > self._cache_bytes

    def note_copies(self, files: Iterable[tuple[str, int]]) -> None:
        """Take local files (keys and lengths) as copies: their rows say that the store has them."""
        now = monotonic()
        with self._lock:
            for key, length in files:
                self._note(key, length, now)
        self.trim()

    def trim(self) -> None:
        """Remove copies until they keep their bound, and while the disk has little room.

        A copy goes only if the store says that it has the object, in its length: a file whose object was lost since its
        upload is the last one. Such files stay, and are in `take_lost`. While the store is away, all copies stay.
        """
        with self._trimming, suppress(StoreAway, ObjectNotTaken):
            while (oldest := self._oldest()) is not None:
                key, copy, used_at = oldest
                found = self.store.find(key)
                if found is None:
                    self.recheck()
                with self._lock:
                    if self._copies.get(key) is not copy or copy.used_at != used_at or key in self._held:
                        continue
                    self._bytes -= self._copies.pop(key).bytes
                    if found is None or found.bytes != copy.bytes:
                        self._lost.append(key)
                    else:
                        with suppress(OSError):  # within the lock: `local` finds a file or fetches it
                            os.unlink(self._root / key)

    def _oldest(self) -> tuple[str, _Copy, float] | None:
        """Return the copy that is to go next, and when it was used; None if all may stay."""
        is_short = self._intake.refusal() is not None
        with self._lock:
            if self._bytes <= (0 if is_short else self._cache_bytes):
                return None
            latest = monotonic() - self.stays_seconds
            for key, copy in self._copies.items():
                if copy.used_at > latest:
                    return None
                if key not in self._held:
                    return key, copy, copy.used_at
        return None

    def take_lost(self) -> list[str]:
        """Return the keys of the local files whose objects the store was found to have lost, once."""
        with self._lock:
            lost, self._lost = self._lost, []
        return lost

    def _fetch_whole(self, file: ArchivedFile) -> None:
        try:
            self.local(file)
        except OSError as error:
            if error.errno not in DAMAGE:
                raise

    def _try_fetch(self, file: ArchivedFile) -> None:
        with suppress(OSError):  # the reader meets it again
            self.local(file)

    @staticmethod
    def _received(file: File, fetch: Future[object] | None) -> File:
        if fetch is not None:
            fetch.result()
        return file

    def _fetch(self, file: ArchivedFile, path: Path) -> bool:
        """Copy an object to its local file; return False if there is none."""
        with self._fetching[hash(file.key) % _LOCKS]:
            if path.exists():
                return True
            part, problem = self._downloaded(file)
            try:
                if problem not in (None, MISSING) and is_of_revision(file.key):
                    raise OSError(errno.EIO, f"its object {problem}: run `voxelnode fsck --hash`")
                if problem != MISSING:
                    self._place(part, file, path)
            finally:
                part.unlink(missing_ok=True)
        return problem != MISSING

    def _place(self, part: Path, file: ArchivedFile, path: Path) -> None:
        if not path.parent.is_dir():
            make_folder(path.parent)
        length = part.stat().st_size
        os.replace(part, path)
        with self._lock:
            self._note(file.key, length, monotonic())
        self.trim()

    def _note(self, key: str, length: int, now: float) -> None:
        if (known := self._copies.pop(key, None)) is not None:
            self._bytes -= known.bytes
        self._copies[key] = _Copy(length, now)
        self._bytes += length

    def _downloaded(self, file: ArchivedFile) -> tuple[Path, str | None]:
        """Copy an object into a part file; return it, and how it differs from what was received."""
        part, problem = self.downloaded(file.key), None
        for attempt in range(FETCHES):
            if part is None:
                return self._new_part(), MISSING
            problem = problem_with(part, file.data_set_offset, file.bytes, file.sha256)
            if problem is None or attempt + 1 == FETCHES:
                break
            part.unlink(missing_ok=True)
            part = self.downloaded(file.key)
        assert part is not None
        return part, problem

    def _new_part(self) -> Path:
        """Return the path of a new part file, if the disk has room for it."""
        if not self._intake.has_room():
            self.trim()
            if (lack := self._intake.waits_for()) is not None:
                raise OSError(errno.ENOSPC, f"no room for files of the object store: {lack}")
        return self._root / "incoming" / f"{uuid.uuid4().hex}.part"

    def recheck(self) -> None:
        """Look again whether the store is ours: an emptied or exchanged one has no objects either."""
        self._is_own = False
        self.require_own()
