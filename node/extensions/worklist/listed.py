"""The newest entries of the worklist, and the newest performed procedure steps, as commands list them."""

from __future__ import annotations

import datetime as dt

from node.index.engine.view_rows import Row, ViewRows, timed


class StepViews(ViewRows):
    """Rows of ``scheduled_steps`` and ``performed_steps`` without their attributes, newest first."""

    def scheduled(self, limit: int) -> list[Row]:
        """Return at most `limit` entries of the worklist."""
        rows = self._newest("SELECT * FROM scheduled_steps ORDER BY id DESC LIMIT :limit", limit)
        for row in rows:
            date, time = row["start_date"], row["start_time"]
            row["start_date"] = date and dt.date.fromisoformat(date)
            row["start_time"] = time and dt.time.fromisoformat(time)
        return rows

    def performed(self, limit: int) -> list[Row]:
        """Return at most `limit` steps that modalities report."""
        return self._newest("SELECT * FROM performed_steps ORDER BY id DESC LIMIT :limit", limit)

    def _newest(self, query: str, limit: int) -> list[Row]:
        rows = self._rows(query, limit=limit)
        return [
            timed({name: value for name, value in row.items() if name not in ("attributes", "identified")})
            for row in rows
        ]
