"""Comments on studies and series; labels are in a table of the core, whose selectors compare them.

Labels and comments outlive the rows of what they are about: they name it by its UIDs, as people do. A study that comes
back, from the trash or from a sender, has those that it had. They are forgotten with the last files.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from sqlalchemy import Connection, Integer, MetaData, String, Text, and_, delete, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from node.api import NAMES, SEEN_WITH_STUDY_OR_SERIES, IndexTables, LabelRow, SeriesRow, StudyRow, Utc, in_trash


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
    """Delete the labels and comments of a study, and of its series, that are neither in the index nor in the trash."""
    kinds = (LabelRow, CommentRow)
    marked = [select(kind.id).where(kind.study_instance_uid == study_instance_uid).limit(1) for kind in kinds]
    if all(connection.execute(query).first() is None for query in marked):
        return  # the trash need not be read
    if in_trash(connection, "study", study_instance_uid):
        return
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid)
    series = select(SeriesRow.series_instance_uid).where(SeriesRow.study_id.in_(study))
    for kind in kinds:
        is_gone = and_(kind.series_instance_uid != "", kind.series_instance_uid.not_in(series)) | ~study.exists()
        connection.execute(delete(kind).where(kind.study_instance_uid == study_instance_uid, is_gone))


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
