"""Actions on patients, with an audit line before and after each: merge, correct, separate, reopen."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from node.api import Action as RootAction
from node.api import AuditAction, AuditEvent, AuditMessage, Correction, Moved, OpenedRoot, PersonRepository, Terms


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    ingest, audit = root.ingest, root.audit
    index = ingest.index
    persons = index.repository(PersonRepository)

    def change(order: str, who: str, make: Callable[[], Moved]) -> Mapping[str, Any]:
        index.ahead.require_caught_up()
        ordered = _message(AuditAction.UPDATE, who, order)
        moved = audit.change(
            ordered, make, lambda moved: _message(AuditAction.UPDATE, who, order, moved.patient_ids, moved.studies)
        )
        return {"studies": list(moved.studies)}

    def plan(order: str, who: str, moved: Moved) -> Mapping[str, Any]:
        audit.note(_message(AuditAction.READ, who, f"planned: {order}", moved.patient_ids, moved.studies))
        return {"studies": list(moved.studies)}

    def merge(
        source: int, target: int, who: str, terms: Terms | None = None, *, dry_run: bool = False
    ) -> Mapping[str, Any]:
        order = f"merge patient #{source} into #{target}"
        if dry_run:
            return plan(order, who, persons.planned_merge(source, target))
        return change(order, who, lambda: persons.merge(source, target, index.now(), terms, who))

    def correct(
        patient: int,
        who: str,
        correction: Mapping[str, str | None],
        study: str | None = None,
        terms: Terms | None = None,
        *,
        dry_run: bool = False,
    ) -> Mapping[str, Any]:
        right = Correction(**correction)
        names = ", ".join(name for name, value in correction.items() if value is not None)
        order = f"correct {_whose(patient, study)}: {names}"
        if dry_run:
            return plan(order, who, persons.planned_correction(patient, right, study)[0])
        return change(order, who, lambda: persons.correct(patient, right, index.now(), study, terms, who))

    def separate(
        patient: int,
        who: str,
        issuer: str | None = None,
        study: str | None = None,
        terms: Terms | None = None,
        *,
        dry_run: bool = False,
    ) -> Mapping[str, Any]:
        order = f"separate {_whose(patient, study)}" + (", with an issuer of its own" if issuer else "")
        if dry_run:
            return plan(order, who, persons.planned_separation(patient, issuer, study))
        return change(order, who, lambda: persons.separate(patient, index.now(), issuer, terms, study))

    def reopen(conflict: int, who: str) -> Mapping[str, Any]:
        return change(f"open conflict {conflict} again", who, lambda: Moved((), persons.reopen(conflict)))

    return {
        "merge-patients": merge,
        "correct-patient": correct,
        "separate-patient": separate,
        "reopen-conflict": reopen,
    }


def _whose(patient: int, study: str | None) -> str:
    return f"patient #{patient}" if study is None else f"one study of patient #{patient}"


def _message(
    action: AuditAction, who: str, detail: str, patients: Sequence[str] = (), studies: Sequence[str] = ()
) -> AuditMessage:
    objects = [
        *({"patient_id": patient_id} for patient_id in patients),
        *({"study_instance_uid": uid} for uid in studies),
    ]
    return AuditMessage.by(who, AuditEvent.PATIENT_RECORD, action, detail, objects)
