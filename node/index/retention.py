"""Which studies there are, as far as it matters for keeping them."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from node.index.models import ImageRow, SeriesRow, StudyRow
from node.index.records import StoredStudy

SETTLED = ("converted", "not-an-image")


def stored_studies(connection: Connection) -> list[StoredStudy]:
    """Every study, the one that grew last at the end."""
    titles: dict[int, set[str]] = {}
    for study_id, title in connection.execute(
        select(SeriesRow.study_id, ImageRow.calling_ae_title)
        .join(ImageRow, ImageRow.series_id == SeriesRow.id)
        .distinct()
    ):
        titles.setdefault(study_id, set()).add(title or "")
    last = func.max(SeriesRow.last_received_at)
    rows = connection.execute(
        select(StudyRow.id, StudyRow.study_instance_uid, last, func.min(SeriesRow.state.in_(SETTLED)))
        .join(SeriesRow, SeriesRow.study_id == StudyRow.id)
        .group_by(StudyRow.id)
        .order_by(last, StudyRow.id)
    )
    return [
        StoredStudy(uid, last_received_at, bool(settled), frozenset(titles.get(study_id, ())))
        for study_id, uid, last_received_at, settled in rows
    ]
