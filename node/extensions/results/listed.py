"""Jobs of hooks and their results, as commands and pages list them."""

import json

from node.index.rows.view_rows import TEXT, Newest, Row, ViewRows, timed


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

    def next_number(self, study_instance_uid: str, first: int) -> int:
        """Return a Series Number from `first` on, above those of the series of a study and of its results so far.

        Those in the trash count: they can come back.
        """
        text = self._queries.say
        results = "SELECT count(*) FROM results WHERE study_instance_uid = :study AND stored_at IS NOT NULL"
        of_study = "series se JOIN studies st ON st.id = se.study_id WHERE st.study_instance_uid = :study"
        number = f"CAST({text(TEXT, 't.content', 'series_number')} AS INTEGER)"
        in_trash = f"{text(TEXT, 'd.content', 'study_instance_uid')} = :study"
        row = self._rows(
            f"SELECT ({results}) AS results, "
            f"(SELECT max(se.series_number) FROM {of_study} AND se.series_number >= :first) AS highest, "
            f"(SELECT max({number}) FROM trash t JOIN tombstones d ON d.id = t.deletion "
            f"WHERE t.kind = 'series' AND {in_trash}) AS trashed",
            study=study_instance_uid,
            first=first,
        )[0]
        return max(first + int(row["results"]), *(int(row[name] or 0) + 1 for name in ("highest", "trashed")))


def _location(payload: str | None) -> str | None:
    """Return what the payload of a job says; it is not asked of the engine: SQLite has ``->>`` since 3.38 only."""
    location: str | None = (json.loads(payload) if payload else {}).get("location")
    return location
