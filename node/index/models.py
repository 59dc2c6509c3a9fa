"""The tables: patients, studies, series and images are the levels of PS3.4 C.6; the other tables record their history.

What senders and orders say is as long as they say it (at most `MAX_TEXT_BYTES` of `node.dicom.attributes`), in UTF-8,
whichever character set they used.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    Time,
    UniqueConstraint,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column
from sqlalchemy.types import TypeDecorator

from node.dicom.key_values import folded_groups
from node.index.engine.sql import NO_ID_TWICE, partial_index

SERIES_STATES = ("receiving", "converting", "converted", "refused", "not-an-image", "failed")
"""receiving: waits to become quiet; converting: claimed by a worker; converted: has at least one volume;
refused: has no volume, with a reason for each stack; not-an-image: contains no instance that could be in a volume;
failed: the converter crashed too often."""

SPOOL, STORE = "spool", "store"
"""Places of an instance where the archive is in an object store: only on the local disk as yet, or in the store."""

OPEN_STATES = ("receiving", "converting")
"""States in which a series still awaits the outcome of a conversion."""


class Utc(TypeDecorator[dt.datetime]):
    """A moment in UTC; a naive datetime raises ValueError."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        return None if value is None else value.replace(tzinfo=dt.UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _folded_group(column: str, group: int) -> MappedColumn[str | None]:
    """Return a column for a component group of the name in `column`, folded for comparison and filled at insertion."""

    def group_of_row(context: DefaultExecutionContext) -> str | None:
        return folded_groups(context.get_current_parameters().get(column))[group]  # type: ignore[no-untyped-call]

    return mapped_column(Text, default=group_of_row, index=column == "patient_name")


class AboutRow(Base):
    """A fact about the index, such as the last record of the journal that it has."""

    __tablename__ = "about"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class HostRow(Base):
    """A host of an index that several can share; see `node.index.nouns.hosts`."""

    __tablename__ = "hosts"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    roles: Mapped[list[str]] = mapped_column(JSON)
    version: Mapped[str] = mapped_column(String(32))  # of voxelnode
    subscribers: Mapped[list[str]] = mapped_column(JSON)  # in its configuration, as in `hooks`
    is_behind: Mapped[bool] = mapped_column(default=False, server_default=false())  # has acknowledged more than it told
    not_ready: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")  # why, by role
    started_at: Mapped[dt.datetime] = mapped_column(Utc)
    seen_at: Mapped[dt.datetime] = mapped_column(Utc)
    lease_until: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: it has stopped
    drain: Mapped[str | None] = mapped_column(String(8))  # asked: somebody wants it to stop; begun: it does
    left_behind: Mapped[int | None] = mapped_column(Integer)  # what only its disk has, since it stopped
    clock_ahead_seconds: Mapped[float] = mapped_column(Float, server_default="0")  # of the clock of the index
    configuration: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")  # digests, by section
    problems: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")  # how it differs from other hosts


class LeaseRow(Base):
    """What one host at a time does, and which host that is: while the lease of that host lasts."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(160), primary_key=True)
    host: Mapped[str] = mapped_column(String(63))


class AuditLineRow(Base):
    """A line of the audit log of a host, as it is in its file: a copy for all hosts (see `nouns.audit_lines`)."""

    __tablename__ = "audit_lines"

    host: Mapped[str] = mapped_column(String(63), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # of a host, without gaps
    at: Mapped[dt.datetime] = mapped_column(Utc, index=True)
    line: Mapped[str] = mapped_column(Text)


class PatientRow(Base):
    """A person, identified by issuer and Patient ID, and by name, birth date and sex where people share a Patient ID.

    Each study without a Patient ID has a patient of its own.
    """

    __tablename__ = "patients"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    identity: Mapped[str] = mapped_column(Text, index=True)  # issuer and ID; the study if there is no ID
    patient_id: Mapped[str | None] = mapped_column(Text, index=True)
    issuer_of_patient_id: Mapped[str | None] = mapped_column(Text)
    patient_name: Mapped[str | None] = mapped_column(Text, index=True)
    patient_name_alphabetic: Mapped[str | None] = _folded_group("patient_name", 0)
    patient_name_ideographic: Mapped[str | None] = _folded_group("patient_name", 1)
    patient_name_phonetic: Mapped[str | None] = _folded_group("patient_name", 2)
    patient_birth_date: Mapped[dt.date | None] = mapped_column(Date)
    patient_birth_time: Mapped[dt.time | None] = mapped_column(Time)
    patient_sex: Mapped[str | None] = mapped_column(Text)
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("patients.id"), index=True)  # decided by a person
    merged_first_into: Mapped[int | None] = mapped_column(Integer)  # that decision, if that patient was merged as well


class StudyRow(Base):
    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    named_patient_id: Mapped[int | None] = mapped_column(Integer)  # who its files name, if merged into that patient
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    study_date: Mapped[dt.date | None] = mapped_column(Date, index=True)
    study_time: Mapped[dt.time | None] = mapped_column(Time)
    accession_number: Mapped[str | None] = mapped_column(Text, index=True)
    study_id: Mapped[str | None] = mapped_column(Text, index=True)
    study_description: Mapped[str | None] = mapped_column(Text, index=True)
    referring_physician_name: Mapped[str | None] = mapped_column(Text)
    referring_physician_name_alphabetic: Mapped[str | None] = _folded_group("referring_physician_name", 0)
    referring_physician_name_ideographic: Mapped[str | None] = _folded_group("referring_physician_name", 1)
    referring_physician_name_phonetic: Mapped[str | None] = _folded_group("referring_physician_name", 2)
    patient_age: Mapped[str | None] = mapped_column(Text)
    timezone_offset_from_utc: Mapped[str | None] = mapped_column(Text)
    closed_at: Mapped[dt.datetime | None] = mapped_column(Utc, index=True)  # end of the last conversion
    quiet_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # when it became quiet; a series may have reopened since


DOUBTED_SERIES = partial_index("ix_series_doubted", "study_id", "verdict IN ('suspect', 'incomplete')")


MARKED_IMAGES = partial_index("ix_images_series_id_missing", "series_id", "file_missing")


class SeriesRow(Base):
    """A series and its progress; `state`, `due_at` and `claim` hand it from the receiver to the worker."""

    __tablename__ = "series"
    __table_args__ = (
        # The same Series Instance UID in two studies means two series: merging them could mix two patients.
        UniqueConstraint("study_id", "series_instance_uid"),
        Index("ix_series_state_due_at", "state", "due_at"),
        Index(None, "modality", "study_id"),
        Index(None, "series_description", "study_id"),
        DOUBTED_SERIES,
        CheckConstraint("state IN ({})".format(", ".join(f"'{s}'" for s in SERIES_STATES)), name="state"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    modality: Mapped[str | None] = mapped_column(Text)
    series_number: Mapped[int | None] = mapped_column(Integer)
    series_description: Mapped[str | None] = mapped_column(Text)
    series_date: Mapped[dt.date | None] = mapped_column(Date)
    series_time: Mapped[dt.time | None] = mapped_column(Time)
    body_part_examined: Mapped[str | None] = mapped_column(Text)
    laterality: Mapped[str | None] = mapped_column(Text)
    protocol_name: Mapped[str | None] = mapped_column(Text)
    manufacturer: Mapped[str | None] = mapped_column(Text)
    manufacturer_model_name: Mapped[str | None] = mapped_column(Text)
    station_name: Mapped[str | None] = mapped_column(Text)
    frame_of_reference_uid: Mapped[str | None] = mapped_column(Text)
    performed_procedure_step_start_date: Mapped[dt.date | None] = mapped_column(Date)
    performed_procedure_step_start_time: Mapped[dt.time | None] = mapped_column(Time)
    timezone_offset_from_utc: Mapped[str | None] = mapped_column(Text)
    # Scheduled Procedure Step ID and Requested Procedure ID of each request, by keyword.
    request_attributes: Mapped[list[dict[str, str]] | None] = mapped_column(JSON(none_as_null=True))

    state: Mapped[str] = mapped_column(String(16), default="receiving")
    open_since: Mapped[dt.datetime | None] = mapped_column(Utc)  # when the first unconverted instance was received
    last_received_at: Mapped[dt.datetime] = mapped_column(Utc)
    due_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    waits: Mapped[dict[str, dict[str, str]] | None] = mapped_column(
        JSON(none_as_null=True)
    )  # see `node.index.nouns.growth`
    receptions: Mapped[int] = mapped_column(Integer, default=0)  # incremented with every stored instance
    revision: Mapped[int] = mapped_column(Integer, default=0)
    claim: Mapped[str | None] = mapped_column(String(32))
    claimed_by: Mapped[str | None] = mapped_column(String(63))  # host, if the index can have several
    claimed_receptions: Mapped[int | None] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    error: Mapped[str | None] = mapped_column(Text)
    # What its sender said that it has: see `node.completeness.Reported`.
    reported: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    verdict: Mapped[str | None] = mapped_column(String(16))
    verdict_rule: Mapped[str | None] = mapped_column(String(32))
    verdict_reason: Mapped[str | None] = mapped_column(Text)
    expected_instances: Mapped[int | None] = mapped_column(Integer)
    expected_source: Mapped[str | None] = mapped_column(String(64))
    missing_instances: Mapped[int | None] = mapped_column(Integer)
    missing_detail: Mapped[str | None] = mapped_column(Text)
    # What its study lacks beside it, as evidence and in words: see `node.index.nouns.protocols`.
    lacking: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    acknowledged_problem: Mapped[str | None] = mapped_column(String(64))  # see `node.index.nouns.problems`
    acknowledged_reason: Mapped[str | None] = mapped_column(Text)
    acknowledged_by: Mapped[str | None] = mapped_column(String(64))
    acknowledged_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class ImageRow(Base):
    """A stored instance of any kind; the level is called Image for historical reasons (PS3.4 C.6)."""

    __tablename__ = "images"
    __table_args__ = (
        MARKED_IMAGES,
        partial_index("ix_images_spooled", "key", f"place = '{SPOOL}'"),
        partial_index("ix_images_series_id_spool_host", ("series_id", "spool_host"), "spool_host IS NOT NULL"),
        NO_ID_TWICE,  # what subscribers are owed names instances by it
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    instance_number: Mapped[int | None] = mapped_column(Integer)
    number_of_frames: Mapped[int | None] = mapped_column(Integer)
    rows: Mapped[int | None] = mapped_column(Integer)
    columns: Mapped[int | None] = mapped_column(Integer)
    acquisition_number: Mapped[int | None] = mapped_column(Integer)
    content_date: Mapped[dt.date | None] = mapped_column(Date)
    content_time: Mapped[dt.time | None] = mapped_column(Time)
    images_in_acquisition: Mapped[int | None] = mapped_column(Integer)
    number_of_temporal_positions: Mapped[int | None] = mapped_column(Integer)
    number_of_slices: Mapped[int | None] = mapped_column(Integer)
    number_of_time_slices: Mapped[int | None] = mapped_column(Integer)
    number_of_series_related_instances: Mapped[int | None] = mapped_column(Integer)
    timezone_offset_from_utc: Mapped[str | None] = mapped_column(Text)
    file_missing: Mapped[bool] = mapped_column(default=False, server_default=false())  # set by fsck
    bytes: Mapped[int] = mapped_column(BigInteger)  # of the data set as received
    sha256: Mapped[str] = mapped_column(String(64))  # of the data set as received
    data_set_offset: Mapped[int] = mapped_column(Integer)  # where it begins in the file
    key: Mapped[str] = mapped_column(String(200), unique=True)
    place: Mapped[str | None] = mapped_column(String(8))  # None: the folder of the archive; else SPOOL or STORE
    spool_host: Mapped[str | None] = mapped_column(String(63))  # of several, the one whose disk has it; SPOOL only
    source: Mapped[str] = mapped_column(String(16))  # one of node.selector.fields.SOURCES
    calling_ae_title: Mapped[str | None] = mapped_column(String(16))
    called_ae_title: Mapped[str | None] = mapped_column(String(16))
    peer: Mapped[str | None] = mapped_column(String(64))
    received_at: Mapped[dt.datetime] = mapped_column(Utc)


class SeriesDocumentRow(Base):
    """The attributes of the first instance of a series that have no column; see `node.dicom.documents`."""

    __tablename__ = "series_documents"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), primary_key=True)
    document: Mapped[str] = mapped_column(Text)  # an object of JSON
    varying: Mapped[str] = mapped_column(Text)  # names that are not the same in all of its instances: an array of JSON
    is_partial: Mapped[bool] = mapped_column()  # some of its instances have no document


class ImageDocumentRow(Base):
    """What an instance has beside the document of its series, or instead."""

    __tablename__ = "image_documents"

    image_id: Mapped[int] = mapped_column(
        ForeignKey("images.id", ondelete="CASCADE", onupdate="CASCADE"), primary_key=True
    )
    document: Mapped[str] = mapped_column(Text)  # an object of JSON


def is_only_at_host() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of images whose file only one of several hosts has, on its own disk."""
    return ImageRow.spool_host.is_not(None), ImageRow.file_missing.is_(False)


class ObjectRemovalRow(Base):
    """An object that no row of images names any more, and that the store may still have."""

    __tablename__ = "object_removals"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    ordered_at: Mapped[dt.datetime] = mapped_column(Utc)


class HostRemovalRow(Base):
    """A file or folder that is to be removed from the disk of a host, because no row names it any more.

    It is removed after its object: nothing fetches it again then.
    """

    __tablename__ = "host_removals"

    host: Mapped[str] = mapped_column(String(63), primary_key=True)
    path: Mapped[str] = mapped_column(String(200), primary_key=True)  # relative to the root of the host
    ordered_at: Mapped[dt.datetime] = mapped_column(Utc)


class RevisionFileRow(Base):
    """A file of a revision, if there is an object store: a volume, a picture, or what lies beside them."""

    __tablename__ = "revision_files"
    __table_args__ = (partial_index("ix_revision_files_spooled", "key", f"place = '{SPOOL}'"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    conversion_id: Mapped[int] = mapped_column(ForeignKey("conversions.id"), index=True)
    key: Mapped[str] = mapped_column(String(400), unique=True)  # path relative to the root
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    place: Mapped[str | None] = mapped_column(String(8))  # None: the folder of the archive; else SPOOL or STORE
    spool_host: Mapped[str | None] = mapped_column(String(63))  # whose disk alone has it; see ImageRow


class ConversionRow(Base):
    """A conversion of an exact set of instances: one revision of a series."""

    __tablename__ = "conversions"
    __table_args__ = (UniqueConstraint("series_id", "revision"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
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


class VolumeRow(Base):
    """A file of a conversion: a volume in one format, or a picture of it."""

    __tablename__ = "volumes"
    __table_args__ = (UniqueConstraint("conversion_id", "path"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
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


class VolumeSourceRow(Base):
    """An instance used in a stack of a conversion, with its digest."""

    __tablename__ = "volume_sources"
    __table_args__ = (Index("ix_volume_sources_conversion_id_stack", "conversion_id", "stack"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    conversion_id: Mapped[int] = mapped_column(ForeignKey("conversions.id"))
    stack: Mapped[int] = mapped_column(Integer)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    frames: Mapped[int] = mapped_column(Integer)


class ExclusionRow(Base):
    """An instance, or some of its frames, that a conversion left out of every volume, with the reason."""

    __tablename__ = "exclusions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    conversion_id: Mapped[int] = mapped_column(ForeignKey("conversions.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    frames: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text)


class FailureRow(Base):
    """The reason why a series, or one stack of it, has no volume in a `revision`."""

    __tablename__ = "failures"
    __table_args__ = (partial_index("ix_failures_of_images", "series_id", "reason <> 'not-an-image'"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    revision: Mapped[int] = mapped_column(Integer)
    stack: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(Text)
    failed_at: Mapped[dt.datetime] = mapped_column(Utc)


class SeriesReferenceRow(Base):
    """A series to which a series refers; its last conversion used the other one in this `revision`."""

    __tablename__ = "series_references"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: the reference does not name it
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    revision: Mapped[int | None] = mapped_column(Integer)  # 0: there was none; None: the conversion waits for one


class ConflictRow(Base):
    """An identity conflict: one UID or Patient ID, different content; recorded until a person or a policy decides."""

    __tablename__ = "conflicts"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str | None] = mapped_column(String(64))
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    detail: Mapped[str] = mapped_column(Text)
    key: Mapped[str | None] = mapped_column(String(200), index=True)  # of the file with the bytes that were not indexed
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the data set in that file
    host: Mapped[str | None] = mapped_column(String(63))  # whose disk has that file, if each has a root of its own
    calling_ae_title: Mapped[str | None] = mapped_column(String(16))
    found_at: Mapped[dt.datetime] = mapped_column(Utc)
    decision: Mapped[str | None] = mapped_column(String(16))  # accepted (what was received), kept, merged (patients)
    decided_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    decided_by: Mapped[str | None] = mapped_column(String(64))


class RejectionRow(Base):
    """A refusal, with what a person can do about it; equal refusals within a minute share a row."""

    __tablename__ = "rejections"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    what: Mapped[str] = mapped_column(String(16))  # connection, association, context, instance, retrieve, commitment
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


class SenderRow(Base):
    """A sender, and what is learnt of it from its last series; see `node.index.nouns.senders`."""

    __tablename__ = "senders"

    calling_ae_title: Mapped[str] = mapped_column(String(16), primary_key=True)
    gaps: Mapped[list[float]] = mapped_column(JSON)  # seconds, the oldest first
    quiet_seconds: Mapped[float | None] = mapped_column(Float)
    # Whole series since its last release, by UIDs.
    unreleased: Mapped[list[tuple[str, str]] | None] = mapped_column(JSON)
    learnt_at: Mapped[dt.datetime] = mapped_column(Utc)


class OpenAssociationRow(Base):
    """A series of which an open association has brought an instance; see `node.index.nouns.open_associations`."""

    __tablename__ = "open_associations"
    __table_args__ = (UniqueConstraint("host", "association", "series_id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    host: Mapped[str] = mapped_column(String(63))  # that receives; empty: the only one
    association: Mapped[str] = mapped_column(String(32))
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), index=True)
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    open_until: Mapped[dt.datetime] = mapped_column(Utc)  # unless more comes


class ProtocolRow(Base):
    """How many instances the last series of a protocol have; see `node.index.nouns.protocols`."""

    __tablename__ = "protocols"

    key: Mapped[str] = mapped_column(String(32), primary_key=True)  # a digest
    series: Mapped[list[tuple[str, int, str]]] = mapped_column(JSON)  # digest, instances and day, the oldest first
    learnt_at: Mapped[dt.datetime] = mapped_column(Utc)


class EventRow(Base):
    """An event of a series or a study, in the order of commits; shown to people and delivered to hooks."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64))
    series_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64))
    revision: Mapped[int | None] = mapped_column(Integer)
    detail: Mapped[str | None] = mapped_column(Text)
    happened_at: Mapped[dt.datetime] = mapped_column(Utc, index=True)


class LostInstanceRow(Base):
    """An instance that was acknowledged and is not here; see `node.index.nouns.lost`."""

    __tablename__ = "lost_instances"
    __table_args__ = (UniqueConstraint("sop_instance_uid", "sha256"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sha256: Mapped[str] = mapped_column(String(64))  # of the data set as received
    source: Mapped[str] = mapped_column(String(16))
    calling_ae_title: Mapped[str] = mapped_column(String(16))
    peer: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[dt.datetime] = mapped_column(Utc)
    noticed_at: Mapped[dt.datetime] = mapped_column(Utc)


class TombstoneRow(Base):
    """A deletion: committed before any file is removed; `finished_at` is set when every file of `paths` is gone.

    It is in the trash while it has `content`, which says what people know it by; `trash_until` stays.
    """

    __tablename__ = "tombstones"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    level: Mapped[str] = mapped_column(String(16))  # study, series, instance
    uid: Mapped[str] = mapped_column(String(64), index=True)
    reason: Mapped[str] = mapped_column(String(64))
    paths: Mapped[list[str]] = mapped_column(JSON)  # relative to the root
    ordered_at: Mapped[dt.datetime] = mapped_column(Utc)
    finished_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    trash_until: Mapped[dt.datetime | None] = mapped_column(Utc, index=True)
    restored_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    content: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class TrashRow(Base):
    """A file of a deletion that can be undone; see `node.index.nouns.trash`."""

    __tablename__ = "trash"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    deletion: Mapped[int] = mapped_column(ForeignKey("tombstones.id"), index=True)
    key: Mapped[str] = mapped_column(String(200), index=True)
    is_loser: Mapped[bool]  # of a conflict: `content` is the row of it
    bytes: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[str | None] = mapped_column(String(8))  # as of an image
    holder: Mapped[str | None] = mapped_column(String(63))  # the only host that has the file
    content: Mapped[dict[str, Any]] = mapped_column(JSON)  # how the instance came


class ScheduledStepRow(Base):
    """An entry of the modality worklist: one Scheduled Procedure Step (PS3.4 K.6)."""

    __tablename__ = "scheduled_steps"
    __table_args__ = (
        UniqueConstraint("source", "source_key"),
        Index("ix_scheduled_steps_start_date", "start_date"),
        Index("ix_scheduled_steps_study_instance_uid", "study_instance_uid"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    source: Mapped[str] = mapped_column(String(16))  # rest, file, hl7
    source_key: Mapped[str | None] = mapped_column(Text)  # names the entry at its source: a file, an order
    source_version: Mapped[str | None] = mapped_column(String(64))  # of a file: its digest
    patient_id: Mapped[str | None] = mapped_column(Text, index=True)
    patient_name: Mapped[str | None] = mapped_column(Text)
    accession_number: Mapped[str | None] = mapped_column(Text, index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64))
    requested_procedure_id: Mapped[str | None] = mapped_column(Text)
    scheduled_procedure_step_id: Mapped[str | None] = mapped_column(Text)
    modality: Mapped[str | None] = mapped_column(Text)
    station_ae_title: Mapped[str | None] = mapped_column(Text)
    start_date: Mapped[dt.date | None] = mapped_column(Date)
    start_time: Mapped[dt.time | None] = mapped_column(Time)
    description: Mapped[str | None] = mapped_column(Text)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)  # DICOM JSON Model
    state: Mapped[str] = mapped_column(String(16), default="scheduled")  # in-progress, completed, discontinued
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    changed_at: Mapped[dt.datetime] = mapped_column(Utc)


class PerformedStepRow(Base):
    """A Modality Performed Procedure Step that a modality created (PS3.4 F.7)."""

    __tablename__ = "performed_steps"
    __table_args__ = (CheckConstraint("state IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')", name="state"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
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


class PerformedSeriesRow(Base):
    """A series that an ended performed procedure step lists, with the UIDs of its instances."""

    __tablename__ = "performed_series"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    performed_step_id: Mapped[int] = mapped_column(ForeignKey("performed_steps.id", ondelete="CASCADE"), index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_instance_uids: Mapped[list[str]] = mapped_column(JSON)


class LabelRow(Base):
    """A word that people gave a study, or one of its series; see `node.index.nouns.labels`."""

    __tablename__ = "labels"
    __table_args__ = (UniqueConstraint("study_instance_uid", "series_instance_uid", "label"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: the study has it
    label: Mapped[str] = mapped_column(String(64), index=True)
    given_by: Mapped[str] = mapped_column(String(64))
    given_at: Mapped[dt.datetime] = mapped_column(Utc)


class CommentRow(Base):
    """What somebody wrote about a study, or about one of its series."""

    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: it is about the study
    comment: Mapped[str] = mapped_column(Text)
    written_by: Mapped[str] = mapped_column(String(64))
    written_at: Mapped[dt.datetime] = mapped_column(Utc)


class ProjectRow(Base):
    """A project: series that some accounts and peers may see, and no others; see `node.index.engine.scope`."""

    __tablename__ = "projects"
    __table_args__ = (NO_ID_TWICE,)  # nobody gets the rights of a project that is gone

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    description: Mapped[str] = mapped_column(String(200), server_default="")
    rule: Mapped[str | None] = mapped_column(Text)  # a selector: the series that it selects are in the project
    called_ae_title: Mapped[str | None] = mapped_column(String(16), index=True)  # new series sent to it are, too
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[dt.datetime] = mapped_column(Utc)


class ProjectMemberRow(Base):
    """An account with a role in a project."""

    __tablename__ = "project_members"
    __table_args__ = (CheckConstraint("role IN ('read', 'write', 'manage')", name="role"),)

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    account: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(8))


class LimitedAccountRow(Base):
    """An account that sees its projects only, even if it is in none, or is removed and made again."""

    __tablename__ = "limited_accounts"

    account: Mapped[str] = mapped_column(String(64), primary_key=True)


class ProjectContentRow(Base):
    """A study, or one of its series, that a person or the called AE title put into a project."""

    __tablename__ = "project_contents"

    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)  # empty: the study, with all of them
    added_by: Mapped[str] = mapped_column(String(64))
    added_at: Mapped[dt.datetime] = mapped_column(Utc)


class ProjectSeriesRow(Base):
    """A series that is in a project, by its contents or by its rule: what every read of a member looks up."""

    __tablename__ = "project_series"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True, index=True)
    is_by_rule: Mapped[bool] = mapped_column(primary_key=True)


class AccountRow(Base):
    """An account for HTTP. Secrets are stored as hashes only: Argon2 of a password, SHA-256 of random tokens."""

    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("role IN ('read', 'write', 'admin')", name="role"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(8))
    password_hash: Mapped[str | None] = mapped_column(String(200))  # None: tokens only
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    totp_secret: Mapped[str | None] = mapped_column(String(64))  # of the second factor, in base32
    totp_step: Mapped[int | None] = mapped_column(Integer)  # of the last code; None until the first one was right
    groups: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))  # as members of projects; None: none


class RecoveryCodeRow(Base):
    """A code that stands once for the second factor of an account."""

    __tablename__ = "recovery_codes"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)


class TokenRow(Base):
    """A secret for scripts, generated by the node: the role of its account or a lower one, all routes or some.

    With a project, which takes the token along when it goes, it shows the series of that one only.
    """

    __tablename__ = "tokens"
    __table_args__ = (UniqueConstraint("account_id", "label"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    label: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str | None] = mapped_column(String(8))  # None: that of the account
    routes: Mapped[str | None] = mapped_column(String(1000))  # separated by spaces; None: all
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    expires_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    used_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # to the minute


class WebSessionRow(Base):
    """The session of a logged-in browser; `agent` is what the browser said it is."""

    __tablename__ = "web_sessions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    address: Mapped[str | None] = mapped_column(String(64))
    agent: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    expires_at: Mapped[dt.datetime] = mapped_column(Utc)
    used_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # to the minute
    has_factor: Mapped[bool | None]  # whether a second factor was given; false: it is waited for; None: none was needed


class ShareRow(Base):
    """A link that lets anybody who has it see a study, or one of its series, for a time."""

    __tablename__ = "shares"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: the study
    may_download: Mapped[bool]
    passphrase_hash: Mapped[str | None] = mapped_column(String(255))  # None: the link alone is enough
    deidentification: Mapped[str | None] = mapped_column(String(64))  # table [deidentify.NAME]; None: as received
    made_by: Mapped[str] = mapped_column(String(64))
    made_at: Mapped[dt.datetime] = mapped_column(Utc)
    expires_at: Mapped[dt.datetime] = mapped_column(Utc)
    uses: Mapped[int] = mapped_column(Integer, default=0)
    used_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class SubscriberRow(Base):
    """A hook, or a destination of a route, and what it wants; see `node.index.work.outbox`."""

    __tablename__ = "subscribers"
    __table_args__ = (UniqueConstraint("kind", "name", "destination"), NO_ID_TWICE)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # hook, route
    name: Mapped[str] = mapped_column(String(64))  # empty: the route of what people send by hand
    destination: Mapped[str] = mapped_column(String(64))  # of a route; else empty
    wanted_kinds: Mapped[str] = mapped_column(Text)  # of events, each between two spaces
    wants_instances: Mapped[bool] = mapped_column()  # messages of single instances
    delivered: Mapped[int] = mapped_column(Integer, default=0)  # messages in total
    delivered_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    paused: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Of destinations of routes only:
    trouble: Mapped[str | None] = mapped_column(Text)  # why the destination cannot be reached
    trouble_since: Mapped[dt.datetime | None] = mapped_column(Utc)
    retry_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class OwedEventRow(Base):
    """An event that a subscriber wants and has no message of yet; inserted and deleted with what it follows from.

    Without foreign keys: these would lock rows of subscribers in each transaction that receives instances.
    """

    __tablename__ = "owed_events"

    subscriber_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    event_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class OwedImageRow(Base):
    """An instance that a subscriber wants and has no message of yet; see `OwedEventRow`."""

    __tablename__ = "owed_images"

    subscriber_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    image_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


SENT_STATES = ("sent", "owed", "asked", "confirmed", "lost")
"""sent: the destination took it; owed: and is to be asked whether it keeps it; asked: and was asked; confirmed: and
keeps it; lost: and does not keep it."""


class SentInstanceRow(Base):
    """An instance that a destination of a route has taken; see `node.index.work.routes`."""

    __tablename__ = "sent_instances"
    __table_args__ = (
        CheckConstraint("state IN ({})".format(", ".join(f"'{s}'" for s in SENT_STATES)), name="state"),
        partial_index("ix_sent_instances_unconfirmed", ("route", "destination"), "state IN ('owed', 'asked')"),
    )

    image_id: Mapped[int] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    route: Mapped[str] = mapped_column(String(64), primary_key=True)
    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))  # of the stored data set; another one is sent again
    sop_class_uid: Mapped[str] = mapped_column(String(64))  # as sent
    sop_instance_uid: Mapped[str] = mapped_column(String(64))  # as sent
    state: Mapped[str] = mapped_column(String(16))
    sent_at: Mapped[dt.datetime] = mapped_column(Utc)
    transaction_uid: Mapped[str | None] = mapped_column(String(64), index=True)  # of the last request for commitment
    asked_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    asks: Mapped[int] = mapped_column(Integer, default=0)
    confirmed_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class ResultRow(Base):
    """An instance that the node stores for a job; the row is there before the instance, which it identifies."""

    __tablename__ = "results"
    __table_args__ = (UniqueConstraint("job_id", "file"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("work.id", ondelete="CASCADE"))
    file: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(16))  # segmentation, report, document, instance
    sha256: Mapped[str] = mapped_column(String(64))  # of the file that the hook left
    source_series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    segments: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))  # label of a mask -> number
    stored_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: it is on its way


class WorkRow(Base):
    """Something that the node owes to a peer or a hook; see `node.index.work.ledger`.

    What only some kinds have is in `payload`; see `node.index.work.payloads`.
    """

    __tablename__ = "work"
    __table_args__ = (
        UniqueConstraint("kind", "name", "destination", "key"),
        Index("ix_work_kind_name_destination_outcome_due_at", "kind", "name", "destination", "outcome", "due_at"),
        Index("ix_work_kind_id", "kind", "id"),
        Index("ix_work_state_kind_name_destination_due_at", "state", "kind", "name", "destination", "due_at"),
        CheckConstraint("(state = 'ended') = (outcome IS NOT NULL)", name="outcome"),
        NO_ID_TWICE,  # people and programs name work by it
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # see `node.index.work.states.Kind`
    name: Mapped[str] = mapped_column(String(64))  # of the hook, the route or the peer; AE title of the requestor
    destination: Mapped[str] = mapped_column(String(64), default="")  # of a route
    key: Mapped[str] = mapped_column(
        String(64), index=True
    )  # by which others name it; of a commitment: Transaction UID
    event: Mapped[str | None] = mapped_column(String(32))  # that caused it
    cause: Mapped[str | None] = mapped_column(String(36), index=True)  # of a job: its message
    study_instance_uid: Mapped[str | None] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str | None] = mapped_column(String(64))  # None: the whole study
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64))
    revision: Mapped[int | None] = mapped_column(Integer)
    happened_at: Mapped[dt.datetime] = mapped_column(Utc)  # the event, or the request
    requested_by: Mapped[str] = mapped_column(String(64))  # an account, an AE title, or a rule of the configuration
    state: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str | None] = mapped_column(String(16))  # None: it is open
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    due_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: at once, while it waits
    tried_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # the last attempt
    percent: Mapped[int | None] = mapped_column(Integer)  # how far it is
    reason: Mapped[str | None] = mapped_column(Text)  # of the outcome or the last failure; may quote hook or peer
    cancelled_by: Mapped[str | None] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    changed_at: Mapped[dt.datetime] = mapped_column(Utc)
    ended_at: Mapped[dt.datetime | None] = mapped_column(Utc)
