"""Resources of the REST API. Names are those of the views (docs/data.md); times are in UTC, lengths in mm."""

import datetime as dt
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Self
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from node.audit.audit_files import Holder
from node.completeness import Certainty
from node.index.rows.models.history import EventKind
from node.index.rows.records import Level
from node.selector.fields import SeriesState

MAX_ID = 2**53 - 1
"""Largest integer that JSON clients represent exactly; SQLite's are larger."""

RowId = Annotated[int, Field(ge=0, le=MAX_ID)]

Moment = Annotated[
    dt.datetime, AfterValidator(lambda moment: moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
]
"""A moment, with its offset from UTC; the views have moments in UTC without one."""

TimeOfDay = Annotated[
    dt.time | None,
    BeforeValidator(lambda time: dt.time.fromisoformat(time) if isinstance(time, str) else time),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d\d:\d\d:\d\d"}, {"type": "null"}]}),
]
"""A DICOM time, local to the device; JSON Schema's format "time" would need a time zone."""


class Resource(BaseModel):
    """Base class of resources: built from a row of the index; columns without a field are ignored."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, row: Any) -> Self:
        """Return the resource of a row, or of an object that has its fields."""
        return cls.model_validate(row)


class ResourceOfSeries(Resource):
    """A resource that is a series or belongs to one."""

    study_instance_uid: str
    series_instance_uid: str


class PatientResource(Resource):
    """A patient, identified by issuer and Patient ID."""

    id: int
    patient_id: str | None
    issuer_of_patient_id: str | None
    patient_name: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    studies: int
    merged_into: int | None


class DescribedStudy(Resource):
    """The attributes of a study that are the same on every node."""

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


class StudyResource(DescribedStudy):
    """A study, with its number of series in each state, and of converted ones of each certainty.

    `patient` is the `id` of its patient. `decided_at`: somebody has said then who that is; the files name
    `stored_patient_id` and `stored_patient_name`, if that is another person.
    """

    patient: int
    patient_age: float | None
    series: int
    instances: int
    states: dict[str, int]
    certainties: dict[Certainty, int]
    last_received_at: Moment | None
    labels: list[str]
    stored_patient_id: str | None
    stored_patient_name: str | None
    decided_by: str | None
    decided_at: Moment | None


class SeriesResource(ResourceOfSeries):
    """A series, its state, whether it is complete, the rule that decided, and the expected number of instances."""

    state: SeriesState
    verdict: str | None
    certainty: Certainty | None
    verdict_rule: str | None
    verdict_reason: str | None
    expected_instances: int | None
    expected_source: str | None
    missing_instances: int | None
    missing_detail: str | None
    instances: int
    revision: int
    modality: str | None
    series_number: int | None
    series_description: str | None
    body_part_examined: str | None
    protocol_name: str | None
    manufacturer: str | None
    manufacturer_model_name: str | None
    open_since: Moment | None
    last_received_at: Moment
    due_at: Moment | None
    attempts: int
    error: str | None


class InstanceResource(ResourceOfSeries):
    """A stored instance.

    `bytes` and `sha256` are those of its data set as received, without preamble and File Meta Information, which the
    node writes; a download can have the digest of the file.
    """

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
    received_at: Moment


class VolumeResource(Resource):
    """A file of a conversion, with `bytes` and `sha256` of this file; `url` is null after the file was removed."""

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
    orientation: str | None
    affine_lps: list[list[float]] | None
    slice_thickness_mm: float | None
    repetition_time_ms: float | None
    echo_time_ms: float | None
    inversion_time_ms: float | None
    flip_angle_degrees: float | None
    magnetic_field_strength_t: float | None
    sequence: str | None
    weighting: str | None
    contrast_agent: str | None
    convolution_kernel: str | None
    instances: int
    warnings: list[str]
    bytes: int
    sha256: str
    converter: str
    created_at: Moment

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the resource of a row, with name and URL instead of its path."""
        name = PurePath(row["path"]).name
        is_on_disk = row["files_removed_at"] is None
        url = f"/api/v1/volumes/{row['id']}/file/{quote(name)}" if is_on_disk else None
        return cls.model_validate({**row, "name": name, "url": url})


class SourceResource(Resource):
    """An instance that is in a volume, with `frames` of its frames; `sha256` is that of its data set then."""

    sop_instance_uid: str
    frames: int
    sha256: str


class SendResult(Resource):
    """The number of instances that wait to be sent."""

    instances: int


class EventResource(Resource):
    """An event (docs/lifecycle.md); `id` increases with time."""

    id: int
    kind: EventKind
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    revision: int | None
    detail: str | None
    happened_at: Moment


class ReconvertResult(Resource):
    """The number of series reopened for conversion; series that were already open do not count."""

    owed: int


class Decision(Resource):
    """What became of a decision, and who else has what it changes."""

    holders: list[Holder] = Field([])


class DeletionResult(Decision):
    """What was deleted, or would be deleted in a dry run."""

    level: Level
    uid: str
    series: int
    instances: int
    bytes: int
    deleted: bool


BINARY = {"type": "string", "format": "binary"}
"""Schema of a body that is a file."""
