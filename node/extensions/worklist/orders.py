"""Orders: the table of the modality worklist, and whether a study is of the patient for whom it was ordered."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from pydicom.datadict import dictionary_VR
from sqlalchemy import (
    JSON,
    Connection,
    Date,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    Time,
    UniqueConstraint,
    bindparam,
    insert,
    or_,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.dicom.attributes import date_of
from node.dicom.json_model import Json, entry_text, text_element
from node.dicom.values import standard_tag
from node.index.rows.extension_tables import IndexTables
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import ConflictRow
from node.index.rows.models.levels import NAMES, PatientRow, Utc
from node.index.rules.intake.levels import Imaged
from node.index.rules.people.identifiers import decided_patient, folded_name


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


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
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)  # DICOM JSON Model, as ordered
    identified: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # those of whom it really is
    state: Mapped[str] = mapped_column(String(16), default="scheduled")  # in-progress, held, or over
    created_at: Mapped[dt.datetime] = mapped_column(Utc)
    changed_at: Mapped[dt.datetime] = mapped_column(Utc)


TABLES = IndexTables(Base.metadata, Path(__file__).with_name("migrations"), "worklist_0001")


log = structlog.get_logger()

KIND = "other-patient-than-ordered"

_PATIENT = {
    "PatientID": "patient_id", "IssuerOfPatientID": "issuer_of_patient_id", "PatientName": "patient_name",
    "PatientBirthDate": "patient_birth_date", "PatientSex": "patient_sex",
}  # fmt: skip
PATIENT_TAGS = {keyword: f"{standard_tag(keyword):08X}" for keyword in _PATIENT}


def identified(connection: Connection, attributes: Json) -> dict[str, Any]:
    """Return the columns that say whose a step is: as it was ordered, unless that patient is another one by now."""
    named: dict[str, Any] = {column: entry_text(attributes, keyword) for keyword, column in _PATIENT.items()}
    named["patient_birth_date"] = date_of(named["patient_birth_date"] or "")
    patient = decided_patient(connection, named)
    found: Json | None = None
    if patient is not None:
        named |= {column: value for column in _PATIENT.values() if (value := getattr(patient, column))}
        named["issuer_of_patient_id"] = patient.issuer_of_patient_id
        birth_date = named["patient_birth_date"]
        texts = {**named, "patient_birth_date": f"{birth_date:%Y%m%d}" if birth_date else ""}
        found = {
            PATIENT_TAGS[keyword]: text_element(dictionary_VR(keyword), texts[column] or "")
            for keyword, column in _PATIENT.items()
        }
    return {"patient_id": named["patient_id"], "patient_name": named["patient_name"], "identified": found}


_ORDERS = PreparedStatement(
    select(ScheduledStepRow.id).where(
        or_(
            ScheduledStepRow.study_instance_uid == bindparam("study"),
            ScheduledStepRow.accession_number == bindparam("accession"),
        )
    )
)


def compare_with_orders(
    connection: Connection, study: Imaged, accession_number: str | None, sender: str | None, now: dt.datetime
) -> None:
    """Record a conflict if an order with the UID or the Accession Number of a new study is of another patient."""
    named = {"study": study.study_instance_uid, "accession": accession_number or None}
    ids = [id for (id,) in _ORDERS.execute(connection, named).fetchall()]
    if ids:
        orders = connection.execute(select(ScheduledStepRow.attributes).where(ScheduledStepRow.id.in_(ids)))
        compare(connection, study, orders.scalars().all(), sender, now)


def compare(
    connection: Connection, study: Imaged, orders: Sequence[Json], sender: str | None, now: dt.datetime
) -> None:
    """Record a conflict if one of the orders of a study is of another patient; one conflict per study."""
    differing = next((names for order in orders if (names := _differences(connection, study, order))), None)
    seen = select(ConflictRow.id).where(
        ConflictRow.kind == KIND, ConflictRow.study_instance_uid == study.study_instance_uid
    )
    if differing is None or connection.execute(seen).first() is not None:
        return
    detail = f"the order in the worklist has another {' and '.join(differing)}; the study stays with its Patient ID"
    values = {"kind": KIND, "study_instance_uid": study.study_instance_uid, "detail": detail, "found_at": now}
    connection.execute(insert(ConflictRow).values({**values, "calling_ae_title": sender}))
    log.warning("conflict", kind=KIND, detail=detail, study_instance_uid=study.study_instance_uid)


def _differences(connection: Connection, study: Imaged, order: Json) -> list[str]:
    """Return in what the patients of a study and of an order differ; a missing value is no contradiction."""
    ordered = entry_text(order, "PatientID")
    if ordered and study.patient_id and ordered != study.patient_id:
        is_same = or_(PatientRow.id == study.patient_row, PatientRow.merged_into == study.patient_row)
        merged = select(PatientRow.id).where(PatientRow.patient_id == ordered, is_same)
        if connection.execute(merged).first() is None:
            return ["Patient ID"]
    birth_date = date_of(entry_text(order, "PatientBirthDate") or "")
    pairs = {
        "name": (folded_name(study.patient_name), folded_name(entry_text(order, "PatientName"))),
        "birth date": (study.patient_birth_date, birth_date),
        "sex": (study.patient_sex, entry_text(order, "PatientSex")),
    }
    return [what for what, (mine, theirs) in pairs.items() if mine and theirs and mine != theirs]
