"""Make a series due again because what its conversion used has changed."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, and_, update

from node.index.models import SeriesRow
from node.index.nouns.events import record_event

REVOKED = -1
"""In `claimed_receptions`: the series is still under conversion, but its outcome will not count."""


def revoke_claim(connection: Connection, series_id: int) -> None:
    """Revoke the claim of a series after an instance has left it: its conversion may not be recorded."""
    claimed = update(SeriesRow).where(SeriesRow.id == series_id, SeriesRow.state == "converting")
    connection.execute(claimed.values(claimed_receptions=REVOKED))


def reopen(
    connection: Connection,
    series_id: int,
    study_instance_uid: str,
    sop_instance_uid: str | None,
    now: dt.datetime,
    detail: str,
) -> None:
    """Make a series due for another conversion, and let one that is under way not count.

    Parameters
    ----------
    sop_instance_uid : str or None
        The instance that has left the series, if that is why.
    """
    connection.execute(update(SeriesRow).where(SeriesRow.id == series_id).values(receptions=SeriesRow.receptions + 1))
    closed = and_(SeriesRow.id == series_id, SeriesRow.state.not_in(("receiving", "converting")))
    again = update(SeriesRow).where(closed).values(state="receiving", open_since=now, due_at=now, attempts=0)
    for series_instance_uid in connection.scalars(again.returning(SeriesRow.series_instance_uid)):
        record_event(
            connection,
            "series-reopened",
            now,
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            sop_instance_uid=sop_instance_uid,
            detail=detail,
        )
    revoke_claim(connection, series_id)
