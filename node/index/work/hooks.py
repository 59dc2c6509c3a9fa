"""Hooks: their progress and their messages."""

from __future__ import annotations

from node.index.engine.rows import ReadRepository, Row


class ReadHooks(ReadRepository):
    """Rows of ``v_hooks`` and ``v_deliveries``."""

    def progress(self) -> dict[str, Row]:
        """Return the rows of ``v_hooks``, by name of the hook."""
        return {row["hook"]: row for row in self._rows("SELECT * FROM v_hooks")}

    def deliveries(self, limit: int, *, hook: str | None = None, state: str | None = None) -> list[Row]:
        """Return the last `limit` rows of ``v_deliveries`` with the names of their series, oldest first.

        Parameters
        ----------
        hook, state : str or None
            Filters; None matches all.
        """
        return self._rows(
            "SELECT d.*, se.series_number, se.modality, se.series_description FROM (SELECT * FROM v_deliveries "
            "WHERE (:hook IS NULL OR hook = :hook) AND (:state IS NULL OR state = :state) "
            "ORDER BY happened_at DESC LIMIT :limit) d "
            "LEFT JOIN v_series se USING (study_instance_uid, series_instance_uid) ORDER BY d.happened_at",
            hook=hook,
            state=state,
            limit=limit,
        )
