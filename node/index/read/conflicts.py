"""Identity conflicts: one UID or Patient ID, different content."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import ConflictRow
from node.index.read.rows import ReadRepository, Row, equal


class ReadConflicts(ReadRepository):
    """Rows of ``conflicts`` and ``v_conflicts``."""

    def page(self, after: int | None, limit: int, *, study_instance_uid: str | None = None) -> list[Row]:
        """Return the next conflicts, the newest first."""
        query = select(
            ConflictRow.id,
            ConflictRow.kind,
            ConflictRow.study_instance_uid,
            ConflictRow.series_instance_uid,
            ConflictRow.sop_instance_uid,
            ConflictRow.detail,
            ConflictRow.sha256,
            ConflictRow.calling_ae_title,
            ConflictRow.found_at,
        ).where(*equal((ConflictRow.study_instance_uid, study_instance_uid)))
        return self._page(query, ConflictRow.id, after, limit)

    def all(self) -> list[Row]:
        """Return every row of ``v_conflicts``, the oldest first."""
        return self._rows("SELECT * FROM v_conflicts ORDER BY found_at, id")

    def newest(self, limit: int, skip: int = 0) -> list[Row]:
        """Return rows of ``v_conflicts``, the newest first."""
        return self._rows(
            "SELECT * FROM v_conflicts ORDER BY id DESC LIMIT :limit OFFSET :skip", limit=limit, skip=skip
        )
