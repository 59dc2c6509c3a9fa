"""The files that are kept: whether they still hold what was received when the same instance comes again.

An arriving instance may be dropped as "already there" only for a file that was just found whole. Otherwise its bytes
take the place of that file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from node.archive.filesystem import Archive
from node.archive.intact import MISSING, data_set_offset, problem_with
from node.durable import NO_ROOM
from node.errors import OutOfResources
from node.index.database import Index
from node.index.instances import HeldFile
from node.index.records import Arrived, Flaw

log = structlog.get_logger()

CHEAP_BYTES = 1 << 20
"""The digest of a shorter file is always compared: reading it costs less than receiving it did."""

IsDigestDue = Callable[[str, dt.datetime], bool]
"""Whether to read a long file (its key, and when it was received): it was not verified for long."""


def flaws_of(
    archive: Archive,
    index: Index,
    batch: Sequence[Arrived],
    is_digest_due: IsDigestDue = lambda key, received_at: True,
) -> dict[str, Flaw]:
    """Compare the files that are kept under the SOP Instance UIDs of `batch`; return those that are not whole, by key.

    Raises
    ------
    OutOfResources
        Nothing can be said now: there are no file descriptors, or no memory.
    """
    own = {key for one in batch for key in (one.file.key, one.file.quarantine_key)}
    flaws = {}
    for held in index.instances.held({one.attributes.sop_instance_uid for one in batch}):
        if held.key in own:  # applied before
            continue
        flaw = _flaw(archive, held, is_digest_due)
        if flaw is not None:
            flaws[held.key] = flaw
    return flaws


def _flaw(archive: Archive, held: HeldFile, is_digest_due: IsDigestDue) -> Flaw | None:
    path = archive.path(held.key)
    try:
        offset = held.data_set_offset if held.data_set_offset is not None else data_set_offset(path)
        if offset is None:
            problem: str | None = "is no DICOM file"
        else:
            compare = partial(problem_with, path, offset, held.bytes)
            is_cheap = held.bytes is None or held.bytes <= CHEAP_BYTES
            due = is_cheap or held.file_missing or is_digest_due(held.key, held.received_at)
            problem = compare(held.sha256 if due else None)
    except FileNotFoundError:
        problem = MISSING
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OutOfResources(f"a kept file cannot be compared: {error.strerror}") from error
        log.error("kept_file_unreadable", path=held.key, reason=error.strerror)
        return Flaw.UNREADABLE
    if problem is None:
        return None
    log.error("kept_file_not_whole", path=held.key, reason=problem)
    if problem != MISSING:
        return Flaw.DAMAGED
    return Flaw.ASIDE if _is_aside(archive, held) else Flaw.MISSING


def _is_aside(archive: Archive, held: HeldFile) -> bool:
    """Whether quarantine has the file that a row names."""
    path = archive.path(archive.quarantine_key(held.key))
    if held.data_set_offset is None or not path.exists():
        return False
    return problem_with(path, held.data_set_offset, held.bytes, held.sha256) is None
