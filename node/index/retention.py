"""Which studies there are, as far as it matters for keeping them."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from node.index.models import Image, Series, Study
from node.index.records import StoredStudy

SETTLED = ("converted", "not-an-image")


def stored_studies(connection: Connection) -> list[StoredStudy]:
    """Every study, the one that grew last at the end."""
    titles: dict[int, set[str]] = {}
    for study_id, title in connection.execute(
        select(Series.study_id, Image.calling_ae_title).join(Image, Image.series_id == Series.id).distinct()
    ):
        titles.setdefault(study_id, set()).add(title or "")
    last = func.max(Series.last_received_at)
    rows = connection.execute(
        select(Study.id, Study.study_instance_uid, last, func.min(Series.state.in_(SETTLED)))
        .join(Series, Series.study_id == Study.id)
        .group_by(Study.id)
        .order_by(last, Study.id)
    )
    return [
        StoredStudy(uid, last_received_at, bool(settled), frozenset(titles.get(study_id, ())))
        for study_id, uid, last_received_at, settled in rows
    ]
