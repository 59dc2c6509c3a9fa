"""Bring back what was deleted, or empty the trash.

    audit line -> rows as before, out of the trash, one commit -> files compared, in batches -> owed again
    audit line -> files named in the tombstone, one commit -> files unlinked -> finished

Until the trash is emptied, the files of a deletion are where they were, and nothing but their rows in the trash names
them. An undo is no arrival: rows, volumes, results and what destinations took are as before (`node.index.nouns.trash`).
Then each file is compared with its row. One that differs stays where it is and is marked, as a damaged file of the
archive is: it must be sent again. An instance that came again meanwhile stays current, and other bytes under its UID
are a conflict. If the process dies in between, the next start goes on.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from node.archive.filesystem import Archive
from node.archive.intact import MISSING
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage
from node.errors import sized
from node.index.database.index import Index
from node.index.nouns.trash import NotInTrash, TrashedFile
from node.lifecycle.deletion import finish
from node.receive.apply import MAX_BATCH
from node.receive.recovery import ADOPTED, IN_PLACE, OTHER_BYTES, SECOND_VERSION, adopt
from node.receive.stored_files import problem_of, report_damage
from node.runtime.failpoints import reached

log = structlog.get_logger()

RESTORE = "bring back from the trash"


@dataclass(frozen=True, slots=True)
class Restored:
    """How many instances came back, and how many did not: they had come again, with the same bytes (`repeated`) or with
    others (`conflicts`), or their files are gone or damaged (`lost`) and must be sent again, or cannot be read now
    (`unread`).
    """

    instances: int = 0
    repeated: int = 0
    conflicts: int = 0
    lost: int = 0
    unread: int = 0


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
    Raises AuditFailed: nothing was changed.
    """
    entry = index.trash.entry(number)
    _audit(audit, entry, AuditAction.UPDATE, who, f"ordered: {RESTORE}")
    index.trash.bring_back(number, now)
    reached("restore-begun")
    done = _compared(archive, index, number, quiet_seconds, now)
    _audit(audit, entry, AuditAction.UPDATE, who, f"done: {RESTORE}")
    return done


def resume_restores(archive: Archive, index: Index, quiet_seconds: Callable[[str], float], now: dt.datetime) -> None:
    """Compare what a crash has left of deletions that are being undone, after files and rows were compared."""
    for number in index.trash.restoring():
        _compared(archive, index, number, quiet_seconds, now)
        log.warning("restore_resumed", deletion=number)


def _compared(
    archive: Archive, index: Index, number: int, quiet_seconds: Callable[[str], float], now: dt.datetime
) -> Restored:
    done: Counter[str] = Counter()
    last = 0
    while files := index.trash.files(number, after=last, limit=MAX_BATCH):
        last = files[-1][0]
        fates = {id: _fate(archive, index, file, quiet_seconds, now) for id, file in files}
        done.update(fates.values())
        # What is not whole is owed again all the same: the ledger says that it was acknowledged.
        archive.acknowledged.append(index.lost.stored_at([file.key for _, file in files]))
        reached("restore-indexed")
        index.trash.compared([id for id, fate in fates.items() if fate != "unread"])
    counts = Restored(**{name: done[name] for name in Restored.__slots__})
    if counts.unread:  # what is left keeps its row: the next start goes on
        log.error("restore_unfinished", deletion=number, count=counts.unread)
    else:
        log.info("restored", instances=counts.instances, count=counts.repeated, missing=counts.lost)
    return counts


def _fate(
    archive: Archive, index: Index, file: TrashedFile, quiet_seconds: Callable[[str], float], now: dt.datetime
) -> str:
    """Compare a file that is back with its row, and record how it differs; return what became of it in one word.

    What another host alone has is read there: when it goes to the store, by the scrub, or by the next start.
    """
    try:
        if index.sharing.is_away(file.holder):
            is_back = file.kind == "conflicts" or index.instances.of_key(file.key) is not None
            return {"conflicts": "versions", "images": "instances"}[file.kind] if is_back else "unread"
        problem = problem_of(archive, file.found) if "sha256" in file.row else None  # of another version
        if file.kind == "conflicts":
            if problem is not None:
                index.instances.record_loser_damage(file.key, f"the file {problem}", now, gone=problem == MISSING)
            return "versions"
        if (row := index.instances.of_key(file.key)) is None:
            return _of_one_that_came_again(archive, index, file, problem, quiet_seconds, now)
        if problem is None and row.file_missing:
            index.instances.mark_files([file.key], missing=False, now=now)
        if problem is None or report_damage(archive, index, file.key, problem, now):
            return "instances"
        return "lost"
    except OSError as error:
        log.error("file_unreadable", path=file.key, reason=error.strerror)
        return "unread"


def _of_one_that_came_again(
    archive: Archive,
    index: Index,
    file: TrashedFile,
    problem: str | None,
    quiet_seconds: Callable[[str], float],
    now: dt.datetime,
) -> str:
    """Index a file beside the one that came meanwhile, unless it is damaged; see `_fate`."""
    row = file.row
    if problem is None:
        facts = {name: row[name] or "" for name in ("source", "calling_ae_title", "called_ae_title", "peer")}
        done = adopt(archive, index, [file.key], quiet_seconds, now, {file.key: facts | {"received_at": now}})
        fate = done.get(file.key, "unread")
        if fate in (ADOPTED, IN_PLACE):
            return "instances"
        return fate if fate == "unread" else "conflicts" if fate in (OTHER_BYTES, SECOND_VERSION) else "repeated"
    held = index.instances.held([row["sop_instance_uid"]])
    if any(one.sha256 == row["sha256"] for one in held):  # or it was indexed before a crash
        archive.remove(file.key)
        return "repeated"
    log.error("file_damaged", path=file.key, reason=problem)
    current = index.lost.stored_at([one.key for one in held])
    owed = [one._replace(sha256=row["sha256"], received_at=now.isoformat()) for one in current[-1:]]
    archive.acknowledged.append(owed)
    index.lost.record(owed, now)
    if problem != MISSING:
        archive.quarantine(file.key)
    return "lost"


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
