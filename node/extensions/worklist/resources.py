"""Resources of the worklist in REST (`node.web.api.models`)."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from node.web.api.models import Resource, RowId, TimeOfDay


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


ShortText = Annotated[str | None, Field(max_length=16)]
LongText = Annotated[str | None, Field(max_length=64)]
Name = Annotated[str | None, Field(max_length=324, description="with ^ between family and given name")]


class ScheduledStepForm(BaseModel):
    """A scheduled procedure step for the modality worklist.

    Patient ID and name, modality, station and start date must be given, in the plain fields or in `attributes`.
    """

    model_config = ConfigDict(extra="forbid")

    patient_id: LongText = None
    patient_name: Name = None
    patient_birth_date: dt.date | None = None
    patient_sex: Annotated[str | None, Field(pattern="^[MFO]$")] = None
    accession_number: ShortText = None
    referring_physician_name: Name = None
    study_instance_uid: Annotated[str | None, Field(max_length=64, pattern=r"^[0-9.]+$")] = None
    requested_procedure_id: ShortText = None
    scheduled_procedure_step_id: ShortText = None
    modality: ShortText = None
    station_ae_title: ShortText = None
    station_name: ShortText = None
    start_date: dt.date | None = None
    start_time: Annotated[str | None, Field(pattern=r"^\d\d:\d\d(:\d\d)?$")] = None
    description: LongText = None
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
