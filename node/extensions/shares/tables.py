"""The table of links."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sqlalchemy import Connection, Integer, MetaData, String, delete, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.index.engine.extension_tables import IndexTables
from node.index.models.levels import NAMES, StudyRow, Utc


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


class ShareRow(Base):
    """A link that lets anybody who has it see a study, or one of its series, for a time."""

    __tablename__ = "shares"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: the study
    may_download: Mapped[bool]
    passphrase_hash: Mapped[str | None] = mapped_column(String(255))  # links of before that have one open nothing
    deidentification: Mapped[str | None] = mapped_column(String(64))  # table [deidentify.NAME]; None: as received
    made_by: Mapped[str] = mapped_column(String(64))
    made_at: Mapped[dt.datetime] = mapped_column(Utc)
    expires_at: Mapped[dt.datetime] = mapped_column(Utc)
    uses: Mapped[int] = mapped_column(Integer, default=0)
    used_at: Mapped[dt.datetime | None] = mapped_column(Utc)


def _forget(connection: Connection, study_instance_uid: str) -> None:
    """Delete the links to a study that is not in the index: one that comes again later is not shared by them."""
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid)
    connection.execute(delete(ShareRow).where(ShareRow.study_instance_uid == study_instance_uid, ~study.exists()))


TABLES = IndexTables(Base.metadata, Path(__file__).with_name("migrations"), "shares_0001", forget=_forget)
