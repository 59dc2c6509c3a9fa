"""A folder as a destination: DICOM files, each durable before it counts as taken."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from errno import EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR
from pathlib import Path
from typing import BinaryIO

from node.api import Delivered, NotTaken, Prepared, Unreachable, WrittenDestination, reason_of, sync_folder
from node.extensions.destinations.settings import FolderSettings

COPY_BYTES = 1 << 20

OF_ITS_NAME = frozenset({EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR})
"""Errors that concern one file; any other concerns the folder, such as a full disk."""


class FolderDestination(WrittenDestination):
    """Writes DICOM files below a folder, which must exist: nothing is written while a share is not mounted.

    `is_read_again`: read each file again after it was written, as a proof that it is kept. See
    `node.routing.held.OpenReceiver`.
    """

    def __init__(self, its: FolderSettings, is_read_again: bool) -> None:
        super().__init__(its.layout)
        self._folder, self._is_read_again = its.folder.absolute(), is_read_again

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Write files. See `Destination.deliver`."""
        for prepared in instances:
            if not self._folder.is_dir():
                raise Unreachable(f"{self._folder} is not a folder: create it, or mount what belongs there")
            try:
                source = prepared.outgoing.path.open("rb", buffering=0)
            except OSError as error:  # such as one that was deleted or replaced meanwhile
                yield Delivered(prepared, NotTaken(f"its file cannot be read now: {error.strerror}"))
                continue
            with source:
                yield self._delivered(prepared, source)

    def _delivered(self, prepared: Prepared, source: BinaryIO) -> Delivered:
        try:
            name = self.name_of(prepared)
        except NotTaken as unnamed:
            return Delivered(prepared, unnamed)
        try:
            self._write(source, self._folder / name)
        except OSError as error:
            if error.errno in OF_ITS_NAME:
                problem = f"what is below {self._folder} is in the way of its name ({error.strerror}): remove it"
                return Delivered(prepared, NotTaken(problem))
            raise Unreachable(f"{self._folder} cannot be written: {reason_of(error, self._folder)}") from error
        return Delivered(prepared, is_confirmed=self._is_read_again)

    def rest(self) -> None:
        """Do nothing: no file stays open."""

    def _write(self, source: BinaryIO, target: Path) -> None:
        """Write the copy of a file durably under its name.

        Raises OSError if it was not written, or what was read again differs.
        """
        made = [folder for folder in target.parents if folder != self._folder and self._folder in folder.parents]
        for folder in reversed(made):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, exist_ok=True)
                sync_folder(folder.parent)
        part = target.with_name(f".{target.name}.part")  # the next attempt after a crash writes the same one
        try:
            digest = hashlib.sha256()
            with part.open("wb", buffering=0) as written:
                os.fchmod(written.fileno(), 0o600)
                while chunk := source.read(COPY_BYTES):
                    digest.update(chunk)
                    view = memoryview(chunk)
                    while view:
                        view = view[written.write(view) :]
                os.fsync(written.fileno())
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
        if self._is_read_again:
            with target.open("rb", buffering=0) as file:
                if hashlib.file_digest(file, "sha256").digest() != digest.digest():
                    raise OSError(5, "a file that was written is not the same when it is read again")
