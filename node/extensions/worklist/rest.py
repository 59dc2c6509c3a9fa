"""Procedure steps: list, show, add, change and remove scheduled ones; list and show performed ones; their page."""

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from node.audit.audit_log import AuditAction, AuditEvent
from node.dicom.attributes import MAX_TEXT_BYTES
from node.extensions.worklist.listed import StepViews
from node.extensions.worklist.modality_worklist import step_of
from node.extensions.worklist.scheduled_rows import ScheduledStepRepository
from node.extensions.worklist.settings import WorklistSettings
from node.index.look.views import ReadIndex
from node.index.rows.repositories import Row, Terms
from node.web.access import READERS, WRITERS, CurrentCall
from node.web.api.models import MAX_ID, Resource, RowId, TimeOfDay
from node.web.api.routing import (
    OF_CHANGES,
    Change,
    OptionalStudyUid,
    Page,
    RequestedPage,
    api_router,
    problems,
    single,
    tagged,
)
from node.web.audit_trail import AccountAuditTrail, of_study
from node.web.errors import EntryOfFile, EntryThere, ResourceNotFound
from node.web.pages import rendering
from node.web.pages.rendering import PageNumber, part_of_page, rows_of_page
from node.web.problem_types import CONFLICT, WRONG_CURSOR
from node.web.services import Services


class ScheduledStepResource(Resource):
    """An entry of the modality worklist: a scheduled procedure step; `source` is rest, file or hl7."""

    id: RowId
    source: str
    state: str
    patient_id: str | None
    patient_name: str | None
    accession_number: str | None
    study_instance_uid: str | None
    requested_procedure_id: str | None
    scheduled_procedure_step_id: str | None
    modality: str | None
    station_ae_title: str | None
    start_date: dt.date | None
    start_time: TimeOfDay
    description: str | None
    created_at: dt.datetime
    changed_at: dt.datetime


class ScheduledStepWithAttributes(ScheduledStepResource):
    """An entry of the modality worklist with all its attributes, in the DICOM JSON Model."""

    attributes: dict[str, Any]


class RemovedEntry(Resource):
    """The number of an entry that was removed."""

    removed: RowId


Text = Annotated[str | None, Field(max_length=MAX_TEXT_BYTES)]
Name = Annotated[str | None, Field(max_length=MAX_TEXT_BYTES, description="with ^ between family and given name")]


class ScheduledStepForm(BaseModel):
    """A scheduled procedure step for the modality worklist.

    Patient ID and name, modality, station and start date must be given, in the plain fields or in `attributes`.
    """

    model_config = ConfigDict(extra="forbid")

    patient_id: Text = None
    patient_name: Name = None
    patient_birth_date: dt.date | None = None
    patient_sex: Annotated[str | None, Field(pattern="^[MFO]$")] = None
    accession_number: Text = None
    referring_physician_name: Name = None
    study_instance_uid: Annotated[str | None, Field(max_length=64, pattern=r"^[0-9.]+$")] = None
    requested_procedure_id: Text = None
    scheduled_procedure_step_id: Text = None
    modality: Text = None
    station_ae_title: Annotated[str | None, Field(max_length=16)] = None
    station_name: Text = None
    start_date: dt.date | None = None
    start_time: Annotated[str | None, Field(pattern=r"^\d\d:\d\d(:\d\d)?$")] = None
    description: Text = None
    attributes: Annotated[
        dict[str, Any] | None,
        Field(description="further attributes, in the DICOM JSON Model (PS3.18 F.2); a plain field counts more"),
    ] = None

    def fields(self) -> dict[str, str]:
        """Return the plain fields that are given, as texts of DICOM."""
        given = self.model_dump(exclude={"attributes"}, exclude_none=True)
        return {name: f"{value:%Y%m%d}" if isinstance(value, dt.date) else value for name, value in given.items()} | (
            {"start_time": self.start_time.replace(":", "")} if self.start_time else {}
        )


class PerformedStepResource(Resource):
    """A performed procedure step, with the numbers of series and instances that it lists."""

    id: RowId
    sop_instance_uid: str
    state: str
    study_instance_uid: str | None
    patient_id: str | None
    accession_number: str | None
    performed_procedure_step_id: str | None
    modality: str | None
    station_ae_title: str | None
    series: int
    instances: int
    calling_ae_title: str
    created_at: dt.datetime
    changed_at: dt.datetime
    ended_at: dt.datetime | None


class PerformedStepWithAttributes(PerformedStepResource):
    """A performed procedure step with all its attributes, in the DICOM JSON Model."""

    attributes: dict[str, Any]


router = api_router(READERS, "worklist")
pages = APIRouter(include_in_schema=False, dependencies=READERS)

Number = Annotated[int, Path(ge=1, le=MAX_ID, description="number of the entry")]
KEPT = ("study_instance_uid", "requested_procedure_id", "scheduled_procedure_step_id")
"""Identifiers of an entry that a change leaves if it has none."""

State = Literal["scheduled", "in-progress", "held", "completed", "discontinued", "canceled"]


@router.get("/worklist", responses=problems(WRONG_CURSOR))
def list_worklist(
    page: RequestedPage,
    state: Annotated[State | None, Query(description="state of the step")] = None,
    start_date: Annotated[dt.date | None, Query(description="day of the start")] = None,
    modality: Annotated[str | None, Query(max_length=MAX_TEXT_BYTES, description="modality")] = None,
    station_ae_title: Annotated[str | None, Query(max_length=16, description="AE title of the station")] = None,
    patient_id: Annotated[str | None, Query(max_length=MAX_TEXT_BYTES, description="Patient ID")] = None,
    accession_number: Annotated[str | None, Query(max_length=MAX_TEXT_BYTES, description="Accession Number")] = None,
) -> Page[ScheduledStepResource]:
    """Entries of the modality worklist from every source, newest first; files as they were a minute ago at most."""
    wanted: dict[str, Any] = {"state": state, "start_date": start_date, "modality": modality}
    wanted |= {"station_ae_title": station_ae_title, "patient_id": patient_id, "accession_number": accession_number}
    return page.read("worklist", ScheduledStepResource, lambda index: index.views(StepViews), **wanted)


@router.get("/worklist/{entry}", responses=single())
def show_worklist_entry(call: CurrentCall, response: Response, entry: Number) -> ScheduledStepWithAttributes:
    """An entry with all its attributes, in the DICOM JSON Model."""
    with call.node.index.reading(wait=False) as index:
        resource = _entry(index, entry)
    call.audit.queried(f"worklist {entry}", 1)
    return tagged(response, resource)


@router.post("/worklist", status_code=201, responses=problems(*OF_CHANGES, CONFLICT), dependencies=WRITERS)
def add_worklist_entry(call: CurrentCall, change: Change, form: ScheduledStepForm) -> ScheduledStepWithAttributes:
    """Add an entry. The node makes up a Study Instance UID and the IDs of step and procedure where none are given."""

    def add(_: Terms) -> ScheduledStepWithAttributes:
        step = step_of(form.fields(), form.attributes)
        added = call.node.index.repository(ScheduledStepRepository).add("rest", step, call.node.ingest.now())
        if added is None:
            raise EntryThere("there is an entry for this step of this study; change it by PUT, or leave its ID out")
        _record(call.audit, AuditAction.CREATE, added, step.study_instance_uid, step.patient_id)
        with call.node.index.reading(wait=False) as index:
            return _entry(index, added)

    return change.make(ScheduledStepWithAttributes, lambda index: _entry(index, 0), add)


@router.put("/worklist/{entry}", responses=problems(*OF_CHANGES, CONFLICT), dependencies=WRITERS)
def change_worklist_entry(
    call: CurrentCall, change: Change, entry: Number, form: ScheduledStepForm
) -> ScheduledStepWithAttributes:
    """Change an entry: all its attributes are replaced. Study, step and procedure keep their IDs if none are given."""

    def replace(_: Terms) -> ScheduledStepWithAttributes:
        before = _changeable(call.node, entry)
        kept = {name: before[name] for name in KEPT if before[name]}
        step = step_of(form.fields(), form.attributes, kept)
        _record(call.audit, AuditAction.UPDATE, entry, step.study_instance_uid, step.patient_id)
        call.node.index.repository(ScheduledStepRepository).change(entry, step, call.node.ingest.now())
        with call.node.index.reading(wait=False) as index:
            return _entry(index, entry)

    return change.make(ScheduledStepWithAttributes, lambda index: _entry(index, entry), replace)


@router.delete("/worklist/{entry}", responses=problems(*OF_CHANGES, CONFLICT), dependencies=WRITERS)
def remove_worklist_entry(call: CurrentCall, change: Change, entry: Number) -> RemovedEntry:
    """Remove an entry."""

    def remove(_: Terms) -> RemovedEntry:
        row = _changeable(call.node, entry)
        _record(call.audit, AuditAction.DELETE, entry, row["study_instance_uid"], row["patient_id"])
        call.node.index.repository(ScheduledStepRepository).remove(entry)
        return RemovedEntry(removed=entry)

    return change.make(RemovedEntry, lambda index: _entry(index, entry), remove)


@router.get("/performed-steps", responses=problems(WRONG_CURSOR))
def list_performed_steps(
    page: RequestedPage,
    state: Annotated[
        Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"] | None, Query(description="state of the step")
    ] = None,
    study_instance_uid: OptionalStudyUid = None,
) -> Page[PerformedStepResource]:
    """Procedure steps that modalities report (MPPS), newest first."""
    wanted = {"state": state, "study_instance_uid": study_instance_uid}
    return page.read("performed steps", PerformedStepResource, lambda index: index.views(StepViews).performed, **wanted)


@router.get("/performed-steps/{sop_instance_uid}", responses=single())
def show_performed_step(
    call: CurrentCall,
    response: Response,
    sop_instance_uid: Annotated[str, Path(max_length=64, description="SOP Instance UID of the step")],
) -> PerformedStepWithAttributes:
    """A performed procedure step with all its attributes, in the DICOM JSON Model."""
    with call.node.index.reading(wait=False) as index:
        row = index.views(StepViews).performed_step(sop_instance_uid)
    if row is None:
        raise ResourceNotFound("performed procedure step")
    call.audit.queried(f"performed step {sop_instance_uid}", 1)
    return tagged(response, PerformedStepWithAttributes.of(row))


def _entry(index: ReadIndex, entry: int) -> ScheduledStepWithAttributes:
    return ScheduledStepWithAttributes.of(_row(index, entry))


def _row(index: ReadIndex, entry: int) -> Row:
    row = index.views(StepViews).entry(entry)
    if row is None:
        raise ResourceNotFound("entry of the worklist")
    return row


def _changeable(node: Services, entry: int) -> Row:
    with node.index.reading(wait=False) as index:
        row = _row(index, entry)
    if row["source"] == "file":
        raise EntryOfFile("the entry is that of a file in [worklist] folder; change or remove the file")
    return row


def _record(
    audit: AccountAuditTrail, action: AuditAction, entry: int, study_instance_uid: str | None, patient_id: str | None
) -> None:
    objects = [of_study(study_instance_uid or "", patient_id)]
    audit.changed(AuditEvent.PROCEDURE_RECORD, action, objects, f"worklist {entry}")


def is_worklist_used(node: Services, index: ReadIndex) -> bool:
    """Return whether entries of the worklist are configured to come, or have come."""
    settings = node.settings.table(WorklistSettings)
    return settings.folder is not None or settings.hl7_port is not None or index.views(StepViews).is_any()


@pages.get("/worklist")
def worklist(call: CurrentCall, number: PageNumber = 1) -> Response:
    """Scheduled procedure steps, with what was performed and received for each."""
    with call.node.index.searching() as index:
        rows = index.views(StepViews).with_studies(*part_of_page(number))
    shown = rows_of_page(rows, number)
    call.audit.queried(f"worklist, page {number}", len(shown["rows"]))
    return rendering.page(call, "worklist.html", **shown)
