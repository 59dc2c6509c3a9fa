"""Files of instances, read only after their digest was compared: a damaged one is never made into anything."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from starlette.exceptions import HTTPException

from node.archive.base import ArchivedFile
from node.errors import OutOfResources, VoxelnodeError
from node.index.search.selection import StoredInstance
from node.receive.stored_files import report_damage
from node.web.files import FILE_MISSING
from node.web.services import Services


class Damaged(VoxelnodeError):
    """A file of the archive differs from what was received, or is missing."""


class Unavailable(OutOfResources):
    """A file of the archive cannot be read now."""


DAMAGED = (
    "damaged: a file is missing or is not as it was received; send the instance again, or run `voxelnode fsck --hash`"
)


def whole_file(node: Services, instance: StoredInstance) -> Path:
    """Return the path of the file of an instance, after comparing its digest.

    Raises
    ------
    Damaged
        It is not as it was received. The instance is marked, so that it is taken when it is sent again.
    Unavailable
        It cannot be read now.
    """
    path = local_file(node, instance)
    try:
        problem = node.verified.problem_with(path, instance.data_set_offset, instance.bytes, instance.sha256)
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error
    if problem is not None:
        raise damaged(node, instance, problem)
    return path


def local_file(node: Services, file: ArchivedFile) -> Path:
    """Return the path of a file of the archive, which is fetched if only the object store has it.

    Raises
    ------
    Unavailable
        It cannot be fetched now.
    FileNotFoundError
        Neither the disk nor the object store has a file of a revision.
    """
    try:
        return node.archive.local(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be fetched: {error.strerror}") from error


def local_or_gone(node: Services, file: ArchivedFile) -> Path:
    """Return the path of a file of a revision, which is fetched if only the object store has it.

    Raises
    ------
    Unavailable
        It cannot be fetched now.
    HTTPException
        410: neither the disk nor the object store has it.
    """
    try:
        return local_file(node, file)
    except FileNotFoundError:
        raise HTTPException(410, FILE_MISSING) from None


def damaged(node: Services, instance: StoredInstance, problem: str) -> Damaged:
    """Record that a file is not as it was received; return the error for it."""
    with suppress(OutOfResources):  # the next reader records it
        report_damage(node.archive, node.index, instance.key, problem, node.ingest.now())
    return Damaged(DAMAGED)
