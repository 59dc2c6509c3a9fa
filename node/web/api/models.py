"""What the REST API answers with. Names are those of the views (docs/index.md); moments are in UTC, lengths in mm."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from node.index.events import EventKind
from node.web.api.paging import RowId

State = Literal["receiving", "converting", "converted", "refused", "not-an-image", "failed"]
"""How far a series has come, see `node.index.models.SERIES_STATES`."""


TimeOfDay = Annotated[
    dt.time | None, WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d\d:\d\d:\d\d"}, {"type": "null"}]})
]
"""A DICOM time: of the clock where it was made; JSON Schema's format "time" would have a time zone."""


class Resource(BaseModel):
    """An answer is made of a row of the index; what a model does not name stays inside."""

    model_config = ConfigDict(from_attributes=True)


class PatientResource(Resource):
    """A person, as (issuer, Patient ID) tell."""

    id: int
    patient_id: str | None
    issuer_of_patient_id: str | None
    patient_name: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    studies: int
    merged_into: int | None


class StudyResource(Resource):
    """A study with what its series have come to."""

    study_instance_uid: str
    patient_id: str | None
    patient_name: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    study_date: dt.date | None
    study_time: TimeOfDay
    accession_number: str | None
    study_description: str | None
    modalities: list[str]
    series: int
    instances: int
    states: dict[str, int]
    incomplete: int
    last_received_at: dt.datetime | None


class CompletenessResource(Resource):
    """Whether a quiet series is complete, by which rule, of how many instances."""

    study_instance_uid: str
    series_instance_uid: str
    state: State
    verdict: str | None
    verdict_rule: str | None
    verdict_reason: str | None
    expected_instances: int | None
    expected_source: str | None
    missing_instances: int | None
    instances: int
    revision: int


class JobResource(Resource):
    """What the worker has to do with a series, does, or could not do."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str | None
    state: State
    instances: int
    revision: int
    open_since: dt.datetime | None
    last_received_at: dt.datetime
    due_at: dt.datetime | None
    attempts: int
    error: str | None


class SeriesResource(CompletenessResource):
    """A series, how far it has come, and its verdict."""

    modality: str | None
    series_number: int | None
    series_description: str | None
    body_part_examined: str | None
    protocol_name: str | None
    open_since: dt.datetime | None
    last_received_at: dt.datetime
    due_at: dt.datetime | None
    attempts: int
    error: str | None


class InstanceResource(Resource):
    """A stored instance; `bytes` and `sha256` are of its data set as it was received."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    number_of_frames: int | None
    rows: int | None
    columns: int | None
    bytes: int
    sha256: str
    file_missing: bool
    source: str
    calling_ae_title: str | None
    called_ae_title: str | None
    received_at: dt.datetime


class VolumeResource(Resource):
    """One file of a conversion; `url` is where it is, while it is there."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    revision: int
    superseded: bool
    stack: int
    suffix: str
    kind: str
    format: str
    name: str
    url: str | None
    shape: list[int]
    spacing_mm: list[float]
    dtype: str
    geometry: str
    instances: int
    warnings: list[str]
    bytes: int
    sha256: str
    converter: str
    created_at: dt.datetime


class FailureResource(Resource):
    """Why a series, or one stack of it, gave no volume."""

    study_instance_uid: str
    series_instance_uid: str
    revision: int
    stack: int | None
    reason: str
    detail: str
    failed_at: dt.datetime


class ExclusionResource(Resource):
    """An instance, or frames of it, that a conversion left out of its volumes."""

    study_instance_uid: str
    series_instance_uid: str
    revision: int
    superseded: bool
    sop_instance_uid: str
    frames: int
    reason: str
    detail: str


class RejectionResource(Resource):
    """Something that was refused, how often, and what helps."""

    what: str
    rule: str
    peer: str
    calling_ae_title: str
    called_ae_title: str
    offered: str
    reason: str
    remedy: str
    count: int
    first_at: dt.datetime
    last_at: dt.datetime


class ConflictResource(Resource):
    """Two things that claim one identity."""

    kind: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    detail: str
    sha256: str | None
    calling_ae_title: str | None
    found_at: dt.datetime


class EventResource(Resource):
    """Something that happened (docs/lifecycle.md); `id` grows with time."""

    id: int
    kind: EventKind
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    revision: int | None
    detail: str | None
    happened_at: dt.datetime


class NodeStatus(Resource):
    """How the node is."""

    version: str
    ae_title: str
    intake: str
    free_bytes: int
    queued_instances: int
    series: dict[str, int]
    failures: dict[str, int]
    oldest_unconverted_at: dt.datetime | None
    last_event: int


class ReconvertResult(Resource):
    """How many series will be converted again; those that were open anyway do not count."""

    owed: int


class DeletionResult(Resource):
    """What went, or would go."""

    level: Literal["study", "series", "instance"]
    uid: str
    series: int
    instances: int
    bytes: int
    deleted: bool


class MergeRequest(BaseModel):
    """Which patient another one is."""

    model_config = ConfigDict(extra="forbid")

    into: RowId


class MergeResult(Resource):
    """The studies that moved."""

    studies: list[str]
