"""The table of what was refused: bounded, equal refusals within a minute in one row."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from node.index.models import RejectionRow
from node.index.records import CountedRefusal, Refused
from node.index.repository import Repository, on_writer

ONE_ROW = dt.timedelta(minutes=1)
"""Equal refusals that follow each other within this time share a row."""

MAX_ROWS = 10_000
"""The oldest rows give way."""


class RejectionRepository(Repository):
    """The refusals of a node."""

    @on_writer
    def record(self, connection: Connection, refusals: Sequence[CountedRefusal]) -> list[Refused]:
        """Count refusals in the rows that are still open for them, or add rows.

        Returns
        -------
        list of Refused
            Those that got a row of their own.
        """
        news = [counted.refused for counted in refusals if not _counted(connection, counted)]
        if news:
            newest = select(func.max(RejectionRow.id)).scalar_subquery()
            connection.execute(delete(RejectionRow).where(RejectionRow.id <= newest - MAX_ROWS))
        return news


def _counted(connection: Connection, counted: CountedRefusal) -> bool:
    """Add to the open row of an equal refusal; without one make it, and return False."""
    refused = counted.refused
    same = {
        "what": refused.what,
        "rule": refused.rule,
        "peer": refused.peer,
        "calling_ae_title": refused.calling_ae_title,
        "called_ae_title": refused.called_ae_title,
        "offered": refused.offered,
    }
    told = {"reason": refused.reason, "remedy": refused.remedy, "last_at": counted.last_at}
    open_row = connection.execute(
        select(RejectionRow.id)
        .where(*(getattr(RejectionRow, name) == value for name, value in same.items()))
        .where(RejectionRow.last_at >= counted.first_at - ONE_ROW)
        .order_by(RejectionRow.id.desc())
        .limit(1)
    ).scalar()
    if open_row is None:
        connection.execute(insert(RejectionRow).values(**same, **told, count=counted.count, first_at=counted.first_at))
        return False
    connection.execute(
        update(RejectionRow).where(RejectionRow.id == open_row).values(**told, count=RejectionRow.count + counted.count)
    )
    return True
