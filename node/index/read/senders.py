"""Senders: the quiet times learnt from them, with the evidence."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import SenderRow
from node.index.read.rows import ReadRepository, Row


class ReadSenders(ReadRepository):
    """Rows of ``senders``."""

    def all(self) -> list[Row]:
        """Return what ``v_senders`` shows of all senders, by AE title."""
        rows = self._connection.execute(select(SenderRow).order_by(SenderRow.calling_ae_title))
        return [
            {
                "calling_ae_title": row.calling_ae_title,
                "quiet_seconds": row.quiet_seconds,
                "series": len(row.gaps),
                "longest_gap_seconds": max(row.gaps),
                "learnt_at": row.learnt_at,
            }
            for row in rows
        ]
