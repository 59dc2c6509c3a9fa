"""What is read of events, and of what is owed: messages, deliveries, jobs."""

import datetime as dt
import json
from typing import Any

from node.index.rows.converted import SeriesKey
from node.index.rows.view_rows import MOMENT, PagedViews, Row, distinct_values, timed, written

_IS_MESSAGE_OF = "listed.kind = 'hook' AND j.name = listed.name AND j.cause = listed.\"key\""
_HAS_JOB = f"EXISTS (SELECT 1 FROM work j WHERE {_IS_MESSAGE_OF})"  # only jobs have a cause, and an index of it


def _failed_of(kind: str, condition: str) -> str:
    names = distinct_values("name", "work", f"kind = '{kind}'")  # so that the index by outcome is used: see below
    of_hook = f"listed.kind = '{kind}' AND listed.name IN ({names}) AND listed.destination = ''"
    return f"({of_hook} AND listed.outcome IN ('failed', 'expired') AND {condition})"


_IS_FAILED = (
    f"({_failed_of('hook', f'NOT {_HAS_JOB}')} OR {_failed_of('job', 'listed.cause IS NOT NULL')}) AND EXISTS "
    "(SELECT 1 FROM studies st WHERE st.study_instance_uid = listed.study_instance_uid)"
)
"""What hooks failed to do for studies that are here: a job whose message is tried again has no cause any more.

Every page asks this.
"""


class WorkViews(PagedViews):
    """Rows of ``work``, with what their payloads have, and what hooks made of what by their jobs.

    ``state`` is the outcome of what has ended.
    """

    listing = "SELECT *, coalesce(outcome, state) AS became FROM work"

    def page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return at most `limit` rows below the id `after`, newest first; `wanted` are filters, None matches all."""
        return [_flat(row) for row in super().page(after, limit, **wanted)]

    def _matching(self, *, state: str | None = None, **wanted: Any) -> tuple[str, dict[str, Any]]:
        return super()._matching(became=state, **wanted)

    def counts(self) -> dict[tuple[str, str], int]:
        """Count the rows by kind and state."""
        rows = self._rows(f"SELECT kind, became, count(*) AS count FROM ({self.listing}) listed GROUP BY kind, became")
        return {(row["kind"], row["became"]): row["count"] for row in rows}

    def newest(self, limit: int, offset: int = 0, **wanted: Any) -> list[Row]:
        """Return a page of rows, the last changed first, with what is known here of their studies and series.

        Without a `kind`, a message that has a job is no row of its own: its job is.
        """
        return self._with_names("1 = 1" if wanted.get("kind") else f"NOT {_HAS_JOB}", limit, offset, **wanted)

    def failed(self, limit: int, offset: int = 0, *, series: SeriesKey | None = None) -> list[Row]:
        """Return a page of what hooks failed to do, as `newest`; `series`: only for this one."""
        study, uid = series or (None, None)
        return self._with_names(_IS_FAILED, limit, offset, study_instance_uid=study, series_instance_uid=uid)

    def count_failed(self, since: int | None = None) -> int:
        """Count what hooks failed to do; with `since`, after an event by its id."""
        ended = "" if since is None else "AND listed.last_event >= :since"
        return self._number(f"SELECT count(*) FROM work listed WHERE {_IS_FAILED} {ended}", since=since)

    def _with_names(self, condition: str, limit: int, offset: int, **wanted: Any) -> list[Row]:
        matching, values = self._matching(**wanted)
        last = f"{matching} AND {condition} ORDER BY changed_at DESC, id DESC LIMIT :limit OFFSET :offset"
        rows = self._rows(
            "SELECT w.*, m.id AS message, m.outcome AS message_outcome, m.attempts AS message_attempts, "
            "p.patient_name, p.patient_id, se.series_description, se.modality, se.series_number, "
            "se.revision AS newest_revision, st.id IS NOT NULL AS is_study_here, se.id IS NOT NULL AS is_series_here "
            f"FROM ({self.listing}) w LEFT JOIN work m "
            "ON w.kind = 'job' AND m.kind = 'hook' AND m.name = w.name AND m.\"key\" = w.cause "
            "LEFT JOIN studies st ON st.study_instance_uid = w.study_instance_uid "
            "LEFT JOIN patients p ON p.id = st.patient_id LEFT JOIN series se ON se.study_id = st.id "
            "AND se.series_instance_uid = w.series_instance_uid "
            f"WHERE w.id IN (SELECT id FROM ({last}) newest) ORDER BY w.changed_at DESC, w.id DESC",
            limit=limit,
            offset=offset,
            **values,
        )
        is_here = "is_study_here", "is_series_here"
        return [_flat({**timed(row), **{name: bool(row[name]) for name in is_here}}) for row in rows]

    def descends(self, hook: str, study_instance_uid: str, series_instance_uid: str) -> bool:
        """Return whether a hook made a series, or what it was made of, over any number of other hooks."""
        return series_instance_uid in self._descendants("w.name = :hook", hook, study_instance_uid)

    def made(self, study_instance_uid: str) -> list[Row]:
        """Return the series of a study that hooks made, those of the newest jobs last.

        ``job`` is the row of the job in which the ``hook`` did, of ``source_series_instance_uid``; ``outdated`` is the
        revision that it is about, if that series has a newer one.
        """
        rows = self._rows(
            "SELECT r.series_instance_uid, w.name AS hook, r.source_series_instance_uid, w.id AS job, "
            "CASE WHEN so.revision > w.revision THEN w.revision END AS outdated, max(r.stored_at) AS stored_at "
            "FROM studies st JOIN series se ON se.study_id = st.id "
            "JOIN results r ON r.series_instance_uid = se.series_instance_uid JOIN work w ON w.id = r.job_id "
            "LEFT JOIN series so ON so.study_id = st.id AND so.series_instance_uid = w.series_instance_uid "
            "WHERE st.study_instance_uid = :study AND r.study_instance_uid = :study AND r.stored_at IS NOT NULL "
            "GROUP BY 1, 2, 3, 4, 5 ORDER BY 4",
            study=study_instance_uid,
        )
        return [timed(row) for row in rows]

    def is_own_news(self, hook: str, study_instance_uid: str, happened_at: dt.datetime) -> bool:
        """Return whether all that a study received since the last job of a hook for it was made by hooks like it.

        Hooks on ``study-quiet`` have the whole study as their input. What one of them makes is therefore no news for
        the others either: two of them would wake each other for ever.

        `happened_at`: time of the event in question: jobs of it and of later ones do not count.
        """
        is_quiet = "e.study_instance_uid = :study AND e.kind || '' = 'study-quiet'"  # the index of moments is used
        at = self._queries.say(MOMENT, ":at")
        since = self._value(
            f"SELECT max(e.id) FROM events e WHERE {is_quiet} "
            f"AND e.id < (SELECT max(e.id) FROM events e WHERE {is_quiet} AND e.happened_at = {at}) "
            "AND EXISTS (SELECT 1 FROM work w WHERE w.kind = 'job' AND w.name = :hook AND w.event = e.kind "
            "AND w.study_instance_uid = :study AND w.happened_at = e.happened_at)",  # its event, by its moment
            study=study_instance_uid,
            hook=hook,
            at=written(happened_at),
        )
        if since is None:
            return False
        news = self._rows(
            "SELECT se.series_instance_uid FROM series se JOIN studies st ON st.id = se.study_id "
            "WHERE st.study_instance_uid = :study AND se.last_event >= :since",
            study=study_instance_uid,
            since=since,
        )
        received = {row["series_instance_uid"] for row in news}
        by_such = "(w.name = :hook OR w.event = 'study-quiet')"
        return bool(received) and received <= self._descendants(by_such, hook, study_instance_uid)

    def _descendants(self, of_jobs: str, hook: str, study_instance_uid: str) -> set[str]:
        """Return the series of a study that jobs made, and those that any hooks made of them."""
        rows = self._rows(
            f"SELECT r.series_instance_uid, r.source_series_instance_uid, coalesce({of_jobs}, FALSE) AS is_own "
            "FROM results r JOIN work w ON w.id = r.job_id WHERE r.study_instance_uid = :study",
            hook=hook,
            study=study_instance_uid,
        )
        own = {row["series_instance_uid"] for row in rows if row["is_own"]}
        while more := {row["series_instance_uid"] for row in rows if row["source_series_instance_uid"] in own} - own:
            own |= more
        return own


def _flat(row: Row) -> Row:
    state = row.pop("became")
    del row["outcome"]
    return {**json.loads(row.pop("payload")), **row, "state": state}
