"""Sends, retrievals and jobs as Unified Procedure Steps that the node itself performs (PS3.4 CC).

A step shows the present row of the ledger. It leaves out the words of hooks and peers, which may name the patient; the
attributes of the patient are read with the row. Work that begins again after its end is another step.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, not_, or_, select
from sqlalchemy import Row as Selected

from node.dicom import unified_steps as rules
from node.dicom.json_model import Json, elements
from node.dicom.unified_steps import FINAL, State
from node.index.engine.rows import ReadRepository
from node.index.models import ImageRow, PatientRow, SeriesRow, StudyRow, WorkRow
from node.index.work.ledger import Lane
from node.index.work.states import Kind

LABELS: Mapping[Kind, tuple[str, str]] = {
    "route": ("Send to", "Sends"),
    "retrieval": ("Retrieve from", "Retrievals"),
    "job": ("Job of hook", "Jobs"),
}
"""Begin of *Procedure Step Label* (0074,1204), and *Worklist Label* (0074,1202), of the kinds that are steps."""

CODES: Mapping[Kind, tuple[str, str, str]] = {
    "route": ("110106", "DCM", "Export"),
    "retrieval": ("110107", "DCM", "Import"),
    "job": ("110001", "DCM", "Image Processing"),
}
"""*Scheduled Workitem Code Sequence* (0040,4018); PS3.16 CID 9231 has no codes for the first two."""

_FAILED = ("110501", "DCM", "Equipment failure")
_CANCELLED = ("110513", "DCM", "Discontinued for unspecified reason")

_UUID_8 = 8 << 76 | 2 << 62
"""Version and variant of a UUID with a layout of its own (RFC 9562 5.8)."""

_DIGEST_BITS = 74

_IS_STEP = and_(
    WorkRow.kind.in_(tuple(LABELS)),
    # Messages of single instances are so many that nobody watches them.
    WorkRow.sop_instance_uid.is_(None),
    or_(WorkRow.event.is_(None), WorkRow.event != "changed"),
    or_(WorkRow.outcome.is_(None), WorkRow.outcome != "skipped"),
)
_IS_OPEN = WorkRow.outcome.is_(None)
_IS_BEGUN = or_(WorkRow.state == "running", WorkRow.tried_at.is_not(None), WorkRow.percent.is_not(None))
_IN_STATE: Mapping[State, ColumnElement[bool]] = {
    "SCHEDULED": and_(_IS_OPEN, not_(_IS_BEGUN)),
    "IN PROGRESS": and_(_IS_OPEN, _IS_BEGUN),
    "COMPLETED": WorkRow.outcome == "succeeded",
    "CANCELED": and_(WorkRow.outcome.is_not(None), WorkRow.outcome != "succeeded"),
}
"""The *Procedure Step State*, which never goes back (PS3.4 CC.1.1): between two attempts, a step is in progress."""

_COLUMNS: tuple[Any, ...] = (
    *WorkRow.__table__.columns,
    case(*((condition, state) for state, condition in _IN_STATE.items())).label("step_state"),
    StudyRow.accession_number,
    PatientRow.patient_name,
    PatientRow.patient_id,
    PatientRow.issuer_of_patient_id,
    PatientRow.patient_birth_date,
    PatientRow.patient_sex,
)


@dataclass(frozen=True, slots=True)
class ProcedureStep:
    """Work of the node as a step; `attributes` are in the DICOM JSON Model, without its UIDs."""

    id: int
    sop_instance_uid: str
    state: State
    attributes: Json
    lane: Lane
    key: str
    study_instance_uid: str
    series_instance_uid: str | None


class ReadProcedureSteps(ReadRepository):
    """The rows of ``work`` that are steps."""

    def one(self, uid: str) -> ProcedureStep | None:
        """Return the step with a UID, or None."""
        return next(self._steps(_rows(), [uid]), None)

    def all(
        self, states: Collection[State], uids: Sequence[str] | None = None, patient_id: str | None = None
    ) -> Iterator[ProcedureStep]:
        """Yield the steps in one of `states`: first those that have not ended, then the newest.

        Parameters
        ----------
        uids : sequence of str or None
            Yield only these.
        patient_id : str or None
            Yield only those of this Patient ID.
        """
        query = _rows().order_by(WorkRow.id.desc())
        if patient_id is not None:
            query = query.where(PatientRow.patient_id == patient_id)
        for is_final in (False, True):
            wanted = [_IN_STATE[state] for state in states if (state in FINAL) == is_final]
            if wanted:
                yield from self._steps(query.where(or_(*wanted)), uids)

    def instances(self, step: ProcedureStep, limit: int) -> list[tuple[str, str]]:
        """Return SOP Class and SOP Instance UIDs of at most `limit` instances that a step is about."""
        of_step = [StudyRow.study_instance_uid == step.study_instance_uid]
        if step.series_instance_uid is not None:
            of_step.append(SeriesRow.series_instance_uid == step.series_instance_uid)
        rows = select(ImageRow.sop_class_uid, ImageRow.sop_instance_uid).join_from(ImageRow, SeriesRow).join(StudyRow)
        order = SeriesRow.id, ImageRow.instance_number.nulls_first(), ImageRow.sop_instance_uid
        ordered = rows.where(*of_step).order_by(*order)
        return [(row[0], row[1]) for row in self._connection.execute(ordered.limit(limit))]

    def _steps(self, query: Select[Any], uids: Sequence[str] | None) -> Iterator[ProcedureStep]:
        if uids is not None:
            query = query.where(WorkRow.id.in_([id for uid in uids if (id := _id_in(uid)) is not None]))
        for row in self._connection.execute(query):
            step = _step(row)
            if uids is None or step.sop_instance_uid in uids:
                yield step


def _rows() -> Select[Any]:
    return (
        select(*_COLUMNS)
        .select_from(WorkRow)
        .outerjoin(StudyRow, StudyRow.study_instance_uid == WorkRow.study_instance_uid)
        .outerjoin(PatientRow, PatientRow.id == StudyRow.patient_id)
        .where(_IS_STEP)
    )


def _uid(row: Selected[Any]) -> str:
    """Return the SOP Instance UID of a step, always the same one: ``2.25.`` and a UUID (PS3.5 B.2).

    The UUID has 48 bits with the row, by which it is found, and 74 bits of a digest of what tells it from others.
    """
    parts = row.kind, row.name, row.destination, row.key, str(row.repeats)
    digest = int.from_bytes(sha256("\0".join(parts).encode()).digest()[:10], "big") >> (80 - _DIGEST_BITS)
    value = row.id << 80 | _UUID_8 | (digest >> 62) << 64 | digest & (1 << 62) - 1
    return f"2.25.{UUID(int=value).int}"


def _id_in(uid: str) -> int | None:
    """Return the row in the UID of a step, or None if it is none of ours."""
    if not re.fullmatch(r"2\.25\.[1-9][0-9]{0,38}", uid):
        return None
    value = int(uid[5:])
    is_ours = value < 1 << 128 and (value >> 76) & 15 == 8 and (value >> 62) & 3 == 2
    return value >> 80 if is_ours else None


def _step(row: Selected[Any]) -> ProcedureStep:
    lane, uids = Lane(row.kind, row.name, row.destination), (row.study_instance_uid, row.series_instance_uid)
    state = row.step_state
    return ProcedureStep(row.id, _uid(row), state, _attributes(row, state), lane, row.key, *uids)


def _attributes(row: Selected[Any], state: State) -> Json:
    label, worklist = LABELS[row.kind]
    inputs = {"TypeOfInstances": "DICOM", "StudyInstanceUID": row.study_instance_uid}
    if row.series_instance_uid is not None:
        inputs["SeriesInstanceUID"] = row.series_instance_uid
    request = {
        "StudyInstanceUID": row.study_instance_uid,
        "AccessionNumber": row.accession_number,
        "RequestedProcedureID": None,
    }
    step = {
        "PatientName": row.patient_name,
        "PatientID": row.patient_id,
        "IssuerOfPatientID": row.issuer_of_patient_id,
        "PatientBirthDate": row.patient_birth_date,
        "PatientSex": row.patient_sex,
        "ScheduledProcedureStepPriority": "MEDIUM",
        "ProcedureStepLabel": f"{label} {row.destination or row.name}"[:64],
        "WorklistLabel": worklist,
        "ScheduledProcedureStepStartDateTime": row.created_at,
        "ScheduledWorkitemCodeSequence": [_code(CODES[row.kind])],
        "CommentsOnTheScheduledProcedureStep": f"requested by {row.requested_by}",
        "InputReadinessState": "READY",
        "InputInformationSequence": [inputs],
        "ReferencedRequestSequence": [request],
        "ReplacedProcedureStepSequence": [],
        "ProcedureStepState": state,
        rules.PROGRESS: _progress(row, state),
        rules.PERFORMED: [] if state == "SCHEDULED" else [_performed(row)],
    }
    return rules.completed_by_empty(elements(step), row.changed_at)


def _progress(row: Selected[Any], state: State) -> list[dict[str, Any]]:
    text = _text(row)
    if state == "CANCELED":
        is_failure = row.outcome in ("incomplete", "failed", "expired")
        return [
            {
                "ProcedureStepCancellationDateTime": row.ended_at,
                "ReasonForCancellation": text,
                rules.REASON_CODE: [_code(_FAILED if is_failure else _CANCELLED)],
            }
        ]
    percent = 100 if state == "COMPLETED" and row.kind == "retrieval" else row.percent
    if percent is None and not text:
        return []
    item: dict[str, Any] = {"ProcedureStepProgressDescription": text or None}
    return [item if percent is None else {"ProcedureStepProgress": str(percent), **item}]


def _text(row: Selected[Any]) -> str:
    """Return the progress of work, or the reason of its end, without the words of hooks and peers."""
    if row.kind == "route":
        return row.reason or ""
    if row.kind == "job":
        return f"the job has {_ENDED[row.outcome]}: see job {row.key}" if row.outcome not in _UNSAID else ""
    stored, refused, failed = (row.payload[name] for name in ("stored", "refused", "failed"))
    if row.outcome in _UNSAID:
        return f"{stored} instances came" if stored else ""
    if row.outcome == "cancelled":
        return f"cancelled by {row.cancelled_by}; {stored} instances came"
    counts = f"{stored} instances came, {refused} were refused, {failed} failed at the peer"
    return f"{row.outcome}: {counts}; see retrieval {row.key}"


_UNSAID = (None, "succeeded")
_ENDED = {"failed": "failed", "cancelled": "been cancelled", "expired": "expired"}


def _performed(row: Selected[Any]) -> dict[str, Any]:
    return {
        "ActualHumanPerformersSequence": [],
        "PerformedStationNameCodeSequence": [],
        "PerformedProcedureStepStartDateTime": row.tried_at or row.ended_at or row.changed_at,
        "PerformedProcessingParametersSequence": [],
        "PerformedWorkitemCodeSequence": [_code(CODES[row.kind])],
        "PerformedProcedureStepEndDateTime": row.ended_at,
        "OutputInformationSequence": [],
    }


def _code(code: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), code, strict=True))
