"""The object store behind a local archive, and the local files that are copies of its objects.

A local file is one of two: the only one there is, until its object is in the store and its row says so; or a copy of
that object, which may be removed at any time and is fetched when something reads it. Both have the same path. Copies
have a bound; those in use, and those used in the last minute, stay beyond it.

Readers of instances compare them with their digests themselves, and record damage. Those of volumes do not: an object
of a revision that has other bytes never becomes a local file.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryDirectory
from time import monotonic

import structlog

from node.archive.base import (
    ArchivedFile,
    AwaitedUploads,
    File,
    Found,
    FoundFile,
    LocalFile,
    StoreAway,
    StoreForeign,
    is_of_revision,
)
from node.archive.intact import MISSING, digest_problem, length_problem, problem_with
from node.archive.intake import Intake
from node.extensions.object_store.stores import ObjectNotTaken, ObjectStore, WholeFile
from node.files.durable import make_folder

log = structlog.get_logger()

MARKER = "voxelnode-archive.json"
"""The object that says whose archive the others are."""

IN_FLIGHT = 8
"""Requests at a time."""

AHEAD = 2 * IN_FLIGHT
"""Files that are fetched before they are asked for."""

FETCHES = 2
"""Downloads of an object before other bytes than expected are those of the object, and not of the way here."""

PRESENCE_SECONDS = 5.0
"""Longest wait of instances that come again for whether the store has them."""

MAX_FETCHED_BYTES, MIN_FETCHED_FILES = 1_000_000_000, 16
"""Of the copies of a process without the lock; more go when others come, the oldest first, but never the last ones."""

STAYS_SECONDS = 60.0
"""A copy that was used so short a time ago stays: its reader may be about to open it."""

HOST_SECONDS = 10.0
"""Longest wait of a reader for a file that another host has received, and is about to move to the store."""

HOST_LOOK_SECONDS = 0.2
"""Interval at which that wait looks at the index."""

DAMAGE = (errno.EIO, errno.ENOENT)
"""Of the errors of a file of a revision that the store has not, or with other bytes."""

LOST = "neither the disk nor the object store has it"

_LOCKS = 64

HostOf = Callable[[str], str | None]
"""Asks the index which other host alone has the file with a key; see `node.extensions.object_store.places`."""


class HostAway(StoreAway):
    """The object store does not have a file yet, which another host is to move there."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"host {host} alone has the file, and has not moved it to the object store yet: try again when {host} runs"
        )


def _no_other(key: str) -> None:
    """Return None: no other host shares the store."""


@dataclass(slots=True)
class _Copy:
    bytes: int
    used_at: float


class _Hosts:
    """The other hosts that share a store, and waits for what they are about to move there. Thread-safe.

    `seconds`: longest wait. `closing`: ends waits.
    """

    def __init__(self, host_of: HostOf) -> None:
        self._host_of = host_of
        self._in_vain: dict[str, float] = {}  # until when nobody waits for a host
        self.seconds = HOST_SECONDS
        self.closing = threading.Event()

    def wait(self, key: str) -> None:
        """Wait while another host alone has a file; not again for a host that was just awaited in vain."""
        deadline = monotonic() + self.seconds
        while (host := self._host_of(key)) is not None:
            now = monotonic()
            if now < self._in_vain.get(host, 0.0):
                raise HostAway(host)
            if now >= deadline:
                self._in_vain[host] = now + self.seconds
                raise HostAway(host)
            if self.closing.wait(HOST_LOOK_SECONDS):
                raise HostAway(host)


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
        host_of: HostOf = _no_other,
    ) -> None:
        self.store = store
        self.identity = identity
        self.stays_seconds, self.hosts = STAYS_SECONDS, _Hosts(host_of)
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


@contextmanager
def fetching(root: Path, store: ObjectStore, host_of: HostOf = _no_other) -> Iterator[LocalFile]:
    """Yield what gives the files of an archive to a process that does not hold its lock.

    Files that only the store has are copied into a temporary folder. What it yields waits for other hosts and raises
    errors as `CachedStore.local` does, but does not compare the objects of instances.
    """
    hosts = _Hosts(host_of)
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


def _digested_problem(found: tuple[int, str], length: int, sha256: str) -> str | None:
    """Return how an object differs from what was received, by what `ObjectStore.digest` found, or None."""
    if found[0] != length:
        return length_problem(found[0], length)
    return None if found[1] == sha256 else digest_problem(found[1], sha256)


def problem_in_store(store: ObjectStore, file: ArchivedFile) -> str | None:
    """Return how the object of a file differs from what was received; None if it is whole.

    One that differs is read again: the bytes may have changed on their way.
    """
    problem = None
    for _ in range(FETCHES):
        try:
            found = store.digest(file.key, file.data_set_offset)
        except FileNotFoundError:
            return MISSING
        if (problem := _digested_problem(found, file.bytes, file.sha256)) is None:
            return None
    return problem


def owner_problem(store: ObjectStore, identity: str | None, has_used_store: bool) -> str | None:
    """Return why a store is not that of an archive, or None.

    `identity`: of the archive; None if it has none yet. `has_used_store`: whether the archive has made a store its own
    before: its store has a marker.
    """
    found = marked(store)
    if found is None and has_used_store:
        return f"{store.place} is of no archive: {MARKER} is missing"
    if found in (None, identity):
        return None
    remedy = "choose another prefix"
    if identity is not None:
        remedy = "correct [storage] url; if the index of this root was lost, run `voxelnode db rebuild`"
    return f"{store.place} is of another archive: {remedy}"


def marked(store: ObjectStore) -> str | None:
    """Return the identity of the archive to which a store belongs, or None."""
    with TemporaryDirectory(prefix="voxelnode-") as folder:
        copy = Path(folder, "marker")
        try:
            store.fetch(MARKER, copy)
            return str(json.loads(copy.read_bytes())["archive"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreAway(f"{store.place}: {MARKER} is damaged") from error


CONTENT, OTHER_CONTENT = b"voxelnode tries its object store", b"voxelnode replaces what it wrote"


def try_store(store: ObjectStore, identity: str | None, has_used_store: bool, name: str | None = None) -> str | None:
    """Return what a store does not do as it should, or None; parameters are those of
    `owner_problem`.

    `name`: of the object that is made for it, the same for each trial of one host: a kill leaves it to the next one.
    """
    if (problem := owner_problem(store, identity, has_used_store)) is not None:
        return problem
    trial = WholeFile(f"trial-{name or uuid.uuid4().hex}", len(CONTENT), sha256(CONTENT).hexdigest())
    store.delete([trial.key])
    try:
        if not store.put(trial, CONTENT):
            return f"{store.place} has an object under a name that was never used"
        if (problem := _trial_problem(store, trial, CONTENT)) is not None:
            return problem
        if store.put(trial, OTHER_CONTENT):
            return f"{store.place} replaces an object that should only be created: it does not honour If-None-Match"
        store.put(trial, OTHER_CONTENT, replace=True)
        if (problem := _trial_problem(store, trial, OTHER_CONTENT)) is not None:
            return problem
    finally:
        store.delete([trial.key])
    if store.find(trial.key) is not None:
        return f"{store.place} still has an object that was removed"
    return None


def checksum_problem(store: ObjectStore, name: str | None = None) -> str | None:
    """Return how a store takes an object whose checksum is wrong, or None; `name` as for `try_store`."""
    trial = f"trial-{name or uuid.uuid4().hex}"
    store.delete([trial])
    return store.checksum_problem(trial, CONTENT)


def _trial_problem(store: ObjectStore, trial: ArchivedFile, content: bytes) -> str | None:
    """Return how a store does not keep the object that it has just confirmed, or None."""
    try:
        length, digest = store.digest(trial.key, 0)
    except FileNotFoundError:
        return f"{store.place} confirms an object and does not keep it"
    if length != len(content):
        return f"{store.place} returns {length} bytes of an object of {len(content)}"
    return None if digest == sha256(content).hexdigest() else f"{store.place} returns other bytes than it was given"
