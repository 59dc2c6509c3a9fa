"""Open associations that have brought instances: what they keep waiting.

A row of ``open_associations`` stands for a series of which an open association has brought an instance. It is written
with the instance, and removed by the record of the end (`node.index.nouns.association_ends`), which is in the journal
before the release is answered. A row that is left when a start has applied the journal is therefore of an association
that the end of the process cut off.

While an association is open, more of the series that it has brought last is to be expected: the series is not quiet
until the association ends, brings another series, or is idle for `OPEN_SECONDS`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from sqlalchemy import ColumnElement, Connection, select
from sqlalchemy.orm import aliased

from node.index.engine.sql import insert
from node.index.models.levels import SeriesRow
from node.index.models.work import OpenAssociationRow

OPEN_SECONDS = 60.0
"""How long an open association that sends nothing keeps its last series waiting."""


def note_open(connection: Connection, host: str, brought: Mapping[tuple[str, int], tuple[str, dt.datetime]]) -> None:
    """Note what open associations have just brought.

    `brought`: the calling AE title, and when the last instance came, by association and series.
    """
    if not brought:
        return
    rows = [
        {
            "host": host,
            "association": association,
            "series_id": series_id,
            "calling_ae_title": title,
            "open_until": received_at + dt.timedelta(seconds=OPEN_SECONDS),
        }
        for (association, series_id), (title, received_at) in brought.items()
    ]
    new = insert(OpenAssociationRow)
    known = new.on_conflict_do_update(
        index_elements=["host", "association", "series_id"], set_={"open_until": new.excluded.open_until}
    )
    connection.execute(known, rows)


def is_being_brought(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition that an open association is bringing instances of a series."""
    row, later = OpenAssociationRow, aliased(OpenAssociationRow)
    others = select(later.id).where(
        later.host == row.host, later.association == row.association, later.open_until > row.open_until
    )
    return select(row.id).where(row.series_id == SeriesRow.id, row.open_until > now, ~others.exists()).exists()
