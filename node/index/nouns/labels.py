"""Labels and comments outlive the rows of what they are about: they name it by its UIDs, as people do.

A study that comes back, from the trash or from a sender, has those that it had. They are forgotten with the last files.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, delete, select

from node.index.models import LabelRow, SeriesRow, StudyRow, TombstoneRow


def forget_labels(connection: Connection, study_instance_uid: str) -> None:
    """Delete the labels of a study, and of its series, that are neither in the index nor in the trash."""
    forget_marks(connection, study_instance_uid, LabelRow)


def forget_marks(connection: Connection, study_instance_uid: str, kind: Any) -> None:
    """Do this with the rows of a table that names what it is about as `LabelRow` does."""
    of_study = kind.study_instance_uid == study_instance_uid
    if connection.execute(select(kind.id).where(of_study).limit(1)).first() is None:
        return  # the trash need not be read
    content = TombstoneRow.content["study_instance_uid"].as_string()
    trashed = select(TombstoneRow.id).where(TombstoneRow.content.is_not(None), content == study_instance_uid)
    if connection.execute(trashed.limit(1)).first() is not None:
        return
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid)
    series = select(SeriesRow.series_instance_uid).where(SeriesRow.study_id.in_(study))
    is_gone = and_(kind.series_instance_uid != "", kind.series_instance_uid.not_in(series)) | ~study.exists()
    connection.execute(delete(kind).where(of_study, is_gone))
