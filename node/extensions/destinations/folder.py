"""A folder as a destination: DICOM files, each durable before it counts as taken."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR
from pathlib import Path
from typing import BinaryIO, Literal

from node.archive.space import reason_of
from node.conversion.naming import safe_name
from node.dicom.attributes import attributes_by_windows
from node.durable import sync_folder
from node.errors import NotUnderstood
from node.extensions.destinations.settings import FolderSettings
from node.index.work.routes import DueInstance, OwedInstance
from node.routing.destination import Confirmation, Delivered, NotTaken, Prepared, Unreachable
from node.settings.routes import Destination as Described

COPY_BYTES = 1 << 20

OF_ITS_NAME = frozenset({EEXIST, EISDIR, ENAMETOOLONG, ENOTDIR})
"""Errors that concern one file; any other concerns the folder, such as a full disk."""

NAME_LENGTH = 60


class WrittenDestination:
    """A destination that writes copies by name. It proves that it keeps a copy by reading the copy again."""

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Confirm what was written before the route asked for proof: it is sent, and read, again."""
        return Confirmation(frozenset(), {one.sop_instance_uid: "it was not read again" for one in owed})

    def is_origin(self, due: DueInstance) -> bool:
        """Return False: nothing comes from a folder or a bucket by itself."""
        return False


class FolderDestination(WrittenDestination):
    """Writes DICOM files below a folder, which must exist: a share that is not mounted takes nothing.

    `layout`: see `file_name`. `is_read_again`: read each file again after it was written, as a proof that it is kept.
    """

    def __init__(self, folder: Path, layout: Literal["names", "archive"], *, is_read_again: bool) -> None:
        self._folder, self._layout, self._is_read_again = folder, layout, is_read_again

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
            name = file_name(prepared, self._layout)
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


def file_name(prepared: Prepared, layout: Literal["names", "archive"]) -> Path:
    """Return the relative path of the file of an instance.

    Parameters
    ----------
    layout : str
        ``names``: PATIENT/STUDY/SERIES/INSTANCE; ``archive``: the keys of the archive, which name nobody.

    Raises
    ------
    NotTaken
        The copy cannot be read, or its attributes.
    """
    if layout == "archive":
        return Path(prepared.due.key)
    outgoing = prepared.outgoing
    try:
        with outgoing.path.open("rb", buffering=0) as file:

            def read(offset: int, length: int) -> bytes:
                return os.pread(file.fileno(), length, outgoing.offset + offset)

            found = attributes_by_windows(read, outgoing.transfer_syntax_uid)
    except NotUnderstood as error:
        raise NotTaken(f"its attributes cannot be read: {error}", is_final=True) from error
    except OSError as error:
        raise NotTaken(f"its file cannot be read now: {error.strerror}") from error
    study, series, image = found.study, found.series, found.image
    return Path(
        _part(found.patient["patient_id"] or "no-id"),
        _part(study["study_date"], study["study_description"], end=_digest(found.study_instance_uid)),
        _part(
            _number(series["series_number"]), series["series_description"] or series["modality"],
            end=_digest(found.series_instance_uid),
        ),
        f"{_part(_number(image['instance_number']), end=_digest(outgoing.sop_instance_uid))}.dcm",
    )  # fmt: skip


def _part(*values: object, end: str = "") -> str:
    """Return a name of a file or a folder from values that senders chose, and of which only harmless letters remain."""
    name = safe_name(" ".join(str(value) for value in values if value is not None))
    return f"{name[:NAME_LENGTH]}-{end}" if end else name[:NAME_LENGTH]


def _digest(uid: str) -> str:
    """Return eight digits that tell UIDs apart whose other values are the same."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _number(value: object) -> str | None:
    return f"{value:04d}" if isinstance(value, int) else None


def opened(described: Described, is_read_again: bool) -> FolderDestination:
    """Return the folder of a table. See `node.routing.kinds.OpenReceiver`."""
    assert isinstance(described, FolderSettings)
    return FolderDestination(described.folder.absolute(), described.layout, is_read_again=is_read_again)
