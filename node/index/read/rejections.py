"""Refusals, with what a person can do about each."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import RejectionRow
from node.index.read.rows import ReadRepository, Row, equal


class ReadRejections(ReadRepository):
    """Rows of ``rejections`` and ``v_rejections``."""

    def page(self, after: int | None, limit: int, *, rule: str | None = None) -> list[Row]:
        """Return the next rows of refusals, the newest first."""
        query = select(
            RejectionRow.id,
            RejectionRow.what,
            RejectionRow.rule,
            RejectionRow.peer,
            RejectionRow.calling_ae_title,
            RejectionRow.called_ae_title,
            RejectionRow.offered,
            RejectionRow.reason,
            RejectionRow.remedy,
            RejectionRow.count,
            RejectionRow.first_at,
            RejectionRow.last_at,
        ).where(*equal((RejectionRow.rule, rule)))
        return self._page(query, RejectionRow.id, after, limit)

    def newest(self, limit: int, skip: int = 0) -> list[Row]:
        """Return rows of ``v_rejections``, the last refusal first."""
        return self._rows(
            "SELECT * FROM v_rejections ORDER BY last_at DESC LIMIT :limit OFFSET :skip", limit=limit, skip=skip
        )
