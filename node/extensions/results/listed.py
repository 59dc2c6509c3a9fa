"""Jobs of hooks and their results, as commands and pages list them."""

import json

from node.index.engine.view_rows import Row, ViewRows, timed


class JobViews(ViewRows):
    """Jobs, and rows of ``results``."""

    def newest(
        self, limit: int, *, hook: str | None = None, state: str | None = None, job_id: str | None = None
    ) -> list[Row]:
        """Return at most `limit` jobs, newest first; `hook`, `state`, `job_id` are filters, None matches all.

        ``newest_revision`` is that of the series now: a job of an earlier one is about a volume that was superseded.
        """
        of_job = "" if job_id is None else "AND w.key = :job_id "
        rows = self._rows(
            "SELECT w.id, w.key AS job_id, w.name AS hook, w.event, w.study_instance_uid, w.series_instance_uid, "
            "w.revision, w.happened_at, coalesce(w.outcome, w.state) AS state, w.percent, w.reason AS detail, "
            "w.payload, w.created_at, w.changed_at, w.due_at, w.ended_at, "
            "se.revision AS newest_revision, se.series_description, se.protocol_name, se.modality, "
            "(SELECT count(*) FROM results r "
            "WHERE r.job_id = w.id AND r.stored_at IS NOT NULL) AS results_stored FROM work w "
            "LEFT JOIN studies st ON st.study_instance_uid = w.study_instance_uid "
            "LEFT JOIN series se ON se.study_id = st.id AND se.series_instance_uid = w.series_instance_uid "
            f"WHERE w.kind = 'job' {of_job}AND (w.name = :hook OR :hook IS NULL) "
            "AND (coalesce(w.outcome, w.state) = :state OR :state IS NULL) ORDER BY w.id DESC LIMIT :limit",
            hook=hook,
            state=state,
            job_id=job_id,
            limit=limit,
        )
        return [timed(row | {"location": _location(row.pop("payload"))}) for row in rows]

    def results(self, id: int) -> list[Row]:
        """Return the stored results of the job with this row."""
        rows = self._rows("SELECT * FROM results WHERE job_id = :id AND stored_at IS NOT NULL ORDER BY id", id=id)
        return [timed({**row, "segments": row["segments"] and json.loads(row["segments"])}) for row in rows]


def _location(payload: str | None) -> str | None:
    """Return what the payload of a job says; it is not asked of the engine: SQLite has ``->>`` since 3.38 only."""
    location: str | None = (json.loads(payload) if payload else {}).get("location")
    return location
