"""Jobs of hooks and their results, as commands and pages list them."""

import json

from node.index.rows.view_rows import Newest, Row, ViewRows, timed


class JobViews(ViewRows):
    """Jobs, and rows of ``results``."""

    def newest(
        self, limit: int, *, hook: str | None = None, state: str | None = None, job_id: str | None = None
    ) -> Newest:
        """Return at most `limit` jobs, newest first; `hook`, `state`, `job_id` are filters, None matches all.

        ``newest_revision`` is that of the series now: a job of an earlier one is about a volume that was superseded.
        """
        jobs = "(SELECT *, name AS hook, coalesce(outcome, state) AS became FROM work WHERE kind = 'job') jobs"
        around = (
            "SELECT w.id, w.key AS job_id, w.hook, w.event, w.study_instance_uid, w.series_instance_uid, "
            "w.revision, w.happened_at, w.became AS state, w.percent, w.reason AS detail, "
            "w.payload, w.created_at, w.changed_at, w.due_at, w.ended_at, "
            "se.revision AS newest_revision, se.series_description, se.protocol_name, se.modality, "
            "(SELECT count(*) FROM results r "
            "WHERE r.job_id = w.id AND r.stored_at IS NOT NULL) AS results_stored FROM ({0}) w "
            "LEFT JOIN studies st ON st.study_instance_uid = w.study_instance_uid "
            "LEFT JOIN series se ON se.study_id = st.id AND se.series_instance_uid = w.series_instance_uid "
            "ORDER BY w.id DESC"
        )
        rows = self._newest(limit, "id DESC", jobs, around, hook=hook, became=state, key=job_id)
        return Newest((timed(row | {"location": _location(row.pop("payload"))}) for row in rows), rows.total)

    def results(self, id: int) -> list[Row]:
        """Return the stored results of the job with this row."""
        rows = self._rows("SELECT * FROM results WHERE job_id = :id AND stored_at IS NOT NULL ORDER BY id", id=id)
        return [timed({**row, "segments": row["segments"] and json.loads(row["segments"])}) for row in rows]


def _location(payload: str | None) -> str | None:
    """Return what the payload of a job says; it is not asked of the engine: SQLite has ``->>`` since 3.38 only."""
    location: str | None = (json.loads(payload) if payload else {}).get("location")
    return location
