"""Delete a study, a series or an instance, bring back what is in the trash, and empty the trash.

A deletion takes the rows, and every file made from them; the own files go as well, or into the trash.

    audit line -> tombstone and rows, one commit -> volumes, objects unlinked unless in the trash, pictures -> folders
               synced -> ledger: written off -> finished

Nothing is unlinked before the decision is durable in the audit log and in the index. A deletion is finished when the
removal of its files is durable. If the process dies in between, the next start finishes the deletion.

    audit line -> rows as before, out of the trash, one commit -> files compared, in batches -> owed again
    audit line -> files named in the tombstone, one commit -> files unlinked -> finished

Until the trash is emptied, the files of a deletion are where they were, and nothing but their rows in the trash names
them. An undo is no arrival: rows, volumes, results and what destinations took are as before
(`node.index.rules.custody.trash`). Then each file is compared with its row. One that differs stays where it is and is
marked, as a damaged file of the archive is: it must be sent again. An instance that came again meanwhile stays current,
and other bytes under its UID are a conflict. If the process dies in between, the next start goes on.
"""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from node.archive.filesystem import Archive
from node.archive.intact import MISSING
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage
from node.conversion.volume_files import remove_folder
from node.errors import VoxelnodeError, sized
from node.files.acknowledged import LedgerPosition
from node.index.database import Index
from node.index.rows.place import REMEDY
from node.index.rows.records import Deletion, DeletionPlan, NotInTrash, removes_instances
from node.index.rows.repositories import Terms
from node.index.rules.custody.deletions import is_deletable
from node.index.rules.custody.trash import TrashedFile
from node.receive.apply import MAX_BATCH
from node.receive.recovery import ADOPTED, IN_PLACE, OTHER_BYTES, SECOND_VERSION, adopt
from node.receive.stored_files import problem_of, report_damage
from node.runtime.failpoints import reached

log = structlog.get_logger()


class Unsafe(VoxelnodeError):
    """A path to be deleted is outside of the archive: the index is damaged."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who ordered a deletion (a user of this machine or a part of the node), the reason, and the terms.

    `trash_until`: until when it can be undone (`node.lifecycle.deletion`); None: it cannot. `forgets`: see
    `node.index.rules.custody.deletions`.
    """

    who: str
    reason: str
    terms: Terms | None = None
    trash_until: dt.datetime | None = None
    forgets: bool = False


def delete(archive: Archive, index: Index, audit: Audit, plan: DeletionPlan, order: Order, now: dt.datetime) -> None:
    """Carry out a planned deletion.

    Raises AuditFailed: nothing was deleted.
    Raises NotThere: the object was deleted after the plan was made.
    Raises OutOfResources: the index did not commit; nothing was deleted.
    Raises QueryRefused: what was acknowledged is not indexed in time; nothing was deleted.
    Raises OSError: a file cannot be deleted; the next start of the node tries again.
    """
    until = f", in the trash until {order.trash_until:%Y-%m-%d}" if order.trash_until is not None else ""
    what = f"delete {plan.level}, {order.reason}{until}"
    audit.require(_message(plan, order, what).at("ordered"))
    try:
        index.ahead.require_caught_up()  # the terms are about what was acknowledged
        # An instance that was indexed now would be deleted, and the ledger would miss it; what the journal still has, a
        # new index would take up again.
        with index.ahead.standing():
            terms, listed = (order.terms, order.trash_until), str(archive.acknowledged.position)
            ordered = index.deletions.order(plan, order.reason, now, *terms, forgets=order.forgets, listed=listed)
    except VoxelnodeError:
        audit.note(_message(plan, order, f"{what}; the index did not change").at("not done"))
        raise
    reached("deletion-ordered")
    finish(archive, index, ordered, now)
    done = replace(plan, instances=ordered.instances)  # more may have come since the plan was made
    audit.note(_message(done, order, what).at("done"))
    log.info("deleted", kind=plan.level, study_instance_uid=plan.study_instance_uid, instances=done.instances)


def resume_deletions(archive: Archive, index: Index, now: dt.datetime) -> int:
    """Finish deletions that a crash interrupted; return how many. Must run before files without a row are adopted."""
    unfinished = index.deletions.unfinished()
    for ordered in unfinished:
        finish(archive, index, ordered, now)
        log.warning("deletion_resumed", files=len(ordered.paths))
    return len(unfinished)


def finish(archive: Archive, index: Index, ordered: Deletion, now: dt.datetime) -> None:
    """Remove the files of a committed deletion, and write off its UIDs in the entries that the ledger had then.

    In another ledger than that of its host, nothing is written off.

    Instances in the trash are written off when they go there, not when the trash is emptied: they may have been sent
    again in between.
    """
    unlink(archive, ordered.paths)
    if ordered.went_to_trash:
        for _, file in index.trash.files(ordered.id):
            archive.derived.drop(file.key)
    reached("deletion-unlinked")
    ledger, listed = archive.acknowledged, LedgerPosition.of(ordered.listed)
    if removes_instances(ordered.paths) != ordered.went_to_trash and listed.identity == ledger.position.identity:
        before = min(listed.entries, ledger.position.entries)  # it may be of before
        ledger.write_off(ordered.level, [ordered.uid], before)
        if ordered.versions:
            ledger.write_off("version", ordered.versions, before)
        reached("deletion-noted")
    index.deletions.finish(ordered, now)


def unlink(archive: Archive, paths: Iterable[str]) -> None:
    """Delete files and folders below the root durably; files already gone are ignored.

    Raises OutOfResources if a folder of the root is away.
    """
    archive.intake.require_here()
    touched: set[Path] = set()
    for path in paths:
        if not is_deletable(path):
            raise Unsafe(f"the index is damaged: it wants {path!r} deleted, which is not in the archive; {REMEDY}")
        target = archive.root / path
        if target.is_dir():
            remove_folder(target, archive.sync_folder)
        else:
            archive.remove(path)
            touched.add(target.parent)
    for folder in sorted(touched):
        if folder.is_dir():
            archive.sync_folder(folder)


def _message(plan: DeletionPlan, order: Order, detail: str) -> AuditMessage:
    event = AuditEvent.STUDY_DELETED if plan.level == "study" else AuditEvent.INSTANCES_ACCESSED
    subject = {"level": plan.level, "uid": plan.uid, "study_instance_uid": plan.study_instance_uid}
    objects = [{**subject, "patient_id": plan.patient_id, "instances": plan.instances}]
    if order.trash_until is not None:  # later, nothing else knows whose it was
        objects[0] |= {"patient_name": plan.patient_name, "accession_number": plan.accession_number}
    return AuditMessage.by(order.who, event, AuditAction.DELETE, detail, objects)


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
    with index.reading(wait=False) as view:
        entry = view.trash.entry(number)
    order = _of_entry(entry, AuditAction.UPDATE, who, "bring back from the trash")
    audit.change(order, lambda: index.trash.bring_back(number, now))
    reached("restore-begun")
    return _compared(archive, index, number, quiet_seconds, now)


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
    with index.reading(wait=False) as view:
        entry = view.trash.entry(number)
    message = replace(_of_entry(entry, AuditAction.DELETE, who, f"empty the trash, {reason}"), of="trash")
    audit.require(message.at("ordered"))
    deletion = index.trash.empty(number, now)
    reached("trash-emptied")
    finish(archive, index, deletion, now)
    audit.require(message.at("done"))
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


def _of_entry(entry: dict[str, object], action: AuditAction, who: str, detail: str) -> AuditMessage:
    names = ("level", "uid", "study_instance_uid", "patient_id")
    objects = [{name: entry.get(name) for name in names} | {"instances": entry["files"]}]
    is_deleted = action is AuditAction.DELETE and entry["level"] == "study"
    event = AuditEvent.STUDY_DELETED if is_deleted else AuditEvent.INSTANCES_ACCESSED
    return AuditMessage.by(who, event, action, detail, objects)
