"""The series that ended performed procedure steps list, compared with the instances that are stored (PS3.4 F.7.2)."""

from __future__ import annotations

import json
from collections.abc import Collection

from sqlalchemy import JSON, Connection, bindparam, func, or_, select

from node.completeness import Performed, performed
from node.index.engine.hot_statements import Prepared
from node.index.engine.sql import looked_up_in
from node.index.models import ImageRow, PerformedSeriesRow

_LISTS = Prepared(
    select(PerformedSeriesRow.sop_instance_uids).where(
        PerformedSeriesRow.series_instance_uid == bindparam("series"),
        or_(
            PerformedSeriesRow.study_instance_uid == bindparam("study"),
            PerformedSeriesRow.study_instance_uid.is_(None),
        ),
    )
)
_LISTED = Prepared(
    select(PerformedSeriesRow.series_instance_uid).where(
        looked_up_in(PerformedSeriesRow.series_instance_uid, bindparam("uids", type_=JSON))
    )
)
_COUNT = Prepared(select(func.count()).where(ImageRow.series_id == bindparam("id")))
_STORED = Prepared(select(ImageRow.sop_instance_uid).where(ImageRow.series_id == bindparam("id")))


def performed_of(
    connection: Connection, series_id: int, study_instance_uid: str, series_instance_uid: str
) -> Performed | None:
    """Compare what is listed of a series with what is stored; None if no ended step lists it."""
    listed = _listed(connection, study_instance_uid, series_instance_uid)
    return performed(listed, _stored(connection, series_id)) if listed else None


def listed_series(connection: Connection, series_instance_uids: Collection[str]) -> set[str]:
    """Return which of some Series Instance UIDs steps list; asked for each batch that is received.

    The rows of the series are locked before: a step that ends at the same time is seen here, or sees what is received.
    """
    return {uid for (uid,) in _LISTED.execute(connection, {"uids": list(series_instance_uids)})}


def is_all_here(connection: Connection, series_id: int, study_instance_uid: str, series_instance_uid: str) -> bool:
    """Return whether a step lists a series, and every listed instance is stored."""
    listed = _listed(connection, study_instance_uid, series_instance_uid)
    if not listed or _COUNT.execute(connection, {"id": series_id}).fetchone()[0] < len(listed):
        return False
    return listed <= _stored(connection, series_id)


def _listed(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """Return the SOP Instance UIDs of all lists: two steps may make one series."""
    rows = _LISTS.execute(connection, {"study": study_instance_uid, "series": series_instance_uid})
    return {uid for (uids,) in rows for uid in json.loads(uids)}


def _stored(connection: Connection, series_id: int) -> set[str]:
    return {uid for (uid,) in _STORED.execute(connection, {"id": series_id})}
