"""Stored files: whether they still hold what was received, when the same instance comes again.

A received instance may be dropped as "already there" only for a file that was just read and found whole, whatever its
size: it may be the only good copy. Otherwise its bytes take the place of that file.
"""

import datetime as dt
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, time

import structlog

from node.archive.base import ArchivedFile
from node.archive.filesystem import Archive
from node.archive.intact import MISSING, data_set_offset, problem_with
from node.errors import OutOfResources
from node.files.durable import NO_ROOM
from node.files.heads import are_recoded, cut_pixels_of, may_be_own_copy
from node.index.database import Index
from node.index.rows.files import HeldFile, VolumeFile
from node.index.rows.models.levels import STORE
from node.index.rows.records import Flaw, InstanceFile, Received
from node.index.rows.scope import within
from node.index.rules.intake.received import Compared
from node.runtime.budget import remember

log = structlog.get_logger()

VERIFIED_SECONDS = 300.0
"""For how long the digest of a file that is read again and again is not compared again."""

REST_SECONDS = 2.0
"""How long before a comparison a file must have changed last: clocks of file systems have steps, and a change within
the step of another one could not be told from it."""

MAX_VERIFIED = 8192


def compared(archive: Archive, index: Index, batch: Sequence[Received]) -> Compared:
    """Look at the files that are kept under the SOP Instance UIDs of `batch`; of a UID with several versions, at all.

    Versions with a flaw are not compared with others for the same data set in another encoding. One that can be the
    same, and must be decoded to tell, is left to `node.lifecycle.scrub`; so is what may be a copy of the current one
    that left with a decided identity.

    Raises OutOfResources if nothing can be said now: there are no file descriptors, or no memory.
    """
    flaws = flaws_of(archive, index, batch)
    recoded, own = {}, set()
    for versions in _versions(archive, index, batch, flaws):
        whole = []
        for version in versions:
            with suppress(OSError):  # whether it is cut cannot be said now: the policy decides
                if cut_pixels_of(version.path()) is not None:
                    flaws[version.key] = Flaw.CUT
                    continue
            whole.append(version)
        for version in whole[1:]:
            with suppress(OSError):  # not known now: a person decides
                is_same = are_recoded(whole[0].path(), version.path())
                if not is_same and may_be_own_copy(version.path()):
                    own.add(version.key)
                if is_same is not False or version.key in own:
                    recoded[version.key] = whole[0].sha256, bool(is_same)
    return Compared(flaws, recoded, own)


def flaws_of(archive: Archive, index: Index, batch: Sequence[Received]) -> dict[str, Flaw]:
    """Compare the files that are kept under the SOP Instance UIDs of `batch`; return those that are not whole, by key.

    Raises OutOfResources if nothing can be said now: there are no file descriptors, or no memory.
    """
    own = {key for one in batch for key in (one.file.key, one.file.quarantine_key)}
    flaws = {}
    only_in_store = []
    for held in index.instances.held({one.attributes.sop_instance_uid for one in batch}):
        if held.key in own:  # applied before
            continue
        if held.place == STORE and not held.file_missing and not archive.path(held.key).exists():
            only_in_store.append(held)
            continue
        if index.sharing.is_away(held.holder):
            if held.data_set_offset is not None:  # the file of a row; what others have set aside is theirs
                flaws[held.key] = Flaw.MISSING if held.file_missing else Flaw.AWAY
            continue
        flaw = _flaw(archive, held)
        if flaw is not None:
            flaws[held.key] = flaw
    if archive.remote is not None:
        for file, is_there in archive.remote.presence(only_in_store):
            if not is_there:
                flaws[file.key] = Flaw.AWAY if is_there is None else Flaw.MISSING
        _pardon_expected(flaws, archive, index)
    return flaws


@dataclass(frozen=True, slots=True)
class _Version:
    """A file with a version of an instance; `path` fetches it if only the object store has it, or raises OSError."""

    key: str
    sha256: str
    path: Callable[[], Path]


def _versions(
    archive: Archive, index: Index, batch: Sequence[Received], flaws: Mapping[str, Flaw]
) -> Iterator[list[_Version]]:
    """Yield the current and the received versions of each instance with several, the current one first."""
    by_uid: dict[str, dict[str, _Version]] = {}  # by their digests
    for file in index.instances.currents({one.attributes.sop_instance_uid for one in batch}):
        if file.key not in flaws and not index.sharing.is_away(file.holder):
            current = _Version(file.key, file.sha256, partial(archive.local, file))
            by_uid.setdefault(file.sop_instance_uid, {})[file.sha256] = current
    for one in batch:
        if one.file.key not in flaws:
            received = _Version(one.file.key, one.file.sha256, partial(archive.path, one.file.key))
            by_uid.setdefault(one.attributes.sop_instance_uid, {}).setdefault(one.file.sha256, received)
    return (list(versions.values()) for versions in by_uid.values() if len(versions) > 1)


def _pardon_expected(flaws: dict[str, Flaw], archive: Archive, index: Index) -> None:
    """Drop the flaws of files that quarantine lacks because they are still to be fetched from the object store."""
    if Flaw.MISSING in flaws.values():
        for key in index.objects.ordered_removals():
            flaws.pop(archive.quarantine_key(key), None)


def damage_of(archive: Archive, index: Index, file: ArchivedFile, path: Path, now: dt.datetime) -> str | None:
    """Return how the file of an instance, read at `path`, differs from what was received, and record that.

    None: it does not, or not any more; see `report_damage`.
    """
    problem = problem_with(path, file.data_set_offset, file.bytes, file.sha256)
    if problem is None or report_damage(archive, index, file.key, problem, now):
        return None
    return problem


def report_damage(archive: Archive, index: Index, key: str, problem: str, now: dt.datetime) -> bool:
    """Record that the file of an instance is not as it was received: it must be sent again. Repetitions do nothing.

    Whoever meets the damage calls this. The file is read once more before it is believed, and stays where it is, for a
    person to examine. If the object store has the instance whole, the file is written again from there instead, and
    counts as found; if the store is away, or the file cannot be read, nothing is recorded.

    Returns whether the file is whole now. `problem`: see `node.archive.intact.problem_with`. Raises OutOfResources if
    the index did not commit, or the file is missing and a folder of the root is away.
    """
    with within(None):  # a damage counts, whoever meets it
        return _report_damage(archive, index, key, problem, now)


def _report_damage(archive: Archive, index: Index, key: str, problem: str, now: dt.datetime) -> bool:
    file = index.instances.of_key(key)
    if file is None or index.sharing.is_away(file.holder):
        return False
    try:
        if archive.remote is not None:
            problem_now = archive.remote.refreshed(file)
        else:
            problem_now = problem_with(archive.path(key), file.data_set_offset, file.bytes, file.sha256)
    except OSError as error:
        log.warning("file_not_read_again", path=key, reason=error.strerror)
        return False
    if problem_now is None:
        log.warning("file_whole_again", path=key, reason=problem)
        if file.file_missing:
            index.instances.mark_files([key], missing=False, now=now)
        return True
    is_missing = problem == MISSING
    if is_missing:
        archive.intake.require_here()
    damage = None if is_missing else f"the file {problem}: send the instance again"
    if index.instances.mark_files([key], missing=True, now=now, damage=damage):
        log.error("file_damaged", path=key, reason=problem)
    return False


class RecentlyVerified:
    """Files whose digest was compared lately: a viewer reads the frames of a series one by one. Thread-safe.

    Whoever changes a file changes its inode, its length or one of its times, of which nobody can put back the last
    (ctime): so what is read of a file is whole if it is known by what `fstat` says *after* the read. What rots below
    the file system is seen when the time is over.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], tuple[tuple[int | str, ...], float]] = {}
        self._lock = threading.Lock()

    def knows(self, stat: os.stat_result, sha256: str) -> bool:
        """Return whether a file has had this digest lately, and has not changed since."""
        known = self._files.get((stat.st_dev, stat.st_ino))
        return known is not None and known[0] == _state(stat, sha256) and monotonic() - known[1] < VERIFIED_SECONDS

    def note(self, stat: os.stat_result, sha256: str) -> None:
        """Note that a file has this digest; `stat`: as it was before it was read."""
        if time() - stat.st_ctime >= REST_SECONDS:
            with self._lock:
                remember(self._files, (stat.st_dev, stat.st_ino), (_state(stat, sha256), monotonic()), MAX_VERIFIED)

    def problem_with(self, path: Path, offset: int, length: int, sha256: str) -> str | None:
        """As `node.archive.intact.problem_with`; a file that has not changed is read again after some minutes."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return MISSING
        if self.knows(stat, sha256):
            return None
        problem = problem_with(path, offset, length, sha256)
        if problem is None:
            self.note(stat, sha256)
        return problem


def _state(stat: os.stat_result, sha256: str) -> tuple[int | str, ...]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, sha256


def problem_of(archive: Archive, file: InstanceFile | HeldFile | VolumeFile) -> str | None:
    """Return how a file that is kept or comes back differs from its row, or None; of one in the store, its object.

    Whatever comes back passes this: from the trash, from quarantine, by a decision or a repair. Its row has the digest.

    Raises OSError: it cannot be read now. Raises OutOfResources: it is not found, and a folder of the root is away.
    """
    path = archive.path(file.key)
    if archive.remote is not None and file.place == STORE and isinstance(file, InstanceFile) and not path.exists():
        return None if archive.remote.has(file) else archive.remote.object_problem(file)
    try:
        offset = file.data_set_offset if file.data_set_offset is not None else data_set_offset(path)
        problem = "is not a DICOM file" if offset is None else problem_with(path, offset, file.bytes, file.sha256)
    except FileNotFoundError:
        problem = MISSING
    if problem == MISSING:
        archive.intake.require_here()
    return problem


def _flaw(archive: Archive, held: HeldFile) -> Flaw | None:
    try:
        problem = problem_of(archive, held)
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
    """Whether quarantine has the missing file of a row, whole."""
    path = archive.path(archive.quarantine_key(held.key))
    if held.data_set_offset is None or not path.exists():
        return False
    return problem_with(path, held.data_set_offset, held.bytes, held.sha256) is None
