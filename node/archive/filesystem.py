"""Instances as files under one root. Only this module makes archive paths.

A name is a fresh UUID, never text from a peer. A file is written again only when a record of the journal is applied
again, with the same bytes. A full folder never changes again, since folder numbers only increase.

    incoming/<uuid>.receiving     a large instance while it is received
    incoming/<uuid>.part          the same once it is durable, until its record is applied
    objects/<number>/<uuid>.dcm   a file, or a symbolic link to the file of a folder that is referred to
    acknowledged/                 the ledger of what was acknowledged (`node.files.acknowledged`)
    quarantine/<uuid>.dcm         kept for a person to examine, in no row of images

Hosts that share an object store each have a root of their own. A host receives into objects/<number>-<host>, and
compares only these with the index; in the folders of other hosts, a root has copies of objects.

Writing a file does not make it durable. The journal keeps its bytes until `sync` has. A file that is referred to is
never written, synced or deleted: only the link to it is ours.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from node.archive.derived import Derived
from node.archive.intake import Ballast, Intake, PartFile, PartLink
from node.archive.root import MARKER, HeldFolders
from node.files.acknowledged import Ledger
from node.files.durable import (
    copy_file,
    make_folder,
    move_aside,
    move_file,
    named_by_content,
    place_aside,
    sync_file,
    sync_file_system,
    sync_folder,
    write_all,
)
from node.runtime.failpoints import reached

if TYPE_CHECKING:
    from node.archive.base import ArchivedFile, LocalFile, Remote

    File = TypeVar("File", bound=ArchivedFile)

MAX_FILES_PER_FOLDER = 1024

NAMES_AT_ONCE = 256
"""Names of files whose random bytes are read together."""

MAX_SINGLE_SYNCS = 256
"""Largest number of files that are synced one by one; for more, one sync of each disk takes less time."""

DOWNLOAD = "download-"
"""How the names of downloads begin that are prepared in the work folder."""

DOWNLOAD_KEPT_SECONDS = 3600.0

_PART = re.compile(r"[0-9a-f]{32}\.part")

_KEY = re.compile(r"objects/[0-9]{8,12}(-[A-Za-z0-9][A-Za-z0-9.-]{0,62})?/[0-9a-f]{32}\.dcm")


def is_key(text: str) -> bool:
    """Return whether a text, such as the name of an object, is a key that `Archive.new_key` may have given."""
    return _KEY.fullmatch(text) is not None


class Archive:
    """The archive under `root`. Thread-safe.

    `root`: created if missing, readable by the owner only.
    `reserve_bytes`, `low_bytes`: see `Intake`.
    `host`: the name of this host, if several share the object store.

    `incoming`, `work`: folders for files that are not finished; the next start of this host empties them.
    `suffix`: of the names of its folders among those of the hosts; empty if there are no others.
    `derived`: what was made of instances for requests.
    `renew`: give the folders a generation (`node.receive.accounting`).
    `acknowledged`: of the instances that were acknowledged here.
    `remote`: the object store behind the local files; None: the local files are all there is.
    """

    def __init__(self, root: Path, reserve_bytes: int = 0, low_bytes: int = 0, *, host: str = "") -> None:
        self.root = root.absolute()
        self.suffix = f"-{host}" if host else ""
        self.incoming = self.root / "incoming"
        self.work = self.root / "work"
        make_folder(self.root)
        self._folders = HeldFolders(self.root)
        self.renew = self._folders.renew
        self._objects, self._quarantine, self._incoming = map(self._own, ("objects/", "quarantine/", "incoming/"))
        self.derived = Derived(self.root)
        self.acknowledged = Ledger(self.root, self._own("acknowledged/"))
        self.intake = Intake(self.root, reserve_bytes, low_bytes, self._folders.away)
        self.ballast = Ballast(self.root)
        self._lock = threading.Lock()
        self._moving = threading.Lock()  # guards `_moved_into`
        self._moved_into: set[Path] = set()  # folders that part files were moved into, not synced since
        self._random: list[bytes] = []
        self._folder: Path | None = None
        self._in_folder = 0
        self.remote: Remote | None = None

    def _own(self, key: str) -> Path:
        """Return the path by which the file with a key is written and moved; see `HeldFolders`."""
        return Path(self._folders.path(key))

    def close(self) -> None:
        """Let the folders go; nothing can be written any more."""
        self._folders.close()

    def new_key(self) -> str:
        """Return the key that a new instance will have.

        Raises OutOfResources if the folder for it cannot be made durable.
        """
        return self._place(self._new_name())

    def _new_name(self) -> str:
        """Return a UUID; the system is asked for random bytes once for many of them."""
        with self._lock:
            if not self._random:
                data = os.urandom(16 * NAMES_AT_ONCE)
                self._random = [data[at : at + 16] for at in range(0, len(data), 16)]
            return uuid.UUID(bytes=self._random.pop(), version=4).hex

    def open_part(self, key: str) -> PartFile:
        """Begin the file of a large instance that will have this key.

        Raises OutOfResources if the file cannot be created.
        """
        return PartFile(self.intake, self._receiving(key), self.sync_parts)

    def refer(self, key: str, file: Path) -> PartLink:
        """Begin an instance that will have this key, and whose bytes stay in a file outside the archive.

        Raises OSError if the file cannot be read, and OutOfResources if the link cannot be created.
        """
        return PartLink(self.intake, self._receiving(key), self.sync_parts, file)

    def _receiving(self, key: str) -> str:
        return self._folders.path(f"incoming/{_name(key)}.receiving")

    def make_folders(self, keys: Iterable[str]) -> None:
        """Make the folders of keys that are missing: a copy of a root may lack those that were empty.

        Only a start may do so. A folder that goes while the node runs means that its disk is away, and stops intake.
        """
        for folder in {self._own(key).parent for key in keys}:
            self._make_folder(folder)

    def _make_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)

    def write(self, key: str, content: bytes) -> None:
        """Write the file of an instance, over whatever an interrupted application of its record left; not durable.

        Raises OutOfResources if the disk is full or fails.
        """
        path = self._folders.path(key)  # a Path object costs as much as opening the file
        with self.intake.refusing():
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                write_all(file, content)
            finally:
                os.close(file)
        reached("file-written")

    def keep_part(self, key: str) -> bool:
        """Move the finished part file of a large instance to its key; return False if it was moved before.

        Raises OutOfResources if the disk fails.
        """
        try:
            with self._moving:
                move_file(self._incoming / f"{_name(key)}.part", self._own(key))
                self._moved_into.add(self._own(key).parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self.intake.failed(error) from error
        return True

    def sync_parts(self) -> None:
        """Make the names of the part files durable.

        First the names of those that were moved: a power cut must find a file under its old name or under its new one,
        and this is what makes the old one go.

        Raises OSError if the disk fails.
        """
        with self._moving:
            for folder in self._moved_into:
                sync_folder(folder)
            self._moved_into.clear()
            sync_folder(self._incoming)

    def sync(self, keys: Collection[str]) -> None:
        """Make files durable, and their names; those that are gone meanwhile are no error.

        Raises OutOfResources if the disk fails, or has failed before: intake stops.
        """
        self.intake.require_sound()
        with self.intake.refusing():
            folders = {self._own(folder) for folder in {key.rpartition("/")[0] for key in keys}}
            if len(keys) > MAX_SINGLE_SYNCS:
                for folder in {folder.stat().st_dev: folder for folder in folders}.values():
                    sync_file_system(folder)
                return
            for key in keys:
                with suppress(FileNotFoundError):
                    _sync_own(self._own(key))
            for folder in folders:
                sync_folder(folder)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder of this archive durable.

        Raises OutOfResources if the disk fails, or has failed before; intake stops.
        """
        self.intake.require_sound()
        with self.intake.refusing():
            sync_folder(folder)

    def read_ahead(self, files: Sequence[ArchivedFile]) -> LocalFile | None:
        """Return what gives files that are asked for in about this order, and fetches those that follow meanwhile."""
        remote = self.remote
        if remote is None:
            return None
        ahead = remote.ahead(files)

        def local(file: ArchivedFile) -> Path:
            next(ahead, None)
            return remote.local(file)

        return local

    def path(self, key: str) -> Path:
        """Return the path of the file with an archive key; to read the file of an instance, ask for `local`."""
        return self.root / key

    @property
    def place_of_new(self) -> str | None:
        """What the row of a new instance has as its place; see `ImageRow`."""
        return None if self.remote is None else "spool"

    def local(self, file: ArchivedFile) -> Path:
        """Return the path of the file of an instance, after fetching it if only the object store has it.

        Raises OSError if it cannot be fetched now.
        """
        return self.path(file.key) if self.remote is None else self.remote.local(file)

    def held(self, files: Sequence[ArchivedFile]) -> AbstractContextManager[None]:
        """Fetch the files of instances as `local` does, and keep them at their paths during the block.

        Raises OSError if one of them cannot be fetched now.
        """
        return nullcontext() if self.remote is None else self.remote.held(files)

    def ahead(self, files: Iterable[File]) -> Iterator[File]:
        """Yield files in their order; those that follow are fetched meanwhile, to be `local` when they are read."""
        return iter(files) if self.remote is None else self.remote.ahead(files)

    @contextmanager
    def working_folder(self) -> Iterator[Path]:
        """Make a folder for files on their way, and remove it with what is left; after a crash, the next start does."""
        folder = self.work / uuid.uuid4().hex
        folder.mkdir(mode=0o700, parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, key: str) -> None:
        """Delete a file, if it still exists, and what was made of it."""
        self._own(key).unlink(missing_ok=True)
        self.derived.drop(key)

    def move(self, key: str, to: str) -> None:
        """Move a file durably, over the file that has the other key."""
        _sync_own(self._own(key))
        move_file(self._own(key), self._own(to))
        for folder in {self._own(key).parent, self._own(to).parent}:
            self.sync_folder(folder)

    def quarantine_key(self, key: str) -> str:
        """Return the key that a file has after `quarantine`."""
        return f"quarantine/{key.rpartition('/')[2]}"

    def quarantine(self, key: str) -> None:
        """Move a file that no row of images names to its `quarantine_key`; what quarantine has already stays.

        A power cut may leave a file in quarantine, and under its old name another one, with less in it.
        """
        move_aside(self._own(key), self._own(self.quarantine_key(key)))
        self.sync_folder(self._quarantine)

    def take_in(self, key: str, part: Path | None) -> bool:
        """Move a part file to a key; return False if there is no part file."""
        if part is None:
            return False
        self.make_folders([key])
        move_file(part, self._own(key))
        return True

    def keep_aside(self, part: Path, key: str) -> None:
        """Move a part file to the `quarantine_key` of a file, durably."""
        sync_file(part)
        move_aside(part, self._own(self.quarantine_key(key)))
        self.sync_folder(self._quarantine)

    def take_back(self, name: str) -> str:
        """Move a file from quarantine into the archive, durably; return its key.

        Raises OutOfResources if the disk is full or fails.
        """
        key = self.new_key()
        with self.intake.refusing():
            move_file(self._quarantine / name, self._own(key))
        self.sync([key])
        self.sync_folder(self._quarantine)
        return key

    def quarantine_copy(self, path: Path) -> str:
        """Copy a damaged file to quarantine, once, for a person to examine; return the key of the copy."""
        key = f"quarantine/{named_by_content(path)}"
        copy_file(path, self._own(key))
        return key

    def quarantined(self) -> set[str]:
        """Return the keys of the instances in quarantine."""
        return {f"quarantine/{path.name}" for path in self._quarantine.glob("*.dcm")}

    def sweep_incoming(self, note: Callable[[str], None]) -> int:
        """Delete what was not finished, and move the part files that no record of the journal names to quarantine.

        A sender may have been answered for these by a record that is lost: `note` gets the key of each before it moves.
        Returns how many files went.
        """
        parts = [path for path in self._incoming.glob("*.part") if _PART.fullmatch(path.name)]
        for part in parts:
            target = place_aside(part, self._quarantine / f"{part.stem}.dcm")
            note(f"quarantine/{target.name}")
            move_aside(part, target)
        if parts:
            self.sync_folder(self._quarantine)
        left = [*self._incoming.glob("*.part*"), *self._incoming.glob("*.receiving"), *self._quarantine.glob("*.part")]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def folders(self) -> list[str]:
        """Return the names of the folders of `objects` that this host has made, the oldest first."""
        return [folder for folder in self.local_folders() if self.is_own(folder)]

    def is_own(self, folder: str) -> bool:
        """Return whether a folder of `objects` is one of this host, by its name."""
        number = folder.partition("-")[0]  # without a suffix, it is from when the index had one host
        return number.isdecimal() and folder in (number, number + self.suffix)

    def local_folders(self) -> list[str]:
        """Return the names of all folders of `objects`, also those with copies of what other hosts received."""
        return sorted(folder.name for folder in self._objects.iterdir() if folder.name != MARKER)

    def keys(self, folder: str) -> list[str]:
        """Return the keys of the files in one of the `folders`.

        Raises OSError if the folder cannot be read, which does not mean that it is empty.
        """
        try:
            names = os.listdir(self._objects / folder)
        except FileNotFoundError:
            return []
        return sorted(f"objects/{folder}/{name}" for name in names if name.endswith(".dcm"))

    def _place(self, name: str) -> str:
        """Return the key of a new file; create and sync a new folder if the last one is full.

        Raises OutOfResources if the folder cannot be created or synced: it is removed, and the next call creates it.
        """
        with self._lock:
            if self._folder is None or self._in_folder >= MAX_FILES_PER_FOLDER:
                with self.intake.refusing():
                    self._folder, self._in_folder = self._new_folder(), 0
            self._in_folder += 1
            return f"objects/{self._folder.name}/{name}.dcm"

    def _new_folder(self) -> Path:
        folders = self.folders()
        number = int(folders[-1].partition("-")[0]) + 1 if folders else 0
        folder = self._objects / f"{number:08d}{self.suffix}"
        folder.mkdir(mode=0o700)
        reached("folder-made")
        try:
            sync_folder(self._objects)
        except OSError:
            with suppress(OSError):  # every attempt on a full disk would leave another one
                folder.rmdir()
            raise
        return folder


def _sync_own(path: Path) -> None:
    """Make a file durable, unless it is a link: the file behind it is that of somebody else, or cannot be synced."""
    if not path.is_symlink():
        sync_file(path)


def _name(key: str) -> str:
    """Return the name of an archive key without folder and suffix."""
    return key.rpartition("/")[2].removesuffix(".dcm")
