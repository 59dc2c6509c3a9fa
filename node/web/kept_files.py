"""Files of instances, read only after their digest was compared: a damaged one is never made into anything."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from node.errors import OutOfResources, VoxelnodeError
from node.index.selection import StoredInstance
from node.receive.kept import report_damage
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


def local_file(node: Services, instance: StoredInstance) -> Path:
    """Return the path of the file of an instance, which is fetched if only the object store has it.

    Raises
    ------
    Unavailable
        It cannot be fetched now.
    """
    try:
        return node.archive.local(instance)
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be fetched: {error.strerror}") from error


def damaged(node: Services, instance: StoredInstance, problem: str) -> Damaged:
    """Record that a file is not as it was received; return the error for it."""
    with suppress(OutOfResources):  # the next reader records it
        report_damage(node.archive, node.index, instance.key, problem, node.ingest.now())
    return Damaged(DAMAGED)
