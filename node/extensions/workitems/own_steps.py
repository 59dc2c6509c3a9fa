"""What the node does as Unified Procedure Steps (PS3.4 CC): sends, retrievals, jobs, and conversions of series.

A step shows the present row of the ledger, or of the series. It leaves out the words of hooks and peers, which may name
the patient; the attributes of the patient are read with the row. Work that begins again after its end is another step.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, case, false, func, not_, or_, select
from sqlalchemy import Row as Selected

from node.counted import counted
from node.dicom.json_model import Json, elements
from node.dicom.matching import Query
from node.extensions.workitems import unified_steps as rules
from node.extensions.workitems.unified_steps import FINAL, State
from node.index.engine.rows import ReadRepository
from node.index.models import OPEN_STATES, ImageRow, PatientRow, SeriesRow, StudyRow, WorkRow
from node.index.nouns.conversions import Conclusion
from node.index.nouns.events import FinalKind
from node.index.search.conditions import restrictions
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

_OF_STUDY = (
    StudyRow.accession_number,
    PatientRow.patient_name,
    PatientRow.patient_id,
    PatientRow.issuer_of_patient_id,
    PatientRow.patient_birth_date,
    PatientRow.patient_sex,
)
_COLUMNS: tuple[Any, ...] = (
    *WorkRow.__table__.columns,
    case(*((condition, state) for state, condition in _IN_STATE.items())).label("step_state"),
    *_OF_STUDY,
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
        return counted(stored, "instance") + " came" if stored else ""
    if row.outcome == "cancelled":
        return f"cancelled by {row.cancelled_by}; {counted(stored, 'instance')} came"
    counts = f"{counted(stored, 'instance')} came, {refused} refused, {failed} failed at the peer"
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


COMPLETING: tuple[FinalKind, ...] = ("series-converted", "series-unchanged")
"""The events after which a conversion is COMPLETED; after the other final ones it is CANCELED."""


@dataclass(frozen=True, slots=True)
class ConversionStep:
    """A conversion of a series as a step.

    Attributes
    ----------
    predecessor : int
        The event that ended the conversion before, or 0.
    ended_by : FinalKind or None
        None while the conversion has not ended.
    revision : int or None
        The revision that the conversion makes, or that it found to be current.
    detail : str or None
        Why it ended without volumes, or why it waits for another attempt.
    """

    series_id: int
    study_instance_uid: str
    series_instance_uid: str
    accession_number: str | None
    patient_name: str | None
    patient_id: str | None
    issuer_of_patient_id: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    predecessor: int
    ended_by: FinalKind | None
    scheduled_at: dt.datetime | None
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    revision: int | None
    detail: str | None

    @property
    def state(self) -> State:
        """The state, which only ever changes from SCHEDULED to IN PROGRESS to a final one (PS3.4 CC.1.1)."""
        if self.ended_by is not None:
            return "COMPLETED" if self.ended_by in COMPLETING else "CANCELED"
        return "SCHEDULED" if self.started_at is None else "IN PROGRESS"


class ReadConversionSteps(ReadRepository):
    """Of each stored series, the conversion that it awaits, and the one that ended last."""

    def find(self, query: Query, states: Sequence[State], limit: int, offset: int) -> list[ConversionStep]:
        """Return a page of the conversions in one of `states`: first those that have not ended, then the newest.

        Parameters
        ----------
        query : Query
            Of level SERIES; its conditions hold for the series.
        """
        matching = restrictions(query)
        awaited = _series(_AWAITED, _is_one_of(_AWAITED_IN, states), *matching).order_by(SeriesRow.id.desc())
        found = [_awaited(row) for row in self._connection.execute(awaited.limit(limit).offset(offset))]
        if len(found) < limit:
            before = self._connection.scalar(select(func.count()).select_from(awaited.subquery())) or 0
            newest = SeriesRow.last_conversion["event"].as_integer().desc()
            ended = _series(_is_one_of(_ENDED_IN, states), *matching).order_by(newest)
            page = ended.limit(limit - len(found)).offset(max(offset - before, 0))
            found += [_ended(row) for row in self._connection.execute(page)]
        return found

    def of_series(self, series_id: int, query: Query) -> list[ConversionStep]:
        """Return the conversions of a series, the awaited one first; none if the series does not match `query`."""
        found: list[ConversionStep] = []
        for row in self._connection.execute(_series(SeriesRow.id == series_id, *restrictions(query))):
            found += [_awaited(row)] if row.state in OPEN_STATES else []
            found += [_ended(row)] if row.last_conversion is not None else []
        return found

    def instances(self, series_id: int, limit: int) -> list[tuple[str, str]]:
        """Return SOP Class and SOP Instance UIDs of at most `limit` instances of a series."""
        rows = select(ImageRow.sop_class_uid, ImageRow.sop_instance_uid).where(ImageRow.series_id == series_id)
        ordered = rows.order_by(ImageRow.instance_number.nulls_first(), ImageRow.sop_instance_uid)
        return [(row[0], row[1]) for row in self._connection.execute(ordered.limit(limit))]


_AWAITED = SeriesRow.state.in_(OPEN_STATES)
_AWAITED_IN: Mapping[State, ColumnElement[bool]] = {
    "SCHEDULED": SeriesRow.conversion_begun_at.is_(None),
    "IN PROGRESS": SeriesRow.conversion_begun_at.is_not(None),
}
_COMPLETED = SeriesRow.last_conversion["kind"].as_string().in_(COMPLETING)
_ENDED_IN: Mapping[State, ColumnElement[bool]] = {
    "COMPLETED": and_(SeriesRow.last_conversion.is_not(None), _COMPLETED),
    "CANCELED": and_(SeriesRow.last_conversion.is_not(None), not_(_COMPLETED)),
}


def _is_one_of(conditions: Mapping[State, ColumnElement[bool]], states: Sequence[State]) -> ColumnElement[bool]:
    return or_(false(), *(condition for state, condition in conditions.items() if state in states))


def _series(*conditions: ColumnElement[bool]) -> Select[Any]:
    columns: tuple[Any, ...] = (
        SeriesRow.id.label("series_id"),
        StudyRow.study_instance_uid,
        SeriesRow.series_instance_uid,
        *_OF_STUDY,
        SeriesRow.state,
        SeriesRow.due_at,
        SeriesRow.conversion_begun_at,
        SeriesRow.last_conversion,
        SeriesRow.revision,
        SeriesRow.attempts,
        SeriesRow.error,
    )
    return (
        select(*columns)
        .select_from(SeriesRow)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .join(PatientRow, PatientRow.id == StudyRow.patient_id)
        .where(*conditions)
    )


def _of_series(row: Selected[Any]) -> dict[str, Any]:
    """Return what both conversions of a series have in common."""
    names = "series_id", "study_instance_uid", "series_instance_uid", *(column.name for column in _OF_STUDY)
    return {name: getattr(row, name) for name in names}


def _awaited(row: Selected[Any]) -> ConversionStep:
    """Return the conversion that an open series awaits."""
    is_tried_again = row.attempts > 0 or (row.error or "").startswith("waits: ")
    return ConversionStep(
        **_of_series(row),
        predecessor=row.last_conversion["event"] if row.last_conversion is not None else 0,
        ended_by=None,
        scheduled_at=row.due_at,
        started_at=row.conversion_begun_at,
        ended_at=None,
        revision=row.revision + 1,
        detail=row.error if is_tried_again else None,
    )


def _ended(row: Selected[Any]) -> ConversionStep:
    """Return the conversion of a series that ended last."""
    last: Conclusion = row.last_conversion
    begun_at = dt.datetime.fromisoformat(last["begun_at"]) if last["begun_at"] is not None else None
    return ConversionStep(
        **_of_series(row),
        predecessor=last["predecessor"],
        ended_by=last["kind"],
        scheduled_at=begun_at,
        started_at=begun_at,
        ended_at=dt.datetime.fromisoformat(last["ended_at"]),
        revision=last["revision"],
        detail=last["detail"],
    )
