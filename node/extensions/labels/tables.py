"""What people write of studies and series; their labels are the core's, whose selectors compare them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sqlalchemy import Connection, Integer, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.index.engine.extension_tables import SEEN_WITH_STUDY_OR_SERIES, IndexTables
from node.index.models import NAMES, Utc
from node.index.nouns.labels import forget_marks


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)


class CommentRow(Base):
    """What somebody wrote about a study, or about one of its series."""

    __tablename__ = "comments"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))  # empty: it is about the study
    comment: Mapped[str] = mapped_column(Text)
    written_by: Mapped[str] = mapped_column(String(64))
    written_at: Mapped[dt.datetime] = mapped_column(Utc)


def _forget(connection: Connection, study_instance_uid: str) -> None:
    forget_marks(connection, study_instance_uid, CommentRow)


TABLES = IndexTables(
    Base.metadata,
    Path(__file__).with_name("migrations"),
    "labels_0001",
    seen={"comments": SEEN_WITH_STUDY_OR_SERIES},
    views={
        "v_comments": """
            SELECT c.id, c.study_instance_uid, nullif(c.series_instance_uid, '') AS series_instance_uid, c.comment,
                   c.written_by, c.written_at
            FROM comments c JOIN studies st ON st.study_instance_uid = c.study_instance_uid
            WHERE c.series_instance_uid = '' OR EXISTS (
                SELECT 1 FROM series se
                WHERE se.study_id = st.id AND se.series_instance_uid = c.series_instance_uid)"""
    },
    forget=_forget,
)
