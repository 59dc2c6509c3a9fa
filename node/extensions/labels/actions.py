"""Actions on labels and comments, with a line in the audit log for each: people may write names into them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from node.api import Action as RootAction
from node.api import AuditAction, AuditEvent, AuditMessage, OpenedRoot, UsageError
from node.extensions.labels.marks import MAX_TARGETS, Changed, MarkRepository, Target, label_of


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    ingest, audit = root.ingest, root.audit
    marks = ingest.index.repository(MarkRepository)

    def record(changed: Iterable[Changed], who: str, detail: str) -> None:
        studies = dict.fromkeys((one.target.study, one.patient_id) for one in changed)
        if studies:
            objects = [{"study_instance_uid": study, "patient_id": patient_id} for study, patient_id in studies]
            audit.note(AuditMessage.by(who, AuditEvent.INSTANCES_ACCESSED, AuditAction.UPDATE, detail, objects))

    def change_labels(
        targets: Sequence[Sequence[str]], who: str, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        if len(targets) > MAX_TARGETS:
            raise UsageError(f"{len(targets)} studies or series at a time are too many: at most {MAX_TARGETS}")
        new, gone = [label_of(one) for one in add], [" ".join(one.split()) for one in remove]
        changed = marks.change_labels([Target(*one) for one in targets], new, gone, who, ingest.now())
        record(changed, who, "labels changed")
        return {"changed": len(changed)}

    def set_labels(study: str, series: str, labels: Sequence[str], who: str) -> Mapping[str, Any]:
        wanted = sorted({label_of(one) for one in labels})
        record(marks.set_labels(Target(study, series), wanted, who, ingest.now()), who, "labels changed")
        return {"labels": wanted}

    def comment(study: str, series: str, comment: str, who: str) -> Mapping[str, Any]:
        target = Target(study, series)
        number, patient_id = marks.comment(target, comment, who, ingest.now())
        record([Changed(target, patient_id)], who, f"comment {number} written")
        return {"id": number}

    def remove_comment(number: int, who: str, *, any_account: bool = False) -> Mapping[str, Any]:
        record([marks.remove_comment(number, None if any_account else who)], who, f"comment {number} removed")
        return {"removed": number}

    return {
        "change-labels": change_labels,
        "set-labels": set_labels,
        "comment": comment,
        "remove-comment": remove_comment,
    }
