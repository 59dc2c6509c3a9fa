"""Deletions: plans, and committed deletions."""

from __future__ import annotations

from node.index.deletions import plan_deletion
from node.index.read.rows import ReadRepository
from node.index.records import DeletionPlan, Level


class ReadDeletions(ReadRepository):
    """Rows of ``v_deletions``, and plans of further deletions."""

    def plan(self, level: Level, uid: str, study_instance_uid: str | None = None) -> DeletionPlan:
        """Return what a deletion would remove. See `node.index.deletions.plan_deletion`."""
        return plan_deletion(self._connection, level, uid, study_instance_uid)

    def has_deleted(self, *uids: str) -> bool:
        """Return whether any of these UIDs, of any level, was deleted."""
        return any(self._rows("SELECT 1 FROM v_deletions WHERE uid = :uid LIMIT 1", uid=uid) for uid in uids)
