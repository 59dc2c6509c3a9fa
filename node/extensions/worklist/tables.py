"""The table of the modality worklist."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Date, Index, Integer, MetaData, String, Text, Time, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.index.engine.extension_tables import IndexTables
from node.index.models.levels import NAMES, Utc


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
