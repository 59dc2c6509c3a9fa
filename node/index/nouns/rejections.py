"""Refusals: a bounded table; equal refusals within a minute share a row."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select, update

from node.index.engine.rows import PagedRepository
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models.history import RejectionRow
from node.index.nouns.records import CountedRefusal, Refused, kind_of
from node.index.nouns.views import RejectionViews

ROW_TIME = dt.timedelta(minutes=1)
"""Equal refusals at most this far apart share a row."""

MAX_ROWS = 10_000
"""Rows of each level that are kept; the oldest are deleted."""


class RejectionRepository(IndexRepository):
    """The refusals of a node."""

    @on_writer
    def record(self, connection: Connection, refusals: Sequence[CountedRefusal]) -> list[Refused]:
        """Add refusals to the counts of their open rows, or insert new rows.

        Returns the refusals for which a row was inserted.
        """
        news = [counted.refused for counted in refusals if not _counted(connection, counted)]
        for what in {refused.what for refused in news}:
            of_level = RejectionRow.what == what
            oldest = select(RejectionRow.id).where(of_level).order_by(RejectionRow.id.desc()).offset(MAX_ROWS).limit(1)
            connection.execute(delete(RejectionRow).where(of_level, RejectionRow.id <= oldest.scalar_subquery()))
        return news


def _counted(connection: Connection, counted: CountedRefusal) -> bool:
    """Add a refusal to the open row of an equal one and return True; else insert a row and return False."""
    same = asdict(counted.refused)
    kind = same.pop("kind")
    texts = {"reason": same.pop("reason"), "remedy": same.pop("remedy"), "last_at": counted.last_at}
    open_rows = connection.execute(
        select(RejectionRow.id, RejectionRow.reason)
        .where(*(getattr(RejectionRow, name) == value for name, value in same.items()))
        .where(RejectionRow.last_at >= counted.first_at - ROW_TIME)
        .order_by(RejectionRow.id.desc())
    )
    open_row = next((id for id, reason in open_rows if kind_of(reason) == kind), None)
    if open_row is None:
        connection.execute(insert(RejectionRow).values(**same, **texts, count=counted.count, first_at=counted.first_at))
        return False
    connection.execute(
        update(RejectionRow)
        .where(RejectionRow.id == open_row)
        .values(**texts, count=RejectionRow.count + counted.count)
    )
    return True


class ReadRejections(PagedRepository, RejectionViews):
    """Rows of ``rejections`` and ``v_rejections``."""

    listing = select(RejectionRow.__table__)
    filters = (RejectionRow.rule,)
