"""Delete a study, a series or an instance: its rows, and every file made from it; its own files, or into the trash.

    audit line -> tombstone and rows, one commit -> volumes, objects unlinked unless in the trash, pictures -> folders
               synced -> ledger: written off -> finished

Nothing is unlinked before the decision is durable in the audit log and in the index. A deletion is finished when the
removal of its files is durable. If the process dies in between, the next start finishes the deletion.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from node.archive.filesystem import Archive
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage, Result
from node.conversion.volume_files import remove_folder
from node.errors import VoxelnodeError
from node.files.acknowledged import entries
from node.index.database.index import Index
from node.index.engine.place import REMEDY
from node.index.engine.writer import Terms
from node.index.nouns.deletions import is_deletable
from node.index.nouns.records import UIDS, Deletion, DeletionPlan, removes_instances
from node.runtime.failpoints import reached

log = structlog.get_logger()


class Unsafe(VoxelnodeError):
    """A path to be deleted is outside of the archive: the index is damaged."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who ordered a deletion (a user of this machine or a part of the node), the reason, and the terms.

    `trash_until`: until when it can be undone (`node.lifecycle.trash`); None: it cannot. `forgets`: see
    `node.index.nouns.deletions`.
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
    audit.require(_message(plan, order, Result.SUCCESS, f"ordered: {what}"))
    try:
        index.ahead.require_caught_up()  # the terms are about what was acknowledged
        with index.ahead.standing():  # an instance that was indexed now would be deleted, and the ledger would miss it
            index.ahead.checkpoint()  # or a new index would take the instances up again from the journal
            listed = archive.acknowledged.position.entries
            terms = order.terms, order.trash_until
            ordered = index.deletions.order(plan, order.reason, now, *terms, forgets=order.forgets)
    except VoxelnodeError:
        audit.note(_message(plan, order, Result.SERIOUS_FAILURE, f"not done: {what}; the index did not change"))
        raise
    reached("deletion-ordered")
    finish(archive, index, ordered, listed, now)
    done = replace(plan, instances=ordered.instances)  # more may have come since the plan was made
    audit.note(_message(done, order, Result.SUCCESS, f"done: {what}"))
    log.info("deleted", kind=plan.level, study_instance_uid=plan.study_instance_uid, instances=done.instances)


def resume_deletions(archive: Archive, index: Index, now: dt.datetime) -> int:
    """Finish deletions that a crash interrupted; return how many. Must run before files without a row are adopted."""
    unfinished = index.deletions.unfinished()
    for ordered in unfinished:
        finish(archive, index, ordered, None, now)
        log.warning("deletion_resumed", files=len(ordered.paths))
    return len(unfinished)


def finish(archive: Archive, index: Index, ordered: Deletion, listed: int | None, now: dt.datetime) -> None:
    """Remove the files of a committed deletion, and write off its UIDs in the first `listed` entries of the ledger.

    `listed` is None: in the entries before the first one that came after the deletion.

    Instances in the trash are written off when they go there, not when the trash is emptied: they may have been sent
    again in between.
    """
    unlink(archive, ordered.paths)
    if ordered.went_to_trash:
        for _, file in index.trash.files(ordered.id):
            archive.derived.drop(file.key)
    reached("deletion-unlinked")
    if removes_instances(ordered.paths) != ordered.went_to_trash:
        before = listed if listed is not None else _listed_before(archive, index, ordered)
        archive.acknowledged.write_off(ordered.level, [ordered.uid], before, ordered.ordered_at)
        if ordered.versions:
            archive.acknowledged.write_off("version", ordered.versions, before, ordered.ordered_at)
        reached("deletion-noted")
    index.deletions.finish(ordered, now)


def _listed_before(archive: Archive, index: Index, ordered: Deletion) -> int:
    """Return the number of the first entry that came after a deletion; if there is none, of the next one.

    It was received later, or it has a row: the deletion removed those of all entries before it.
    """
    position = archive.acknowledged.position.entries
    for first, some in entries(archive.root):
        its = [
            (number, one) for number, one in enumerate(some, first) if getattr(one, UIDS[ordered.level]) == ordered.uid
        ]
        later = (n for n, one in its if dt.datetime.fromisoformat(one.received_at) > ordered.ordered_at)
        first_here = index.lost.first_with_row([one for _, one in its])
        if found := [*later, *(its[place][0] for place in (first_here,) if place is not None)]:
            return min(found)
    return position


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


def _message(plan: DeletionPlan, order: Order, result: Result, detail: str) -> AuditMessage:
    event = AuditEvent.STUDY_DELETED if plan.level == "study" else AuditEvent.INSTANCES_ACCESSED
    subject = {"level": plan.level, "uid": plan.uid, "study_instance_uid": plan.study_instance_uid}
    objects = [{**subject, "patient_id": plan.patient_id, "instances": plan.instances}]
    if order.trash_until is not None:  # later, nothing else knows whose it was
        objects[0] |= {"patient_name": plan.patient_name, "accession_number": plan.accession_number}
    return AuditMessage.by(order.who, event, AuditAction.DELETE, detail, objects, result)
