"""Resources of the REST API. Names are those of the views (docs/data.md); times are in UTC, lengths in mm."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, computed_field

from node.completeness import Certainty
from node.index.nouns.events import EventKind
from node.index.nouns.records import Level
from node.index.work.jobs import JobState
from node.index.work.states import Kind, Outcome
from node.selector.fields import SeriesState

MAX_ID = 2**53 - 1
"""Largest integer that JSON clients represent exactly; SQLite's are larger."""

RowId = Annotated[int, Field(ge=0, le=MAX_ID)]

Moment = Annotated[
    dt.datetime, AfterValidator(lambda moment: moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
]
"""A moment, with its offset from UTC; the views have moments in UTC without one."""

TimeOfDay = Annotated[
    dt.time | None, WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d\d:\d\d:\d\d"}, {"type": "null"}]})
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
    """A study, with its number of series in each state; `patient` is the `id` of its patient."""

    patient: int
    patient_age: float | None
    series: int
    instances: int
    states: dict[str, int]
    incomplete: int
    certainties: dict[Certainty, int]
    last_received_at: Moment | None
    labels: list[str]


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


class FailureResource(ResourceOfSeries):
    """The reason why a series, or one of its stacks, has no volume."""

    revision: int
    stack: int | None
    reason: str
    detail: str
    failed_at: Moment


class ExclusionResource(ResourceOfSeries):
    """An instance, or some of its frames, that is in no volume."""

    revision: int
    superseded: bool
    sop_instance_uid: str
    frames: int
    reason: str
    detail: str


class RejectionResource(Resource):
    """A kind of refusal, its count, and the remedy."""

    what: str
    rule: str
    peer: str
    calling_ae_title: str
    called_ae_title: str
    offered: str
    reason: str
    remedy: str
    count: int
    first_at: Moment
    last_at: Moment


class LostInstanceResource(Resource):
    """An instance that was acknowledged and is not here; `received_at` is when it was."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sha256: str
    source: str
    calling_ae_title: str
    peer: str
    received_at: Moment
    noticed_at: Moment


class ConflictResource(Resource):
    """An identity conflict: one UID or Patient ID with different content; `decision` is null, accepted or kept."""

    id: int
    kind: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    detail: str
    sha256: str | None
    calling_ae_title: str | None
    found_at: Moment
    decision: str | None
    decided_at: Moment | None
    decided_by: str | None


class DifferenceResource(Resource):
    """An attribute in which the version in a conflict differs from the current one."""

    attribute: str
    current: str | int | float | None
    other: str | int | float | None


class VersionResource(Resource):
    """Of whom a version of an instance is, by its file, and who sent it; `source` is of the current version only."""

    patient_name: str | None
    patient_id: str | None
    patient_birth_date: str | None
    patient_sex: str | None
    calling_ae_title: str | None
    source: str | None
    received_at: Moment


class ComparedConflict(Resource):
    """A conflict with the differences of its two versions; `problem` says why they cannot be compared."""

    conflict: ConflictResource
    problem: str | None
    differences: list[DifferenceResource]
    current: VersionResource | None
    other: VersionResource | None


class ConflictDecision(Resource):
    """Numbers of the conflicts that were decided."""

    accepted: list[int] = []
    kept: list[int] = []


class QuarantinedFileResource(Resource):
    """A file in quarantine; `reason` is the kind of its conflict or event. Without a row, its UIDs are null."""

    name: str
    bytes: int
    modified_at: Moment
    reason: str
    detail: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    sha256: str | None


class ExaminedFileResource(Resource):
    """What the file turns out to be; `problem` says why it cannot be released.

    `current_sha256` is that of the current instance with its UID.
    """

    file: QuarantinedFileResource
    problem: str | None
    sha256: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    current_sha256: str | None


class ReleaseResult(Resource):
    """The instance that is in the archive again."""

    released: str
    sop_instance_uid: str


class PurgeResult(Resource):
    """The file that was deleted permanently."""

    purged: str


class TrashResource(Resource):
    """A deletion that can be undone, and what people know its study by."""

    number: int
    level: Level
    uid: str
    study_instance_uid: str
    series_instance_uid: str | None = None
    patient_id: str | None = None
    patient_name: str | None = None
    study_date: dt.date | None = None
    study_description: str | None = None
    reason: str
    deleted_at: Moment
    until: Moment
    files: int
    bytes: int


class RestoreResult(Resource):
    """How many instances came back; how many did not, because they had come again or their files are gone."""

    instances: int
    repeated: int
    conflicts: int
    lost: int


class EmptiedTrash(Resource):
    """The number of the deletion that is permanent now."""

    emptied: int


class RouteResource(Resource):
    """A destination of a route, and what waits for it; `route` is empty for what is sent by hand."""

    route: str
    destination: str
    paused: bool
    trouble: str | None
    trouble_since: Moment | None
    retry_at: Moment | None
    instances_behind: int | None
    series_behind: int | None
    waiting: int
    waiting_since: Moment | None
    given_up: int
    unconfirmed: int
    delivered: int
    delivered_at: Moment | None


class RouteChange(Resource):
    """What an action on a route changed: destinations paused or let go on, or messages that are tried again."""

    action: Literal["pause", "resume", "retry"]
    changed: int


class SendResult(Resource):
    """The number of instances that wait to be sent."""

    instances: int


WorkState = Literal["waiting", "running", Outcome]
"""The state of work, or how it ended."""


class WorkResource(Resource):
    """Work that is pending or has ended.

    `name` is that of the hook, the route or the peer, the AE title of the requestor, or the account that downloads;
    `key` the id of the message, the job or the retrieval, or the Transaction UID. `reason` says why it ended or waits;
    it may name patients. The numbers of instances are those of retrievals, commitments, copies and downloads. `file` is
    the address of a download that has succeeded, for its account and an hour.
    """

    id: RowId
    kind: Kind
    name: str
    destination: str
    key: str
    event: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    revision: int | None
    happened_at: Moment
    requested_by: str
    state: WorkState
    attempts: int
    due_at: Moment | None
    tried_at: Moment | None
    percent: int | None
    reason: str | None
    cancelled_by: str | None
    announced: int | None = None
    instances: int | None = None
    stored: int | None = None
    copied: int | None = None
    refused: int | None = None
    failed: int | None = None
    location: str | None = None
    certificate: dict[str, Any] | None = Field(None, description="of an erasure: what was erased, and who may have it")
    created_at: Moment
    changed_at: Moment
    ended_at: Moment | None

    @computed_field
    def file(self) -> str | None:
        is_there = self.kind == "download" and self.state == "succeeded"
        return f"/api/v1/work/{self.id}/file" if is_there else None


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


class SenderResource(Resource):
    """The quiet time learnt from a sender, null while too little is known, and from how many series and what gap."""

    calling_ae_title: str
    quiet_seconds: float | None
    series: int
    longest_gap_seconds: float | None
    learnt_at: Moment


class HostResource(Resource):
    """A host of an index that several share.

    `not_ready` says why it is not, by role; `leases` is what it does alone; `spooled_instances` are those whose files
    it alone has, because they are still to be moved to the object store. `left_behind` are those that only its disk had
    when it stopped. `clock_ahead_seconds`: its own clock before that of PostgreSQL. `problems` says by name what of it
    differs from the other hosts.
    """

    name: str
    state: Literal["alive", "draining", "stopped", "lost"]
    roles: list[str]
    version: str
    started_at: Moment
    seen_at: Moment
    is_behind: bool
    not_ready: dict[str, str]
    leases: list[str]
    spooled_instances: int
    left_behind: int | None
    clock_ahead_seconds: float
    problems: dict[str, str]


class NodeStatus(Resource):
    """The state of the node.

    Queued instances are acknowledged and not in the index yet; `journal_lag_seconds` is for how long.
    """

    version: str
    ae_title: str
    intake: str
    free_bytes: int
    queued_instances: int
    journal_bytes: int
    journal_lag_seconds: float
    series: dict[str, int]
    failures: dict[str, int]
    oldest_unconverted_at: Moment | None
    senders: list[SenderResource]
    hosts: list[HostResource]
    last_event: int


class ProblemTypeResource(Resource):
    """A kind of problem; `type` is its URI reference."""

    type: str
    status: int
    title: str
    remedy: str


class ReconvertResult(Resource):
    """The number of series reopened for conversion; series that were already open do not count."""

    owed: int


class DeletionResult(Resource):
    """What was deleted, or would be deleted in a dry run."""

    level: Level
    uid: str
    series: int
    instances: int
    bytes: int
    deleted: bool


BINARY = {"type": "string", "format": "binary"}
"""Schema of a body that is a file."""


class JobResource(Resource):
    """What a hook with results was asked to do.

    `revision` is that of the series that the job is about, `newest_revision` that of the series now. `detail` is what
    the hook says; it may name patients.
    """

    job_id: str
    hook: str
    event: str
    study_instance_uid: str
    series_instance_uid: str | None
    revision: int | None
    newest_revision: int | None
    state: JobState
    percent: int | None
    detail: str | None
    location: str | None
    results_stored: int
    created_at: Moment
    changed_at: Moment
    due_at: Moment | None
    ended_at: Moment | None


class ResultResource(Resource):
    """An instance that was made of a file of a job; `segments` are the numbers of the labels of a mask."""

    file: str
    kind: Literal["segmentation", "report", "document", "instance"]
    source_series_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    segments: dict[str, int] | None
    stored_at: Moment


class JobWithResults(JobResource):
    """A job and its results."""

    results: list[ResultResource]


class JobFile(Resource):
    """A file of a job, which becomes a result when the job succeeds."""

    file: str
    bytes: int
    sha256: str
