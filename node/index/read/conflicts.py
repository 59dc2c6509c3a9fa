"""Identity conflicts: one UID or Patient ID, different content."""

from __future__ import annotations

from sqlalchemy import select

from node.index.models import ConflictRow
from node.index.read.rows import PagedRepository, Row


class ReadConflicts(PagedRepository):
    """Rows of ``conflicts`` and ``v_conflicts``."""

    listing = select(
        ConflictRow.id,
        ConflictRow.kind,
        ConflictRow.study_instance_uid,
        ConflictRow.series_instance_uid,
        ConflictRow.sop_instance_uid,
        ConflictRow.detail,
        ConflictRow.sha256,
        ConflictRow.calling_ae_title,
        ConflictRow.found_at,
    )
    filters = (ConflictRow.study_instance_uid,)

    def all(self) -> list[Row]:
        """Return all rows of ``v_conflicts``, oldest first."""
        return self._rows("SELECT * FROM v_conflicts ORDER BY found_at, id")

    def in_quarantine(self) -> list[Row]:
        """Return the conflicts whose file is in quarantine: ``key``, ``reason``, ``detail``, UIDs and ``sha256``."""
        return self._rows(
            'SELECT "key", kind AS reason, detail, study_instance_uid, series_instance_uid, sop_instance_uid, sha256 '
            "FROM conflicts WHERE \"key\" > 'quarantine/' AND \"key\" < 'quarantine0'"  # "0" follows "/"
        )

    def newest(self, limit: int, skip: int = 0) -> list[Row]:
        """Return at most `limit` rows of ``v_conflicts``, newest first."""
        return self._rows(
            "SELECT * FROM v_conflicts ORDER BY id DESC LIMIT :limit OFFSET :skip", limit=limit, skip=skip
        )
