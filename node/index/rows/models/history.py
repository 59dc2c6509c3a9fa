"""The tables of what became of images: conversions, events, conflicts, refusals, losses and deletions."""

import datetime as dt
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import Mapped, mapped_column

from node.index.rows.models.levels import SPOOL, Numbered, Utc
from node.index.rows.sql import NO_ID_TWICE, partial_index


class RevisionFileRow(Numbered):
    """A file of a revision, if there is an object store: a volume, a picture, or what lies beside them."""

    __tablename__ = "revision_files"
    __table_args__ = (partial_index("ix_revision_files_spooled", "key", f"place = '{SPOOL}'"),)

    conversion_id: Mapped[int] = mapped_column(ForeignKey("conversions.id"), index=True)
    key: Mapped[str] = mapped_column(String(400), unique=True)  # path relative to the root
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))  # empty while a sidecar is written again
    place: Mapped[str | None] = mapped_column(String(8))  # None: the folder of the archive; else SPOOL or STORE
    spool_host: Mapped[str | None] = mapped_column(String(63))  # whose disk alone has it; see ImageRow


class ConversionRow(Numbered):
    """A conversion of an exact set of instances: one revision of a series."""

    __tablename__ = "conversions"
    __table_args__ = (
        UniqueConstraint("series_id", "revision"),
        partial_index("ix_conversions_owed", "id", "owes_sidecars > 0"),
    )

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    revision: Mapped[int] = mapped_column(Integer)
    superseded: Mapped[bool] = mapped_column(default=False)
    input_sha256: Mapped[str | None] = mapped_column(String(64))  # of ordered UIDs, digests, converter and options
    files_removed_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: the files exist
    converter: Mapped[str] = mapped_column(String(64))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    instances: Mapped[int] = mapped_column(Integer)
    seconds: Mapped[float] = mapped_column(Float)
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    # `node.completeness.Findings`; None: of a version that did not keep them.
    findings: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # How often the verdict has changed since its sidecars were written: see `node.conversion.volume_files`.
    owes_sidecars: Mapped[int] = mapped_column(Integer, default=0)


class VolumeRow(Numbered):
    """A file of a conversion: a volume in one format, or a picture of it."""

    __tablename__ = "volumes"
    __table_args__ = (UniqueConstraint("conversion_id", "path"),)

    conversion_id: Mapped[int] = mapped_column(ForeignKey("conversions.id"), index=True)
    stack: Mapped[int] = mapped_column(Integer)
    suffix: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    format: Mapped[str] = mapped_column(String(16))
    path: Mapped[str] = mapped_column(String(400))
    shape: Mapped[list[int]] = mapped_column(JSON)
    spacing_mm: Mapped[list[float]] = mapped_column(JSON)
    dtype: Mapped[str] = mapped_column(String(16))
    geometry: Mapped[str] = mapped_column(String(16))
    orientation: Mapped[str | None] = mapped_column(String(8))  # of its slices; None: unknown
    instances: Mapped[int] = mapped_column(Integer)
    warnings: Mapped[list[str]] = mapped_column(JSON)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    # Of the scan; None: unknown.
    affine_lps: Mapped[list[list[float]] | None] = mapped_column(JSON(none_as_null=True))
    slice_thickness_mm: Mapped[float | None] = mapped_column(Float)
    repetition_time_ms: Mapped[float | None] = mapped_column(Float)
    echo_time_ms: Mapped[float | None] = mapped_column(Float)
    inversion_time_ms: Mapped[float | None] = mapped_column(Float)
    flip_angle_degrees: Mapped[float | None] = mapped_column(Float)
    magnetic_field_strength_t: Mapped[float | None] = mapped_column(Float)
    sequence: Mapped[str | None] = mapped_column(String(64))
    weighting: Mapped[str | None] = mapped_column(String(8))
    contrast_agent: Mapped[str | None] = mapped_column(String(16))
    convolution_kernel: Mapped[str | None] = mapped_column(String(64))


class VolumeSourceRow(Numbered):
    """An instance used in a stack of a conversion, with its digest."""

    __tablename__ = "volume_sources"
    __table_args__ = (Index("ix_volume_sources_conversion_id_stack", "conversion_id", "stack"),)

    conversion_id: Mapped[int] = mapped_column(ForeignKey("conversions.id"))
    stack: Mapped[int] = mapped_column(Integer)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    frames: Mapped[int] = mapped_column(Integer)


class ExclusionRow(Numbered):
    """An instance, or some of its frames, that a conversion left out of every volume, with the reason."""

    __tablename__ = "exclusions"

    conversion_id: Mapped[int] = mapped_column(ForeignKey("conversions.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    frames: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text)


class FailureRow(Numbered):
    """The reason why a series, or one stack of it, has no volume in a `revision`."""

    __tablename__ = "failures"
    __table_args__ = (partial_index("ix_failures_of_images", "series_id", "reason <> 'not-an-image'"),)

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    revision: Mapped[int] = mapped_column(Integer)
    stack: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text)
    failed_at: Mapped[dt.datetime] = mapped_column(Utc)


class SeriesReferenceRow(Numbered):
    """A series to which a series refers; its last conversion used the other one in this `revision`."""

    __tablename__ = "series_references"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: the reference does not name it
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int | None] = mapped_column(Integer)  # 0: there was none; None: the conversion waits for one


REPLACED = "instance-replaced"
"""Kind of the conflict of a version that was current, of the series that it was in."""


class ConflictRow(Numbered):
    """An identity conflict: one UID or Patient ID, different content; recorded until a person or a policy decides."""

    __tablename__ = "conflicts"
    __table_args__ = (NO_ID_TWICE,)  # people name conflicts by it

    kind: Mapped[str] = mapped_column(String(32))
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str | None] = mapped_column(String(64))
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    detail: Mapped[str] = mapped_column(Text)
    key: Mapped[str | None] = mapped_column(String(200), index=True)  # of the file with the bytes that were not indexed
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the data set in that file, as it was received
    damage: Mapped[str | None] = mapped_column(Text)  # how the file differs from it
    host: Mapped[str | None] = mapped_column(String(63))  # whose disk has that file, if each has a root of its own
    calling_ae_title: Mapped[str | None] = mapped_column(String(16))
    found_at: Mapped[dt.datetime] = mapped_column(Utc)
    decision: Mapped[str | None] = mapped_column(String(16))  # accepted (what was received), kept, merged (patients)
    decided_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    decided_by: Mapped[str | None] = mapped_column(String(64))
    # The decision is right if its version and the current one decode to the same: that is owed.
    is_uncompared: Mapped[bool] = mapped_column(Boolean, server_default=false(), index=True)


HAS_FILE = ConflictRow.key.is_not(None), ConflictRow.sha256.is_not(None), ConflictRow.damage.is_(None)
"""Conditions of conflicts that have the file of a version, whole as far as anybody knows."""


class RejectionRow(Numbered):
    """A refusal, with what a person can do about it; equal refusals within a minute share a row."""

    __tablename__ = "rejections"

    what: Mapped[str] = mapped_column(String(16))  # RefusedLevel
    rule: Mapped[str] = mapped_column(String(64), index=True)
    peer: Mapped[str] = mapped_column(String(64))
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    called_ae_title: Mapped[str] = mapped_column(String(16))
    offered: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    remedy: Mapped[str] = mapped_column(Text)
    count: Mapped[int] = mapped_column(Integer, default=1)
    first_at: Mapped[dt.datetime] = mapped_column(Utc)
    last_at: Mapped[dt.datetime] = mapped_column(Utc, index=True)


class EventRow(Numbered):
    """An event of a series or a study, in the order of commits; shown to people and delivered to hooks."""

    __tablename__ = "events"

    kind: Mapped[str] = mapped_column(String(32), index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64))
    series_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64))
    revision: Mapped[int | None] = mapped_column(Integer)
    detail: Mapped[str | None] = mapped_column(Text)
    happened_at: Mapped[dt.datetime] = mapped_column(Utc, index=True)
    # Of `verdict-changed`: columns of the verdict before.
    verdict_before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    ended: Mapped[str | None] = mapped_column(Text)  # the place of the end of an association: see `node.quiet`
    # Of such an end, the `Party` against whom it counts; of a series without a volume, the first reason.
    why: Mapped[str | None] = mapped_column(String(32))
    key: Mapped[str | None] = mapped_column(String(200))  # of the file that was set aside


class LostInstanceRow(Numbered):
    """An instance that was acknowledged and is not here; see `node.index.rules.custody.lost`."""

    __tablename__ = "lost_instances"
    __table_args__ = (UniqueConstraint("sop_instance_uid", "sha256"),)

    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sha256: Mapped[str] = mapped_column(String(64))  # of the data set as received
    source: Mapped[str] = mapped_column(String(16))
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    peer: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[dt.datetime] = mapped_column(Utc)
    noticed_at: Mapped[dt.datetime] = mapped_column(Utc)


class TombstoneRow(Numbered):
    """A deletion: committed before any file is removed; `finished_at` is set when every file of `paths` is gone.

    It is in the trash while it has `content`, which says what people know it by; `trash_until` stays.
    """

    __tablename__ = "tombstones"

    level: Mapped[str] = mapped_column(String(16))  # study, series, instance
    uid: Mapped[str] = mapped_column(String(64), index=True)
    reason: Mapped[str] = mapped_column(String(64))
    paths: Mapped[list[str]] = mapped_column(JSON)  # relative to the root
    ordered_at: Mapped[dt.datetime] = mapped_column(Utc)
    listed: Mapped[str | None] = mapped_column(String(64))  # how far the ledger of its host was: a `LedgerPosition`
    finished_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    trash_until: Mapped[dt.datetime | None] = mapped_column(Utc, index=True)
    restored_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    last_event: Mapped[int | None] = mapped_column(Integer)  # the newest one before it was restored
    content: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class TrashRow(Numbered):
    """A row of a deletion that can come back, with the file that it names; see `node.index.rules.custody.trash`."""

    __tablename__ = "trash"

    deletion: Mapped[int] = mapped_column(ForeignKey("tombstones.id"), index=True)
    kind: Mapped[str] = mapped_column(String(64))  # the table that the row was in
    key: Mapped[str | None] = mapped_column(String(400), index=True)  # of the file or folder; of a series, its UID
    bytes: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[str | None] = mapped_column(String(8))  # as of an image
    holder: Mapped[str | None] = mapped_column(String(63))  # the only host that has the file
    content: Mapped[dict[str, Any]] = mapped_column(JSON)  # the row as it was


class PerformedStepRow(Numbered):
    """A Modality Performed Procedure Step that a modality created (PS3.4 F.7)."""

    __tablename__ = "performed_steps"
    __table_args__ = (CheckConstraint("state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')", name="state"),)

    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16))  # Performed Procedure Step Status (0040,0252)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    patient_id: Mapped[str | None] = mapped_column(Text)
    accession_number: Mapped[str | None] = mapped_column(Text)
    performed_procedure_step_id: Mapped[str | None] = mapped_column(Text)
    modality: Mapped[str | None] = mapped_column(Text)
    station_ae_title: Mapped[str | None] = mapped_column(Text)
    series: Mapped[int] = mapped_column(Integer, default=0)  # that it lists
    instances: Mapped[int] = mapped_column(Integer, default=0)  # that it lists
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)  # DICOM JSON Model
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    changed_at: Mapped[dt.datetime] = mapped_column(Utc)
    ended_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class PerformedSeriesRow(Numbered):
    """A series that an ended performed procedure step lists, with the UIDs of its instances."""

    __tablename__ = "performed_series"

    performed_step_id: Mapped[int] = mapped_column(ForeignKey("performed_steps.id", ondelete="CASCADE"), index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_instance_uids: Mapped[list[str]] = mapped_column(JSON)


EventKind = Literal[
    "series-quiet",  # a conversion begins; `detail` gives the reason
    "series-converted",
    "series-refused",  # includes series without images
    "series-failed",
    "series-unchanged",  # reconversion requested, but input, converter and options match the current revision
    "series-reopened",  # an instance was added, deleted or replaced after the conversion, or reconversion requested
    "verdict-changed",  # a closed series was judged again; `verdict_before` has the columns of its verdict before
    "series-confirmed",  # the sender was asked for its number of instances, or a performed procedure step listed them
    "sender-aborted",  # an association that delivered instances did not end by release
    "node-ended",  # the node ended such an association before the series was quiet
    "sender-returned",  # the sender came back after that, had nothing new, and released its association
    "sender-never-releases",  # as a person says: that it did not end by release says nothing
    "attributes-changed",  # of a study or a series, because other instances came or left; `detail` names the columns
    "volume-superseded",
    "study-quiet",
    "instance-replaced",
    "instance-conflict",
    "instance-set-aside",  # an instance cannot be indexed; its file is in quarantine
    "journal-damaged",  # acknowledged records cannot be read
    "file-missing",  # fsck found a row without its file
    "file-damaged",  # a file is not as it was received: the instance must be sent again
    "file-found",  # a missing file is back, or a damaged one is whole again
    "digest-corrected",  # fsck or a rebuild believed a whole file against the digest of its row
    "file-restored",  # an instance came again, and took the place of its file, which was not whole
    "instances-lost",  # instances of a series were acknowledged and are not here
    "lost-written-off",  # a person has written lost instances of a series off
    "quarantine-released",  # a person took a file in quarantine back into the archive
    "quarantine-purged",
    "deleted",
    "restored",  # a deletion was undone; the instances are received again
    "patient-merged",
    "patient-corrected",  # a person has said who a patient, or that of one study, really is
    "patient-separated",  # a merge was undone, or a shared Patient ID got an issuer
    "job-ended",  # a hook with results has done what it was asked to, failed, or was late
    "problem-acknowledged",  # a person has seen that a series is incomplete or has no volume, and leaves it so
    "problem-reopened",  # a person has withdrawn that
    "message-given-up",  # every attempt to deliver a message to a hook failed
]
