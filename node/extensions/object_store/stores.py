"""Object stores: what all of them do, the trial of one, and a folder on another file system."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from node.archive.base import ArchivedFile, StoreAway
from node.archive.intact import MISSING, digest_problem, length_problem
from node.archive.space import reason_of
from node.files.durable import NO_LINKS, make_folder, sync_file, sync_folder, write_all
from node.index.rows.records import RevisionFile
from node.runtime.failpoints import reached

if TYPE_CHECKING:
    from _typeshed import SupportsRead


MAX_WHOLE_BYTES, PART_BYTES = 16_000_000, 16_000_000
"""Length of an object beyond which it is sent in parts, and that of a part."""


FETCH_BYTES = 1 << 20

INCOMING = "incoming"
"""Folder of a store that is a folder, for objects that are not whole yet."""

PART_SECONDS = 86400.0
"""Time after which nobody writes to the part of an object any more. An upload that lost its part is done again."""


class ObjectNotTaken(Exception):
    """The object store refuses one object; the message has neither its name nor its content."""


CONTENT, OTHER_CONTENT = b"voxelnode tries its object store", b"voxelnode replaces what it wrote"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a store; `sha256` is that of the data set, if the store keeps it beside the object."""

    key: str
    bytes: int
    written_at: float
    sha256: str | None = None


class ObjectStore(Protocol):
    """A store of objects, by archive key. Thread-safe.

    Every method raises `StoreAway` unless the store has answered.

    `place`: where it is, for messages; without credentials.
    """

    place: str

    def put(self, file: ArchivedFile, content: bytes | Path, *, replace: bool = False) -> bool:
        """Create the object of a file from its bytes or, in parts, from a local path; durable when this returns.

        False if there is an object with this key already, which is left as it is. Raises FileNotFoundError if there is
        no local file.
        """

    def put_bytes(self, key: str, content: bytes) -> bool:
        """Create a small object; as `put`."""

    def find(self, key: str) -> StoredObject | None:
        """Return what the store has under a key, or None."""

    def content(self, key: str) -> Iterator[memoryview]:
        """Yield an object piece by piece; raises FileNotFoundError if there is none with this key."""

    def fetch(self, key: str, into: Path) -> None:
        """Copy an object to a new local file; raises as `content` does, and OSError if the file cannot be written."""
        content = self.content(key)
        piece = next(content, None)
        with open(into, "xb", buffering=0, opener=_opened_privately) as output:  # made once there is an object
            while piece is not None:
                write_all(output.fileno(), piece)
                piece = next(content, None)

    def digest(self, key: str, offset: int) -> tuple[int, str]:
        """Return the length and the SHA-256 of an object from an offset on; raises as `content` does."""
        digest, length = hashlib.sha256(), 0
        for piece in self.content(key):
            digest.update(piece[max(offset - length, 0) :])
            length += len(piece)
        return length - offset, digest.hexdigest()

    def checksum_problem(self, key: str, content: bytes) -> str | None:
        """Return how the store takes an object whose checksum is wrong; None if it refuses it, or none is sent.

        No object stays under the key, which must be free.
        """

    def sweep(self) -> None:
        """Remove what uploads of this host have left that a kill interrupted; before its first upload."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist are no error."""

    def objects(self, folder: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with ``folder/``, in any order."""


LINKS_NEEDED = (
    "this file system has no hard links, without which two hosts could replace each other's objects: mount one that "
    "has, such as NFS 4 or CephFS, or give [storage] url a bucket (s3://)"
)


class FolderStore(ObjectStore):
    """A folder, such as a mounted file system; files are synced, and created only where there is none.

    The folder must exist: a file system that is not mounted is not an empty store.

    An object is written below ``incoming`` and gets its name when it is whole. There each host has a folder of its own,
    which it empties when it starts; what a host leaves that never comes back goes after `PART_SECONDS`.
    """

    def __init__(self, folder: Path, host: str | None) -> None:
        self._folder, self.place = folder, f"file://{folder}"
        self._incoming = folder / INCOMING
        self._parts = self._incoming if host is None else self._incoming / (host or "node")

    def put(self, file: ArchivedFile, content: bytes | Path, *, replace: bool = False) -> bool:
        if isinstance(content, bytes):
            return self._put(file.key, BytesIO(content), replace=replace)
        with content.open("rb", buffering=0) as parts:
            return self._put(file.key, parts, replace=replace)

    def put_bytes(self, key: str, content: bytes) -> bool:
        return self._put(key, BytesIO(content), replace=False)

    def _put(self, key: str, content: SupportsRead[bytes], *, replace: bool) -> bool:
        with self._asking():
            target = self._path(key)
            if not replace and target.exists():
                return False
            for folder in (target.parent, self._parts):
                if not folder.is_dir():
                    make_folder(folder)
            part = self._parts / f"{uuid.uuid4().hex}.part"
            try:
                with open(part, "xb", opener=_opened_privately) as output:
                    shutil.copyfileobj(content, output, FETCH_BYTES)
                sync_file(part)
                reached("object-written")
                if replace:
                    os.replace(part, target)
                else:
                    try:
                        os.link(part, target)
                    except FileExistsError:
                        return False
                    except OSError as error:
                        if error.errno not in NO_LINKS:
                            raise
                        name = errno.errorcode[error.errno]
                        raise StoreAway(f"{self.place}: {name}: {LINKS_NEEDED}") from error
            finally:
                part.unlink(missing_ok=True)
            sync_folder(target.parent)
        return True

    def find(self, key: str) -> StoredObject | None:
        with self._asking():
            try:
                status = self._path(key).stat()
            except FileNotFoundError:
                return None
        return StoredObject(key, status.st_size, status.st_mtime)

    def content(self, key: str) -> Iterator[memoryview]:
        with self._asking():
            source = self._path(key).open("rb", buffering=0)
        with source:
            while True:
                with self._asking():
                    piece = source.read(FETCH_BYTES)
                if not piece:
                    return
                yield memoryview(piece)

    def checksum_problem(self, key: str, content: bytes) -> str | None:
        """Return None: no checksum is sent, and every file is read back."""

    def sweep(self) -> None:
        with self._asking():
            for part in self._incoming.rglob("*.part"):
                with suppress(FileNotFoundError):
                    if part.parent == self._parts or time.time() - part.stat().st_mtime > PART_SECONDS:
                        part.unlink()

    def delete(self, keys: Sequence[str]) -> None:
        with self._asking():
            touched = set()
            for key in keys:
                path = self._path(key)
                with suppress(FileNotFoundError):
                    path.unlink()
                    touched.add(path.parent)
            for folder in touched:
                sync_folder(folder)

    def objects(self, folder: str) -> Iterator[StoredObject]:
        with self._asking():
            begin = self._path(folder)
        for path in begin.rglob("[!.]*"):  # a removed file that is open on NFS has a dot
            with self._asking():
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
            if not stat.S_ISREG(status.st_mode):
                continue
            yield StoredObject(str(path.relative_to(self._folder)), status.st_size, status.st_mtime)

    def _path(self, key: str) -> Path:
        if not self._folder.is_dir():
            raise StoreAway(f"{self.place} is not there: create it, or mount its file system")
        return self._folder / key

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, StoreAway):
            raise
        except OSError as error:
            raise StoreAway(f"{self.place}: {reason_of(error, self._folder)}") from error


def _opened_privately(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


MARKER = "voxelnode-archive.json"
"""The object that says whose archive the others are."""


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


def try_store(store: ObjectStore, identity: str | None, has_used_store: bool, name: str | None = None) -> str | None:
    """Return what a store does not do as it should, or None; parameters are those of
    `owner_problem`.

    `name`: of the object that is made for it, the same for each trial of one host: a kill leaves it to the next one.
    """
    if (problem := owner_problem(store, identity, has_used_store)) is not None:
        return problem
    trial = RevisionFile(f"trial-{name or uuid.uuid4().hex}", len(CONTENT), sha256(CONTENT).hexdigest())
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


FETCHES = 2
"""Downloads of an object before other bytes than expected are those of the object, and not of the way here."""
