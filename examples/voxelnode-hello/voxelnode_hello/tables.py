"""The table of the extension in the index."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sqlalchemy import ForeignKey, Integer, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from voxelnode.api import NAMES, IndexTables, StudyRow, Utc


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


class GreetingRow(Base):
    """A greeting of a study."""

    __tablename__ = "hello_greetings"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey(StudyRow.id, ondelete="CASCADE"), unique=True)
    greeting: Mapped[str] = mapped_column(Text)
    greeted_at: Mapped[dt.datetime] = mapped_column(Utc)


TABLES = IndexTables(
    Base.metadata,
    migrations=Path(__file__).with_name("migrations"),
    revision="hello_0001",
    seen={"hello_greetings": "EXISTS (SELECT 1 FROM studies st WHERE st.id = t.study_id)"},
)
