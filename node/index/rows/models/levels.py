"""The tables of patients, studies, series and images, the levels of PS3.4 C.6."""

import datetime as dt
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column
from sqlalchemy.types import TypeDecorator

from node.dicom.key_values import folded_groups
from node.index.rows.sql import NO_ID_TWICE, partial_index

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


Clock = String(15)
"""A time of day in ISO 8601, no more of it than its TM says: see `node.dicom.attributes.clock_of`."""


NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""How keys, constraints and indexes are called."""


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


class Numbered(Base):
    """A table whose rows have numbers, which the database gives."""

    __abstract__ = True

    id: Mapped[int] = mapped_column(Integer, primary_key=True, sort_order=-1)  # the first column


def _folded_group(column: str, group: int) -> MappedColumn[str | None]:
    """Return a column for a component group of the name in `column`, folded for comparison and filled at insertion."""

    def group_of_row(context: DefaultExecutionContext) -> str | None:
        return folded_groups(context.get_current_parameters().get(column))[group]  # type: ignore[no-untyped-call]

    return mapped_column(Text, default=group_of_row, index=column == "patient_name")


class PatientRow(Numbered):
    """A person, identified by issuer and Patient ID, and by name, birth date and sex where people share a Patient ID.

    Each study without a Patient ID has a patient of its own.
    """

    __tablename__ = "patients"

    identity: Mapped[str] = mapped_column(Text, index=True)  # issuer and ID; the study if there is no ID
    patient_id: Mapped[str | None] = mapped_column(Text, index=True)
    issuer_of_patient_id: Mapped[str | None] = mapped_column(Text)
    patient_name: Mapped[str | None] = mapped_column(Text, index=True)
    patient_name_alphabetic: Mapped[str | None] = _folded_group("patient_name", 0)
    patient_name_ideographic: Mapped[str | None] = _folded_group("patient_name", 1)
    patient_name_phonetic: Mapped[str | None] = _folded_group("patient_name", 2)
    patient_birth_date: Mapped[dt.date | None] = mapped_column(Date)
    patient_birth_time: Mapped[str | None] = mapped_column(Clock)
    patient_sex: Mapped[str | None] = mapped_column(Text)
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("patients.id"), index=True)  # decided by a person
    merged_first_into: Mapped[int | None] = mapped_column(Integer)  # that decision, if that patient was merged as well
    is_corrected: Mapped[bool] = mapped_column(default=False, server_default=false())  # it says that this row is wrong
    decided_by: Mapped[str | None] = mapped_column(Text)  # who that person is


class StudyRow(Numbered):
    __tablename__ = "studies"
    __table_args__ = (
        partial_index(
            "ix_studies_corrected", ("corrected_patient_id", "named_patient_id"), "corrected_patient_id IS NOT NULL"
        ),
    )

    patient_id: Mapped[int] = mapped_column(ForeignKey("patients.id"), index=True)
    named_patient_id: Mapped[int | None] = mapped_column(Integer)  # who its files name, if that is another person
    corrected_patient_id: Mapped[int | None] = mapped_column(Integer)  # who a person has said this study alone is of
    decided_by: Mapped[str | None] = mapped_column(Text)  # who has said that
    identified_at: Mapped[dt.datetime | None] = mapped_column(Utc)  # None: nobody decided, and copies are as stored
    uncounted: Mapped[int] = mapped_column(
        Integer, server_default="0"
    )  # instances, see `node.index.rules.intake.stated`
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    study_date: Mapped[dt.date | None] = mapped_column(Date, index=True)
    study_time: Mapped[str | None] = mapped_column(Clock)
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


class SeriesRow(Numbered):
    """A series and its progress; `state`, `due_at` and `claim` hand it from the receiver to the worker."""

    __tablename__ = "series"
    __table_args__ = (
        # The same Series Instance UID in two studies means two series: merging them could mix two patients.
        UniqueConstraint("study_id", "series_instance_uid"),
        Index("ix_series_state_due_at", "state", "due_at"),
        Index(None, "modality", "study_id"),
        Index(None, "series_description", "study_id"),
        # The newest series with any of these values are found without their rows, which are ten times as large.
        Index("ix_series_listed", "last_received_at", "modality", "state", "verdict", "verdict_rule"),
        DOUBTED_SERIES,
        CheckConstraint("state IN ({})".format(", ".join(f"'{s}'" for s in SERIES_STATES)), name="state"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    modality: Mapped[str | None] = mapped_column(Text)
    series_number: Mapped[int | None] = mapped_column(Integer)
    series_description: Mapped[str | None] = mapped_column(Text)
    series_date: Mapped[dt.date | None] = mapped_column(Date)
    series_time: Mapped[str | None] = mapped_column(Clock)
    body_part_examined: Mapped[str | None] = mapped_column(Text)
    laterality: Mapped[str | None] = mapped_column(Text)
    protocol_name: Mapped[str | None] = mapped_column(Text)
    manufacturer: Mapped[str | None] = mapped_column(Text)
    manufacturer_model_name: Mapped[str | None] = mapped_column(Text)
    station_name: Mapped[str | None] = mapped_column(Text)
    frame_of_reference_uid: Mapped[str | None] = mapped_column(Text)
    performed_procedure_step_start_date: Mapped[dt.date | None] = mapped_column(Date)
    performed_procedure_step_start_time: Mapped[str | None] = mapped_column(Clock)
    timezone_offset_from_utc: Mapped[str | None] = mapped_column(Text)
    # Scheduled Procedure Step ID and Requested Procedure ID of each request, by keyword.
    request_attributes: Mapped[list[dict[str, str]] | None] = mapped_column(JSON(none_as_null=True))

    state: Mapped[str] = mapped_column(String(16), default="receiving")
    open_since: Mapped[dt.datetime | None] = mapped_column(Utc)  # when the first unconverted instance was received
    last_received_at: Mapped[dt.datetime] = mapped_column(Utc)
    due_at: Mapped[dt.datetime | None] = mapped_column(Utc)
    receptions: Mapped[int] = mapped_column(Integer, default=0)  # incremented with every stored instance
    last_event: Mapped[int] = mapped_column(Integer, default=0)  # the newest one when the last instance was indexed
    revision: Mapped[int] = mapped_column(Integer, default=0)
    stated: Mapped[int | None] = mapped_column(BigInteger)  # a statement with which all rows agree, see `StatementRow`
    claim: Mapped[str | None] = mapped_column(String(32))
    claimed_by: Mapped[str | None] = mapped_column(String(63))  # host, if the index can have several
    claimed_receptions: Mapped[int | None] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    error: Mapped[str | None] = mapped_column(Text)
    why: Mapped[str | None] = mapped_column(String(32))  # what `error` says, in one word: a reason, or `FOR_ROOM`
    # What its sender said that it has: see `node.completeness.Reported`.
    reported: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    verdict: Mapped[str | None] = mapped_column(String(16))
    verdict_rule: Mapped[str | None] = mapped_column(String(32))
    verdict_reason: Mapped[str | None] = mapped_column(Text)
    expected_instances: Mapped[int | None] = mapped_column(Integer)
    expected_source: Mapped[str | None] = mapped_column(String(64))
    missing_instances: Mapped[int | None] = mapped_column(Integer)
    missing_detail: Mapped[str | None] = mapped_column(Text)
    missing_at_sender: Mapped[bool] = mapped_column(default=False, server_default=false())  # the sender lacks it, too
    acknowledged_problem: Mapped[str | None] = mapped_column(String(64))  # see `node.index.rules.custody.problems`
    acknowledged_reason: Mapped[str | None] = mapped_column(Text)
    acknowledged_by: Mapped[str | None] = mapped_column(String(64))
    acknowledged_at: Mapped[dt.datetime | None] = mapped_column(Utc)


class ImageRow(Numbered):
    """A stored instance of any kind; the level is called Image for historical reasons (PS3.4 C.6)."""

    __tablename__ = "images"
    __table_args__ = (
        MARKED_IMAGES,
        partial_index("ix_images_spooled", "key", f"place = '{SPOOL}'"),
        partial_index("ix_images_series_id_spool_host", ("series_id", "spool_host"), "spool_host IS NOT NULL"),
        Index(None, "series_id", "bytes"),  # what series have together is read without the rows
        NO_ID_TWICE,  # what subscribers are owed names instances by it
    )

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    instance_number: Mapped[int | None] = mapped_column(Integer)
    number_of_frames: Mapped[int | None] = mapped_column(Integer)
    rows: Mapped[int | None] = mapped_column(Integer)
    columns: Mapped[int | None] = mapped_column(Integer)
    acquisition_number: Mapped[int | None] = mapped_column(Integer)
    content_date: Mapped[dt.date | None] = mapped_column(Date)
    content_time: Mapped[str | None] = mapped_column(Clock)
    images_in_acquisition: Mapped[int | None] = mapped_column(Integer)
    number_of_temporal_positions: Mapped[int | None] = mapped_column(Integer)
    number_of_slices: Mapped[int | None] = mapped_column(Integer)
    number_of_time_slices: Mapped[int | None] = mapped_column(Integer)
    number_of_series_related_instances: Mapped[int | None] = mapped_column(Integer)
    timezone_offset_from_utc: Mapped[str | None] = mapped_column(Text)
    stated: Mapped[int | None] = mapped_column(BigInteger)  # number of what it states of the levels above
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


class StatementRow(Base):
    """What instances of a series state of their patient, study and series; see `node.index.rules.intake.stated`."""

    __tablename__ = "statements"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # a digest of the rest
    is_image: Mapped[bool] = mapped_column()
    text: Mapped[str] = mapped_column(Text)  # an object of JSON


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
