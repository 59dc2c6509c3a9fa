"""Instances as files below one root: spooled, synced, renamed. The only module that makes an archive path.

A name is a fresh UUID, never text from a peer; a file is never overwritten. Files that arrive together share a folder,
so that one sync of it serves a whole batch. A full folder never changes again: numbers only grow.

    incoming/<uuid>.part          while bytes arrive
    objects/<number>/<uuid>.dcm
    quarantine/<uuid>.dcm         kept for a person to examine, in no row of images
"""

from __future__ import annotations

import mmap
import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path

from node.archive.intake import Intake
from node.durable import make_folder, sync_folder
from node.failpoints import reached

MAX_FILES_PER_FOLDER = 1024


class Archive:
    """The archive below `root`; safe to use from many threads.

    Parameters
    ----------
    root : Path
        Created if missing, readable by the owner only.
    reserve_bytes, low_bytes : int
        See `Intake`.
    """

    def __init__(self, root: Path, reserve_bytes: int = 0, low_bytes: int = 0) -> None:
        self.root = root.absolute()
        self._incoming = self.root / "incoming"
        self._objects = self.root / "objects"
        self._quarantine = self.root / "quarantine"
        for folder in (self.root, self._incoming, self._objects, self._quarantine):
            make_folder(folder)
        self.intake = Intake(self.root, reserve_bytes, low_bytes)
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._in_folder = 0

    def open_part(self) -> PartFile:
        """Begin a new instance.

        Raises
        ------
        OutOfResources
            The free space is down to the reserve, intake has stopped, or the file cannot be created.
        """
        self.intake.require()
        return PartFile(self, uuid.uuid4().hex)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder of this archive durable.

        Raises
        ------
        OutOfResources
            The disk fails, or has failed before: intake stops.
        """
        self.intake.require_sound()
        try:
            sync_folder(folder)
        except OSError as error:
            raise self.intake.failed(error) from error

    def path(self, key: str) -> Path:
        """Return the file of an archive key, as `PartFile.keep` returned it."""
        return self.root / key

    def remove(self, key: str) -> None:
        """Delete a file; a file that is gone already is no error."""
        self.path(key).unlink(missing_ok=True)

    def quarantine_key(self, key: str) -> str:
        """Return the key that a file has after `quarantine`."""
        return f"quarantine/{key.rpartition('/')[2]}"

    def quarantine(self, key: str) -> None:
        """Move a file that no row of images names to its `quarantine_key`."""
        os.rename(self.path(key), self.path(self.quarantine_key(key)))
        self.sync_folder(self._quarantine)

    def sweep_incoming(self) -> int:
        """Delete the part files of a dead process, none of them acknowledged; return how many there were."""
        parts = list(self._incoming.glob("*.part"))
        for part in parts:
            part.unlink(missing_ok=True)
        return len(parts)

    def folders(self) -> list[str]:
        """Return the names of the folders of `objects`, the oldest first."""
        return sorted(folder.name for folder in self._objects.iterdir() if folder.name.isdecimal())

    def keys(self, folder: str) -> list[str]:
        """Return the keys of the files in one of the `folders`."""
        return sorted(str(path.relative_to(self.root)) for path in (self._objects / folder).glob("*.dcm"))

    def place(self, name: str) -> tuple[str, Path]:
        """Return the key of a new file and its folder, which is made and synced when the one before is full.

        Raises
        ------
        OSError
            The folder cannot be made or synced. No file gets into it; the next call makes another one.
        """
        with self._lock:
            if self._folder is None or self._in_folder >= MAX_FILES_PER_FOLDER:
                self._folder, self._in_folder = self._new_folder(), 0
            self._in_folder += 1
            return f"objects/{self._folder.name}/{name}.dcm", self._folder

    def _new_folder(self) -> Path:
        folders = self.folders()
        folder = self._objects / f"{int(folders[-1]) + 1 if folders else 0:08d}"
        folder.mkdir(mode=0o700)
        reached("folder-made")
        sync_folder(self._objects)
        return folder


class PartFile:
    """An instance while its bytes arrive; used by one thread."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive, self._name = archive, name
        self._path = f"{archive.root}/incoming/{name}.part"  # a Path object costs as much as opening the file
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise archive.intake.failed(error) from error
        self._open = True
        reached("part-opened")

    def write(self, fragment: bytes | bytearray | memoryview) -> None:
        """Append all bytes of a fragment.

        Raises
        ------
        OutOfResources
            The disk is full or fails; `abandon` the file then.
        """
        rest = memoryview(fragment)
        try:
            while rest.nbytes:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise self._archive.intake.failed(error) from error
        reached("part-written")

    def mapped(self) -> mmap.mmap:
        """Map the bytes that were written so far, to read them without loading them."""
        return mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)

    def keep(self) -> tuple[str, Path]:
        """Make the bytes durable and move the file into a folder of the archive.

        Returns
        -------
        key : str
            The key of the file, for the index.
        folder : Path
            To be synced before the row is committed: only then the name is durable too.

        Raises
        ------
        OutOfResources
            The disk fails. A failed sync is never tried again: the kernel may have dropped the pages.
        """
        self._archive.intake.require_sound()
        try:
            os.fdatasync(self._file)
            reached("file-synced")
            self._close()
            key, folder = self._archive.place(self._name)
            os.rename(self._path, f"{self._archive.root}/{key}")
        except OSError as error:
            raise self._archive.intake.failed(error) from error
        reached("file-renamed")
        return key, folder

    def abandon(self) -> None:
        """Forget the instance; a second call, or one after `keep`, does nothing."""
        self._close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)
