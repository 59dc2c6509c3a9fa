"""Modality Performed Procedure Step as a service provider: its rules, N-CREATE and N-SET (PS3.4 F.7), N-GET (F.8).

A step is a row, and its commit is durable, before it is answered with success.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import generate_uid
from sqlalchemy import Connection, delete, insert, select, update

from node.association.operation import Operation, RequestRefused
from node.audit.audit_log import DESTINATION, SOURCE, Audit, AuditAction, AuditEvent, AuditMessage, Participant, Result
from node.dicom.attributes import MAX_TEXT_BYTES, is_identifier, is_short
from node.dicom.command import N_CREATE_RQ, N_GET_RQ, N_SET_RQ, MalformedCommand
from node.dicom.json_model import Json, entry_text, json_model
from node.dicom.status import (
    DUPLICATE_INSTANCE,
    INVALID_ATTRIBUTE_VALUE,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
)
from node.dicom.values import standard_tag, value
from node.errors import VoxelnodeError
from node.extensions.worklist.orders import identified
from node.extensions.worklist.queries import data_set_of, with_character_set
from node.extensions.worklist.scheduled_rows import IN_PROGRESS, set_state
from node.index.rows.models.history import PerformedSeriesRow, PerformedStepRow
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rules.series.verdicts import judge_by_list

SCHEDULED = "ScheduledStepAttributesSequence"
STATUS = "PerformedProcedureStepStatus"
State = Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
"""*Performed Procedure Step Status* (0040,0252)."""

FINAL: tuple[State, ...] = ("COMPLETED", "DISCONTINUED")

REQUIRED = (
    SCHEDULED, "PerformedProcedureStepID", "PerformedStationAETitle",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", STATUS, "Modality",
)  # fmt: skip
"""Attributes of type 1 in an N-CREATE (PS3.4 table F.7.2-1)."""

REQUIRED_AT_END = ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime")
"""Attributes that a final state requires; COMPLETED also requires `SERIES`."""

SERIES = "PerformedSeriesSequence"

FIXED = frozenset(
    {
        SCHEDULED, "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
        "PerformedProcedureStepID", "PerformedStationAETitle", "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime", "Modality", "StudyID",
    }
)  # fmt: skip
"""Attributes that an N-SET must not change (PS3.4 table F.7.2-1: not allowed)."""

STEP_IS_OVER = 0xA710
"""*Error ID* (0000,0903): the step may no longer be updated (PS3.4 F.7.2.2.4)."""

REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
"""The instances of a series in a step (PS3.3 C.4.15)."""


class StepRefused(VoxelnodeError):
    """A rule of PS3.4 F.7.2 is broken; `status` is that of the response, `tags` the attributes, if it names any."""

    def __init__(self, status: int, message: str, keywords: Sequence[str] = (), error_id: int | None = None) -> None:
        super().__init__(message)
        self.status, self.error_id = status, error_id
        self.tags: tuple[BaseTag, ...] = tuple(standard_tag(keyword) for keyword in keywords)


@dataclass(frozen=True, slots=True)
class ListedSeries:
    """A series that a step lists, with the SOP Instance UIDs of its instances."""

    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PerformedStep:
    """A performed procedure step.

    `scheduled`: Study Instance UID, Scheduled Procedure Step ID and Accession Number of the steps that were performed.
    `attributes`: all its attributes in the DICOM JSON Model.
    """

    sop_instance_uid: str
    state: State
    study_instance_uid: str
    patient_id: str | None
    accession_number: str | None
    performed_procedure_step_id: str | None
    modality: str | None
    station_ae_title: str | None
    scheduled: tuple[tuple[str, ...], ...]
    series: tuple[ListedSeries, ...]
    attributes: Json

    def values(self) -> dict[str, Any]:
        """Return the columns of its row."""
        names = ("patient_id", "accession_number", "performed_procedure_step_id", "modality", "station_ae_title")
        return {name: getattr(self, name) for name in (*names, "sop_instance_uid", "state", "attributes")} | {
            "study_instance_uid": self.study_instance_uid or None,
            "series": len(self.series),
            "instances": sum(len(series.sop_instance_uids) for series in self.series),
        }


def created(sop_instance_uid: str, attributes: Dataset) -> PerformedStep:
    """Return the step that an N-CREATE describes, or raise StepRefused."""
    model = _model(attributes)
    missing = [keyword for keyword in REQUIRED if not _values(model, keyword)]
    missing += [SCHEDULED] if not missing and not _items(model, SCHEDULED) else []
    if missing:
        raise StepRefused(_lacking(model, missing), f"{missing[0]} is missing (PS3.4 table F.7.2-1)", missing)
    if entry_text(model, STATUS) != "IN PROGRESS":
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, "a new step must be IN PROGRESS (PS3.4 F.7.2.1.2)", [STATUS])
    for item in _items(model, SCHEDULED):
        if not is_identifier(entry_text(item, "StudyInstanceUID")):
            message = "Study Instance UID is missing in an item (PS3.4 table F.7.2-1)"
            raise StepRefused(_lacking(item, ["StudyInstanceUID"]), message, ["StudyInstanceUID"])
    return _step(sop_instance_uid, model)


def changed(sop_instance_uid: str, before: Json, modification: Dataset) -> PerformedStep:
    """Return the step after an N-SET: attributes that it has are replaced, sequences as a whole (PS3.4 F.7.2.2.2)."""
    new = _model(modification)
    for keyword in sorted(FIXED):
        tag = f"{standard_tag(keyword):08X}"
        if new.get(tag, {}).get("Value") not in (None, before.get(tag, {}).get("Value")):
            raise StepRefused(INVALID_ATTRIBUTE_VALUE, f"{keyword} must not change (PS3.4 table F.7.2-1)", [keyword])
    after = {**before, **new}
    state = entry_text(after, STATUS)
    if state not in ("IN PROGRESS", *FINAL):
        message = "the status must be IN PROGRESS, COMPLETED or DISCONTINUED (PS3.3 C.4.14)"
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, message, [STATUS])
    required = (*REQUIRED_AT_END, SERIES) if state == "COMPLETED" else REQUIRED_AT_END if state in FINAL else ()
    missing = [keyword for keyword in required if not _values(after, keyword)]
    if missing:
        message = f"a {state} step needs {missing[0]} (PS3.4 table F.7.2-1)"
        raise StepRefused(MISSING_ATTRIBUTE_VALUE, message, missing)  # N-SET has no 0x0120: PS3.7 10.1.3.1.9
    return _step(sop_instance_uid, after)


def _step(sop_instance_uid: str, model: Json) -> PerformedStep:
    scheduled = _items(model, SCHEDULED)
    studies = dict.fromkeys(entry_text(item, "StudyInstanceUID") or "" for item in scheduled)
    keywords = "StudyInstanceUID", "ScheduledProcedureStepID", "AccessionNumber"
    steps = (tuple(entry_text(item, keyword) or "" for keyword in keywords) for item in scheduled)
    state: State = next(known for known in ("IN PROGRESS", *FINAL) if known == entry_text(model, STATUS))
    return PerformedStep(
        sop_instance_uid=sop_instance_uid,
        state=state,
        study_instance_uid=next(iter(studies)) if len(studies) == 1 else "",
        patient_id=_column(model, "PatientID"),
        accession_number=_column(scheduled[0], "AccessionNumber") if scheduled else None,
        performed_procedure_step_id=_column(model, "PerformedProcedureStepID"),
        modality=_column(model, "Modality"),
        station_ae_title=_column(model, "PerformedStationAETitle"),
        scheduled=tuple(step for step in steps if step[0]),
        series=tuple(_listed(model)),
        attributes=model,
    )


def _listed(model: Json) -> Iterator[ListedSeries]:
    """Yield the series that a step lists; what is not a UID is left out."""
    for series in _items(model, SERIES):
        uid = entry_text(series, "SeriesInstanceUID")
        references = (item for keyword in REFERENCES for item in _items(series, keyword))
        uids = (entry_text(item, "ReferencedSOPInstanceUID") for item in references)
        if uid is not None and is_identifier(uid):
            yield ListedSeries(uid, tuple(dict.fromkeys(one for one in uids if one is not None and is_identifier(one))))


def _model(ds: Dataset) -> Json:
    """Return a data set in the DICOM JSON Model: text as it is in UTF-8, and without long values."""
    model = json_model(ds, lambda path: None)
    model.pop("00080005", None)
    return model


def _values(model: Json, keyword: str) -> list[Any]:
    values: list[Any] = model.get(f"{standard_tag(keyword):08X}", {}).get("Value", [])
    return [value for value in values if value not in (None, "")]


def _lacking(model: Json, keywords: Sequence[str]) -> int:
    """Return the status of an N-CREATE without these attributes, or with empty ones (PS3.7 10.1.5.1.6)."""
    is_there = all(f"{standard_tag(keyword):08X}" in model for keyword in keywords)
    return MISSING_ATTRIBUTE_VALUE if is_there else MISSING_ATTRIBUTE


def _items(model: Json, keyword: str) -> list[Json]:
    return [item for item in _values(model, keyword) if isinstance(item, dict)]


def _column(model: Json, keyword: str) -> str | None:
    """Return a text for a column: without characters that could harm a terminal."""
    text = "".join(character for character in entry_text(model, keyword) or "" if character.isprintable())
    if not is_short(text):
        message = f"{keyword} has more than {MAX_TEXT_BYTES} bytes of text"
        raise StepRefused(INVALID_ATTRIBUTE_VALUE, message, [keyword])
    return text or None


MAXIMUM_ELEMENTS = 200_000
"""Most elements and items of a data set: the list of a step may name 65 000 instances."""

MAX_TRIES = 5
"""Tries to change a step that another association changes at the same time."""


class PerformedStepRepository(IndexRepository):
    """The performed procedure steps."""

    @on_writer
    def create(self, connection: Connection, step: PerformedStep, calling_ae_title: str, now: dt.datetime) -> bool:
        """Add a step that is in progress; return False if there is one with its UID."""
        is_there = select(PerformedStepRow.id).where(PerformedStepRow.sop_instance_uid == step.sop_instance_uid)
        if connection.execute(is_there).first() is not None:
            return False
        values = {**step.values(), "calling_ae_title": calling_ae_title, "created_at": now, "changed_at": now}
        values["patient_id"] = identified(connection, step.attributes)["patient_id"]
        connection.execute(insert(PerformedStepRow).values(values))
        _note_scheduled(connection, step)
        return True

    @on_reader
    def current(self, connection: Connection, sop_instance_uid: str) -> tuple[State, Json, dt.datetime] | None:
        """Return state and attributes of a step, and when it changed last; None if there is none."""
        row = PerformedStepRow
        query = select(row.state, row.attributes, row.changed_at).where(row.sop_instance_uid == sop_instance_uid)
        found = connection.execute(query).first()
        return None if found is None else (found.state, found.attributes, found.changed_at)

    @on_writer
    def change(self, connection: Connection, step: PerformedStep, seen: dt.datetime, now: dt.datetime) -> bool:
        """Change a step that is in progress. The series that an ended step lists are judged by its lists.

        False if the step is no longer as `current` returned it: it changed after `seen`.
        """
        row = PerformedStepRow
        is_it = row.sop_instance_uid == step.sop_instance_uid, row.state == "IN PROGRESS", row.changed_at == seen
        ended = step.state != "IN PROGRESS"
        values = {**step.values(), "changed_at": max(now, seen + dt.timedelta(microseconds=1))}
        values["patient_id"] = identified(connection, step.attributes)["patient_id"]
        if ended:
            values["ended_at"] = now
        id = connection.execute(update(row).where(*is_it).values(values).returning(row.id)).scalar()
        if id is None:
            return False
        _note_scheduled(connection, step)
        if ended:
            _note_lists(connection, id, step, now)
        return True

    @on_writer
    def remove_old(self, connection: Connection, before: dt.datetime) -> int:
        """Remove the steps whose last message came before a moment; return how many."""
        return connection.execute(delete(PerformedStepRow).where(PerformedStepRow.changed_at < before)).rowcount


@dataclass(frozen=True, slots=True)
class StepService:
    """What the service of performed procedure steps needs of the node."""

    steps: PerformedStepRepository
    audit: Audit | None = None
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)


def serve_n_create(operation: Operation, service: StepService) -> None:
    """Serve one N-CREATE-RQ, on the thread of the association.

    Statuses are those of PS3.7 10.1.5.1.6 and PS3.4 F.7.2.1.4:

    * 0x0000: the step is kept
    * 0x0106: the status is not IN PROGRESS, or a UID is none
    * 0x0120: an attribute of type 1 is missing; 0x0121: it has no value
    * 0x0111: there is a step with this UID; 0x0110: the data set cannot be decoded, or an internal error
    * 0x0122: the presentation context belongs to another service
    """

    def create() -> PerformedStep:
        # By the SCP if the SCU names none, PS3.7 10.1.5.
        uid = operation.parameter("AffectedSOPInstanceUID") or generate_uid(None)
        if not is_identifier(uid):
            raise StepRefused(INVALID_ATTRIBUTE_VALUE, "Affected SOP Instance UID is not a UID (PS3.5 9.1)")
        step = created(str(uid), operation.data_set(PROCESSING_FAILURE, MAXIMUM_ELEMENTS))
        if not service.steps.create(step, operation.origin.calling_ae_title, service.now()):
            raise StepRefused(DUPLICATE_INSTANCE, "there is a step with this UID")
        return step

    _serve(operation, service, N_CREATE_RQ, create)


def serve_n_set(operation: Operation, service: StepService) -> None:
    """Serve one N-SET-RQ, on the thread of the association.

    Statuses are those of PS3.7 10.1.3.1.9 and PS3.4 F.7.2.2.4:

    * 0x0000: the change is kept
    * 0x0106: an attribute has a value that it must not have; 0x0121: the final state lacks one
    * 0x0110: with Error ID 0xA710, the step is over; else the data set cannot be decoded, or an internal error
    * 0x0112: there is no such step; 0x0122: the presentation context belongs to another service
    """

    def change() -> PerformedStep:
        uid = operation.parameter("RequestedSOPInstanceUID")
        modification = operation.data_set(PROCESSING_FAILURE, MAXIMUM_ELEMENTS)
        for _ in range(MAX_TRIES):
            current = service.steps.current(uid)
            if current is None:
                raise StepRefused(NO_SUCH_INSTANCE, "there is no step with this UID")
            state, before, seen = current
            if state != "IN PROGRESS":
                message = f"the step is {state} and may no longer be updated"
                raise StepRefused(PROCESSING_FAILURE, message, error_id=STEP_IS_OVER)
            step = changed(uid, before, modification)
            if service.steps.change(step, seen, service.now()):
                return step
        raise StepRefused(PROCESSING_FAILURE, "the step is changed by others at the same time: try again")

    _serve(operation, service, N_SET_RQ, change)


def serve_n_get(operation: Operation, service: StepService) -> None:
    """Serve one N-GET-RQ, on the thread of the association: a step, or the attributes of it that are asked for.

    Statuses are those of PS3.7 10.1.2.1.9:

    * 0x0000: attributes that the step lacks are absent
    * 0x0110: an internal error
    * 0x0112: there is no such step; 0x0122: the presentation context belongs to another service
    """
    found = Dataset()

    def get() -> PerformedStep:
        uid = operation.parameter("RequestedSOPInstanceUID")
        current = service.steps.current(uid)
        if current is None:
            raise StepRefused(NO_SUCH_INSTANCE, "there is no step with this UID")
        asked = value(operation.request, "AttributeIdentifierList")
        tags = {int(tag) for tag in (asked if isinstance(asked, Sequence) else (asked,))} if asked is not None else None
        attributes = {tag: one for tag, one in current[1].items() if tags is None or int(tag, 16) in tags}
        found.update(with_character_set(data_set_of(attributes)))
        return _step(uid, current[1])

    _serve(operation, service, N_GET_RQ, get, found)


def _serve(
    operation: Operation,
    service: StepService,
    field: int,
    serve: Callable[[], PerformedStep],
    found: Dataset | None = None,
) -> None:
    """Answer by a step that `serve` returns; `found`: the data set of a successful response."""
    step, status, comment = None, SUCCESS, ""
    parameters: dict[str, Any] = {}
    try:
        step = serve()
        operation.log.info("performed_step", state=step.state, sop_instance_uid=step.sop_instance_uid)
    except StepRefused as refused:
        status, comment = refused.status, str(refused)
        if refused.error_id is not None:
            parameters["ErrorID"] = refused.error_id
        if refused.tags:
            parameters["AttributeIdentifierList"] = list(refused.tags)
    except RequestRefused as error:
        status, comment = error.status, str(error)
    except MalformedCommand:
        raise
    except Exception as error:
        operation.log.error("performed_step_failed", exc_info=error)
        status, comment = PROCESSING_FAILURE, "internal failure, see the log of this node"
    if status != SUCCESS:
        operation.log.warning("performed_step_refused", status=f"0x{status:04X}", reason=comment)
    asked = operation.parameter("AffectedSOPInstanceUID") or operation.parameter("RequestedSOPInstanceUID")
    uid = step.sop_instance_uid if step else asked
    if is_identifier(uid):
        parameters["AffectedSOPInstanceUID"] = uid
    _note(operation, service, field, step, status)
    operation.respond(status, found if status == SUCCESS else None, comment, **parameters)


_ACTIONS = {N_CREATE_RQ: AuditAction.CREATE, N_GET_RQ: AuditAction.READ, N_SET_RQ: AuditAction.UPDATE}


def _note(operation: Operation, service: StepService, field: int, step: PerformedStep | None, status: int) -> None:
    """Record in the audit log what a modality reported of a step, or who read it (PS3.15 A.5.3.9)."""
    if service.audit is None:
        return
    origin = operation.origin
    objects = [] if step is None else [
        {"study_instance_uid": step.study_instance_uid, "patient_id": step.patient_id or "",
         "sop_instance_uid": step.sop_instance_uid}
    ]  # fmt: skip
    message = AuditMessage(
        AuditEvent.PROCEDURE_RECORD,
        _ACTIONS[field],
        Result.SUCCESS if step is not None else Result.MINOR_FAILURE,
        [
            Participant(origin.calling_ae_title, SOURCE, origin.address, True, origin.certificate),
            Participant(origin.called_ae_title, DESTINATION),
        ],
        objects,
        f"performed procedure step {step.state}" if step is not None else f"refused, 0x{status:04X}",
    )
    service.audit.note(message)


_STATE_OF_SCHEDULED = {"IN PROGRESS": IN_PROGRESS, "COMPLETED": "completed", "DISCONTINUED": "discontinued"}


def _note_scheduled(connection: Connection, step: PerformedStep) -> None:
    for scheduled in step.scheduled:
        set_state(connection, *scheduled, state=_STATE_OF_SCHEDULED[step.state])


def _note_lists(connection: Connection, id: int, step: PerformedStep, now: dt.datetime) -> None:
    listed: Sequence[ListedSeries] = [series for series in step.series if series.sop_instance_uids]
    study = step.study_instance_uid or None
    rows = [
        {
            "performed_step_id": id,
            "study_instance_uid": study,
            "series_instance_uid": series.series_instance_uid,
            "sop_instance_uids": list(series.sop_instance_uids),
        }
        for series in listed
    ]
    if rows:
        connection.execute(insert(PerformedSeriesRow), rows)
    for uid in dict.fromkeys(series.series_instance_uid for series in listed):
        judge_by_list(connection, (study or "", uid), now, is_over=step.state == "DISCONTINUED")
