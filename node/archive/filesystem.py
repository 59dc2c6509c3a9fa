"""Instances as files under one root: spooled, synced, renamed. Only this module makes archive paths.

A name is a fresh UUID, never text from a peer; a file is never overwritten. Files received together share a folder, so
one sync of the folder serves a whole batch. A full folder never changes again, since folder numbers only increase.

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
    """The archive under `root`. Thread-safe.

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
            The disk fails, or has failed before; intake stops.
        """
        self.intake.require_sound()
        try:
            sync_folder(folder)
        except OSError as error:
            raise self.intake.failed(error) from error

    def path(self, key: str) -> Path:
        """Return the path of the file with an archive key; see `PartFile.keep`."""
        return self.root / key

    def remove(self, key: str) -> None:
        """Delete a file, if it still exists."""
        self.path(key).unlink(missing_ok=True)

    def quarantine_key(self, key: str) -> str:
        """Return the key that a file has after `quarantine`."""
        return f"quarantine/{key.rpartition('/')[2]}"

    def quarantine(self, key: str) -> None:
        """Move a file that no row of images names to its `quarantine_key`."""
        os.rename(self.path(key), self.path(self.quarantine_key(key)))
        self.sync_folder(self._quarantine)

    def sweep_incoming(self) -> int:
        """Delete the part files of a dead process, none of which was acknowledged; return their number."""
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
        """Return the key of a new file and its folder; create and sync a new folder if the last one is full.

        Raises
        ------
        OSError
            The folder cannot be created or synced. It stays empty; the next call creates another one.
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
    """An instance while its bytes are received. Not thread-safe."""

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
            The disk is full or fails; call `abandon`.
        """
        rest = memoryview(fragment)
        try:
            while rest.nbytes:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise self._archive.intake.failed(error) from error
        reached("part-written")

    def mapped(self) -> mmap.mmap:
        """Map the bytes written so far, to access them without reading them into memory."""
        return mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)

    def keep(self) -> tuple[str, Path]:
        """Make the bytes durable and move the file into a folder of the archive.

        Returns
        -------
        key : str
            The key of the file, for the index.
        folder : Path
            Must be synced before the row is committed, so that the name is durable too.

        Raises
        ------
        OutOfResources
            The disk fails. A failed sync is never retried, because the kernel may have dropped the pages.
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
        """Discard the instance; does nothing after `keep` or an earlier `abandon`."""
        self._close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._file)
