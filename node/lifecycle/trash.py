"""Bring back what was deleted, or empty the trash.

    audit line -> out of the trash, one commit -> files indexed again, in batches -> conflicts as before
    audit line -> files named in the tombstone, one commit -> files unlinked -> finished

Until the trash is emptied, the files of a deletion are where they were, and nothing but their rows in the trash names
them. To bring one back is to index its file again, as `recover` does with a file without a row, and to owe it again
(`node.acknowledged`). An instance that came again meanwhile stays current, and other bytes under its UID are a
conflict. Volumes are made again. If the process dies in between, the next start goes on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import structlog

from node.acknowledged import Acknowledged
from node.archive.filesystem import Archive
from node.archive.intact import MISSING
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage
from node.counted import sized
from node.errors import UsageError
from node.failpoints import reached
from node.index.database.index import Index
from node.index.models.levels import STORE
from node.index.nouns.instance_files import HeldFile
from node.index.nouns.trash import NotInTrash, TrashedFile
from node.lifecycle.deletion import finish
from node.receive.apply import MAX_BATCH
from node.receive.recovery import ADOPTED, IN_PLACE, OTHER_BYTES, SECOND_VERSION, adopt
from node.receive.stored_files import problem_of

log = structlog.get_logger()

RESTORE = "bring back from the trash"


@dataclass(frozen=True, slots=True)
class Restored:
    """How many instances came back, and how many did not: they had come again, with the same bytes (`repeated`) or with
    others (`conflicts`), or their files are gone or damaged (`lost`), or cannot be read now (`unread`).
    """

    instances: int = 0
    repeated: int = 0
    conflicts: int = 0
    lost: int = 0
    unread: int = 0

    def __add__(self, other: Restored) -> Restored:
        sums = {name: count + getattr(other, name) for name, count in asdict(self).items()}
        return Restored(**sums)


def restore(
    archive: Archive,
    index: Index,
    audit: Audit,
    number: int,
    who: str,
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
) -> Restored:
    """Undo a deletion that is in the trash.

    Raises NotInTrash: it is not there.
    Raises UsageError: only another host has its files.
    Raises AuditFailed: nothing was changed.
    """
    entry = index.trash.entry(number)
    if others := index.trash.holders(number) - {index.sharing.holder or ""}:
        raise UsageError(f"only {', '.join(sorted(others))} has the files: run the command there")
    _audit(audit, entry, AuditAction.UPDATE, who, f"ordered: {RESTORE}")
    index.trash.begin_restore(number, now)
    reached("restore-begun")
    done = _indexed_again(archive, index, number, quiet_seconds, now)
    _audit(audit, entry, AuditAction.UPDATE, who, f"done: {RESTORE}")
    return done


def resume_restores(archive: Archive, index: Index, quiet_seconds: Callable[[str], float], now: dt.datetime) -> None:
    """Index what a crash has left of deletions that are being undone, after files and rows were compared."""
    for number in index.trash.restoring():
        if not index.trash.holders(number) - {index.sharing.holder or ""}:
            _indexed_again(archive, index, number, quiet_seconds, now)
            log.warning("restore_resumed", deletion=number)


def _indexed_again(
    archive: Archive, index: Index, number: int, quiet_seconds: Callable[[str], float], now: dt.datetime
) -> Restored:
    done, unread = Restored(), set[str]()
    while files := [file for file in index.trash.files(number, MAX_BATCH + len(unread)) if file.key not in unread]:
        of_batch, keys = _batch_indexed(archive, index, files, quiet_seconds, now)
        done += of_batch
        unread |= keys
        reached("restore-indexed")
        index.trash.taken_back([file.key for file in files if file.key not in keys])
    if unread:  # what is left keeps its row: the next start goes on
        log.error("restore_unfinished", deletion=number, count=len(unread))
        return done
    versions = index.trash.finish_restore(number)
    archive.acknowledged.append(index.lost.stored_at(versions))
    for held in (held for key in versions for held in index.instances.versions_at(key)):
        if (problem := problem_of(archive, held)) is not None:
            index.instances.record_loser_damage(held.key, f"the file {problem}", now, gone=problem == MISSING)
    log.info("restored", instances=done.instances, count=done.repeated, missing=done.lost)
    return done


def _batch_indexed(
    archive: Archive,
    index: Index,
    files: Sequence[TrashedFile],
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
) -> tuple[Restored, set[str]]:
    """Index files again; return also the keys of those that cannot be read now."""
    there, unread = [], set[str]()
    for file in files:
        try:
            there += [file] if _is_here(archive, file) and _is_whole(archive, index, file, now) else []
        except OSError as error:
            log.error("file_unreadable", path=file.key, reason=error.strerror)
            unread.add(file.key)
    known = {file.key for file in index.objects.of_keys([file.key for file in there])}  # indexed before a crash
    facts = {file.key: {**file.facts, "received_at": now} for file in there}
    fates = adopt(archive, index, [key for key in facts if key not in known], quiet_seconds, now, facts)
    in_store = [file.key for file in there if file.place == STORE]
    if archive.remote is not None and in_store:
        stored = index.objects.record_stored(in_store, now)
        archive.remote.note_copies((key, archive.path(key).stat().st_size) for key in stored)
    archive.acknowledged.append(index.lost.stored_at(list(facts)))
    unread |= facts.keys() - fates.keys() - known
    indexed = sum(fate in (ADOPTED, IN_PLACE) for fate in fates.values()) + len(known)
    repeated = sum(fate.startswith("removed") for fate in fates.values())
    conflicts = sum(fate in (OTHER_BYTES, SECOND_VERSION) for fate in fates.values())
    lost = len(files) - indexed - repeated - conflicts - len(unread)
    return Restored(indexed, repeated, conflicts, lost, len(unread)), unread


def _is_whole(archive: Archive, index: Index, file: TrashedFile, now: dt.datetime) -> bool:
    """Return whether a file is what was received; one that is not goes to quarantine, and its version is lost."""
    if not file.version:
        return True
    held = HeldFile(file.key, file.version["sha256"], file.version["data_set_offset"])
    problem = problem_of(archive, held)
    if problem is None:
        return True
    log.error("file_damaged", path=file.key, reason=problem)
    version, facts = file.version, file.facts
    uids = (version[name] for name in ("sop_instance_uid", "study_instance_uid", "series_instance_uid", "sha256"))
    sender = (facts[name] for name in ("source", "calling_ae_title", "peer"))
    owed = [Acknowledged(*uids, *sender, now.isoformat())]  # type: ignore[call-arg]
    archive.acknowledged.append(owed)
    index.lost.record(owed, now)
    if problem != MISSING:
        archive.quarantine(file.key)
    return False


def _is_here(archive: Archive, file: TrashedFile) -> bool:
    """Return whether the file is on this disk, after fetching it from the object store if it is there."""
    if archive.remote is None or file.place != STORE or archive.path(file.key).exists():
        return True
    return archive.take_in(file.key, archive.remote.downloaded(file.key))


def empty(archive: Archive, index: Index, audit: Audit, number: int, who: str, reason: str, now: dt.datetime) -> None:
    """Remove the files of a deletion that is in the trash, permanently.

    Raises NotInTrash; AuditFailed and OutOfResources if nothing was removed.
    """
    entry = index.trash.entry(number)
    _audit(audit, entry, AuditAction.DELETE, who, f"ordered: empty the trash, {reason}")
    deletion = index.trash.empty(number, now)
    reached("trash-emptied")
    finish(archive, index, deletion, 0, now)
    _audit(audit, entry, AuditAction.DELETE, who, f"done: empty the trash, {reason}")
    log.info("trash_emptied", study_instance_uid=entry.get("study_instance_uid"), reason=reason)


def empty_due(
    archive: Archive, index: Index, audit: Audit, now: dt.datetime, *, is_clock_right: bool, gives_way: bool = False
) -> str | None:
    """Delete due entries of the trash: their time is over by a confirmed clock, or the disk is short of room.

    `gives_way`: for lack of room, whoever has filled the disk, the oldest deletion goes before its time, and one is
    enough for a call. Nothing goes if the whole trash is too little: then it would go for nothing.

    Returns why the trash stays although the disk is short of room; None if that is not so.
    """
    numbers = index.trash.due(now) if is_clock_right else []
    reason = "its time is over"
    if not numbers and archive.remote is None and archive.intake.is_short:
        files, trash_bytes = index.trash.size()
        if not files:
            return None
        if not gives_way:
            return "the disk is short of room; `voxelnode trash empty` makes some ([retention] trash_gives_way)"
        if not archive.intake.would_have_room(files, trash_bytes, archive.path("objects")):
            return f"the disk is short of room, and would be without the {sized(trash_bytes)} in the trash, too"
        oldest = index.trash.oldest()
        numbers, reason = [oldest] if oldest is not None else [], "the disk is short of room"
        log.warning("trash_emptied_early", reason=reason)
    for number in numbers:
        try:
            with archive.ballast.dropped():
                empty(archive, index, audit, number, "retention", reason, now)
        except NotInTrash:  # a person was quicker
            continue
    return None


def _audit(audit: Audit, entry: dict[str, object], action: AuditAction, who: str, detail: str) -> None:
    names = ("level", "uid", "study_instance_uid", "patient_id")
    objects = [{name: entry.get(name) for name in names} | {"instances": entry["files"]}]
    is_deleted = action is AuditAction.DELETE and entry["level"] == "study"
    event = AuditEvent.STUDY_DELETED if is_deleted else AuditEvent.INSTANCES_ACCESSED
    audit.require(AuditMessage.by(who, event, action, detail, objects))
