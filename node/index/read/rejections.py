"""Refusals with their remedies."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import RejectionRow
from node.index.read.rows import PagedRepository, Row


class ReadRejections(PagedRepository):
    """Rows of ``rejections`` and ``v_rejections``."""

    listing = select(
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
    )
    filters = (RejectionRow.rule,)

    def newest(self, limit: int, skip: int = 0) -> list[Row]:
        """Return at most `limit` rows of ``v_rejections``, last refusal first."""
        return self._rows(
            "SELECT * FROM v_rejections ORDER BY last_at DESC LIMIT :limit OFFSET :skip", limit=limit, skip=skip
        )
