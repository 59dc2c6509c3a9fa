"""What is read of problems: failures, refusals, conflicts, and what waits for a person."""

import json
from collections.abc import Collection
from typing import get_args

from node.index.rows.records import SET_ASIDE, FinalKind, SeriesProblem
from node.index.rows.view_rows import PROBLEM, PagedViews, Row, ViewRows, certainty_of

MAX_CONFLICTS = 100
"""Conflicts that are shown of a study, a series or an instance; one more is read."""


MAX_STRANGERS = 1000
"""Conflicts, the newest, among which a patient is looked for."""

MAX_ALIKE = 1000
"""Problems of one cause that are decided at a time."""


BEYOND_MENDING = ("not-an-image", "tiled-slide", "duplicate-slice", "uneven-segmentation")
"""Reasons of failures about which nobody can do anything: such instances are stored, and no volume is missing."""

_BEYOND_MENDING = ", ".join(f"'{reason}'" for reason in BEYOND_MENDING)
# The conditions are those of the partial indexes ix_series_doubted and ix_failures_of_images. By `study_id`, SQLite
# searches the first; else it would read the whole of `ix_series_listed`, which has all that is asked.
_IDS = f"""
    SELECT id FROM series WHERE study_id > 0 AND verdict IN ('suspect', 'incomplete')
        AND state NOT IN ('receiving', 'converting')
    UNION
    SELECT f.series_id FROM failures f JOIN series ON series.id = f.series_id
        WHERE f.reason <> 'not-an-image' AND f.reason NOT IN ({_BEYOND_MENDING})
        AND series.state NOT IN ('receiving', 'converting')
"""
# A series that lacks slices has the failure "incomplete" beside its verdict, which says more.
_CAUSE = f"""coalesce(
    (SELECT min(f.reason) FROM failures f
        WHERE f.series_id = series.id AND f.reason NOT IN ({_BEYOND_MENDING}, 'incomplete')),
    CASE WHEN series.verdict IN ('suspect', 'incomplete') THEN series.verdict_rule END,
    'incomplete')"""
_TURNED_UP = ", ".join(f"'{kind}'" for kind in (*get_args(FinalKind), "series-confirmed", "problem-reopened"))
"""Kinds of events with which a problem turns up."""
_IS_OPEN = f"(series.acknowledged_problem IS NULL OR series.acknowledged_problem <> {PROBLEM})"


class ProblemViews(ViewRows):
    """Series that are suspect or incomplete, or that lack a volume that somebody can help to make."""

    def count(self) -> int:
        """Count the series with a problem that nobody has acknowledged."""
        return self._number(f"SELECT count(*) FROM series WHERE id IN ({_IDS}) AND {_IS_OPEN}")

    def count_since(self, event: int) -> int:
        """Count those whose series has been converted, or judged again, after an event by its id."""
        return self._number(
            f"""
            SELECT count(*) FROM series
            WHERE id IN ({_IDS}) AND {_IS_OPEN} AND EXISTS (
                SELECT 1 FROM events e
                WHERE e.series_instance_uid = series.series_instance_uid AND e.id > :event AND e.kind IN ({_TURNED_UP})
            )
            """,
            event=event,
        )

    def causes(self) -> list[Row]:
        """Return ``cause``, ``count`` and ``last_received_at`` of such series by their cause, the most frequent first.

        A cause is the reason of a failure, or the rule of a verdict.
        """
        return self._rows(
            f"SELECT {_CAUSE} AS cause, count(*) AS count, max(series.last_received_at) AS last_received_at "
            f"FROM series WHERE id IN ({_IDS}) AND {_IS_OPEN} GROUP BY 1 ORDER BY 2 DESC, 1"
        )

    def alike(self, cause: str) -> list[SeriesProblem]:
        """Return at most `MAX_ALIKE` problems of a cause, the oldest first."""
        rows = self._rows(
            f"SELECT st.study_instance_uid, series.series_instance_uid, {PROBLEM} AS problem FROM series "
            f"JOIN studies st ON st.id = series.study_id WHERE series.id IN ({_IDS}) AND {_IS_OPEN} "
            f"AND {_CAUSE} = :cause ORDER BY series.last_received_at, series.id LIMIT {MAX_ALIKE}",
            cause=cause,
        )
        return [((row["study_instance_uid"], row["series_instance_uid"]), row["problem"]) for row in rows]

    def open(self, limit: int, skip: int = 0, cause: str | None = None) -> list[Row]:
        """Return the series with a problem that nobody has acknowledged, the last to receive an instance first.

        ``problem`` is what `ProblemRepository.acknowledge` takes; ``failures`` are ``reason``, ``stack`` and
        ``detail`` of each stack without a volume. `cause`: only those of one.
        """
        condition = _IS_OPEN if cause is None else f"{_IS_OPEN} AND {_CAUSE} = :cause"
        return self._listed(condition, "series.last_received_at DESC, series.id DESC", limit, skip, cause=cause)

    def acknowledged(self, limit: int, skip: int = 0) -> list[Row]:
        """Return the series with a problem that was acknowledged, the last acknowledgment first."""
        return self._listed(f"NOT {_IS_OPEN}", "series.acknowledged_at DESC NULLS LAST, series.id DESC", limit, skip)

    def _listed(self, condition: str, order: str, limit: int, skip: int, **values: object) -> list[Row]:
        rows = self._rows(
            f"""
            SELECT series.id, st.study_instance_uid, series.series_instance_uid, series.series_number,
                series.series_description, series.modality, series.state, series.revision, series.verdict,
                {certainty_of("series")} AS certainty, series.verdict_reason, series.missing_detail,
                series.missing_at_sender,
                series.verdict_rule, series.expected_instances, series.missing_instances,
                (SELECT count(*) FROM images i WHERE i.series_id = series.id) AS instances,
                series.last_received_at, series.attempts, series.error, p.patient_name, p.patient_id, st.study_date,
                series.acknowledged_reason, series.acknowledged_by, series.acknowledged_at, {PROBLEM} AS problem
            FROM series JOIN studies st ON st.id = series.study_id JOIN patients p ON p.id = st.patient_id
            WHERE series.id IN ({_IDS}) AND {condition} ORDER BY {order} LIMIT :limit OFFSET :skip
            """,
            limit=limit,
            skip=skip,
            **values,
        )
        return [{**row, "failures": self._failures(row["id"])} for row in rows]

    def _failures(self, series_id: int) -> list[Row]:
        return self._rows(
            "SELECT reason, stack, detail FROM failures WHERE series_id = :series AND reason <> 'not-an-image' "
            f"AND reason NOT IN ({_BEYOND_MENDING}) ORDER BY stack IS NULL, stack",
            series=series_id,
        )


class FailureViews(PagedViews):
    """Rows of ``failures`` and ``v_failures``."""

    listing = (
        "SELECT f.*, st.study_instance_uid, se.series_instance_uid FROM failures f "
        "JOIN series se ON se.id = f.series_id JOIN studies st ON st.id = se.study_id"
    )

    def beyond_repair(self, limit: int, skip: int) -> list[Row]:
        """Return the failures of images about which nobody can do anything, with series and patient, newest first."""
        return self._rows(
            "SELECT f.*, se.series_number, se.series_description, se.modality, se.state, st.patient_name, "
            "st.patient_id FROM v_failures f JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies st USING (study_instance_uid) WHERE f.reason <> 'not-an-image' "
            f"AND f.reason IN ({_BEYOND_MENDING}) "
            "ORDER BY f.failed_at DESC, f.series_instance_uid, f.stack NULLS FIRST LIMIT :limit OFFSET :skip",
            limit=limit,
            skip=skip,
        )

    def count_by_reason(self) -> dict[str, int]:
        """Count the failures of the last conversions by reason."""
        return self._counts("SELECT reason, count(*) AS count FROM failures GROUP BY reason")

    def of_study(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[Row]:
        """Return the rows of ``v_failures`` of a study or a series, by stack; failures of whole series come last."""
        order = "ORDER BY stack IS NULL, stack"
        return self._rows_of_study("SELECT * FROM v_failures", study_instance_uid, series_instance_uid, order)

    def of_revision(self, study_instance_uid: str, series_instance_uid: str, revision: int | None) -> list[Row]:
        """Return ``stack``, ``reason`` and ``detail`` of the failures of a revision."""
        source = "SELECT stack, reason, detail FROM v_failures"
        rest = "AND revision = :revision ORDER BY stack NULLS FIRST"
        return self._rows_of_study(source, study_instance_uid, series_instance_uid, rest, revision=revision)

    def newest(self, limit: int) -> list[Row]:
        """Return at most `limit` failures with series and patient, newest first; not those of what is no image."""
        return self._rows(
            "SELECT f.series_instance_uid, f.revision, f.stack, f.reason, f.detail, f.failed_at, se.series_number, "
            "se.modality, se.series_description, st.patient_name, st.patient_id, st.study_date "
            "FROM v_failures f JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies st USING (study_instance_uid) WHERE f.reason <> 'not-an-image' "
            "ORDER BY f.failed_at DESC LIMIT :limit",
            limit=limit,
        )

    def count(self) -> int:
        """Count the failures, without those of what is no image."""
        return self._number("SELECT count(*) FROM v_failures WHERE reason <> 'not-an-image'")


_SENT = "SELECT calling_ae_title, source, received_at FROM v_images"


class ConflictViews(PagedViews):
    """Rows of ``conflicts`` and ``v_conflicts``."""

    listing = (
        'SELECT id, kind, study_instance_uid, series_instance_uid, sop_instance_uid, detail, "key", sha256, damage, '
        "calling_ae_title, found_at, decision, decided_at, decided_by FROM conflicts"
    )

    def one(self, conflict: int) -> Row | None:
        """Return one conflict with the ``key`` of its file; None if there is none."""
        return next(iter(self.page(None, 1, id=conflict)), None)

    def host_of(self, conflict: int) -> str | None:
        """Return the host whose disk has the file of a conflict; None: the archive of all hosts, if there is a file."""
        row = self._row("SELECT host FROM conflicts WHERE id = :conflict", conflict=conflict)
        return None if row is None else row["host"]

    def sender_of_current(self, sop_instance_uid: str | None) -> Row | None:
        """Return ``calling_ae_title``, ``source`` and ``received_at`` of the current version, or None."""
        return self._row(f"{_SENT} WHERE sop_instance_uid = :uid", uid=sop_instance_uid)

    def first_sender(self, study_instance_uid: str) -> Row | None:
        """Return what `sender_of_current` does, of the first instance of a study."""
        first = "WHERE study_instance_uid = :study ORDER BY received_at, sop_instance_uid LIMIT 1"
        return self._row(f"{_SENT} {first}", study=study_instance_uid)

    def alike(self, conflict: int) -> list[Row]:
        """Return the undecided conflicts of the same kind, study and sender as `one` does, oldest first."""
        named = self.one(conflict)
        if named is None:
            return []
        same = {name: named[name] for name in ("kind", "study_instance_uid", "calling_ae_title")}
        unknown = "".join(f" AND {name} IS NULL" for name, value in same.items() if value is None)
        return self._listed(f"AND decision IS NULL{unknown} ORDER BY id", same)

    def lost_to_another(self, sop_instance_uids: Collection[str], calling_ae_title: str) -> set[str]:
        """Return those of the instances of which a sender's own version is not current, by no decision for it."""
        of_them = self._queries.say.named("sop_instance_uid", ":uids")
        kinds = ", ".join(f"'{kind}'" for kind in SET_ASIDE)
        rows = self._rows(
            f"SELECT sop_instance_uid FROM conflicts WHERE {of_them} AND calling_ae_title = :title "
            f"AND kind IN ({kinds}) AND coalesce(decision, '') <> 'accepted'",
            uids=json.dumps(list(sop_instance_uids)),
            title=calling_ae_title,
        )
        return {row["sop_instance_uid"] for row in rows}

    def newest_undecided(self) -> int:
        """Return the id of the last conflict that is not decided, or 0."""
        return int(self._rows("SELECT max(id) AS id FROM conflicts WHERE decision IS NULL")[0]["id"] or 0)

    def undecided(self, limit: int, skip: int = 0) -> list[Row]:
        """Return what is to be decided, newest first: one row for all conflicts of one kind, study and sender.

        ``count`` is their number; ``id``, ``detail`` and ``has_version`` are those of the newest one, and
        ``current_study`` and ``current_series`` are those of the current version of its instance. Patient and date are
        those of that study, or else of the study in conflict.
        """
        return self._rows(
            """
            SELECT newest.id, newest.kind, newest.study_instance_uid, newest.calling_ae_title, grouped.count,
                   newest.detail, newest.found_at, newest.series_instance_uid, newest.sop_instance_uid,
                   newest.path, newest.path IS NOT NULL AS has_version,
                   own.study_instance_uid AS current_study, se.series_instance_uid AS current_series,
                   p.patient_name, p.patient_id, st.study_date
            FROM (SELECT max(id) AS id, count(*) AS count FROM v_conflicts WHERE decision IS NULL
                  GROUP BY kind, study_instance_uid, calling_ae_title) grouped
            JOIN v_conflicts newest ON newest.id = grouped.id
            LEFT JOIN images i ON i.sop_instance_uid = newest.sop_instance_uid
            LEFT JOIN series se ON se.id = i.series_id LEFT JOIN studies own ON own.id = se.study_id
            LEFT JOIN studies st ON st.study_instance_uid = coalesce(own.study_instance_uid, newest.study_instance_uid)
            LEFT JOIN patients p ON p.id = st.patient_id
            ORDER BY newest.id DESC LIMIT :limit OFFSET :skip
            """,
            limit=limit,
            skip=skip,
        )

    def all(self, *, decided: bool) -> list[Row]:
        """Return rows of ``v_conflicts`` with what people know their series by, by kind and then oldest first.

        Those that are decided only if asked for.
        """
        which = "" if decided else "WHERE c.decision IS NULL"
        return self._rows(
            "SELECT c.*, p.patient_id, p.patient_name, st.study_date, se.series_number, se.series_description, "
            "se.modality FROM v_conflicts c LEFT JOIN studies st ON st.study_instance_uid = c.study_instance_uid "
            "LEFT JOIN patients p ON p.id = st.patient_id LEFT JOIN series se ON se.study_id = st.id "
            f"AND se.series_instance_uid = c.series_instance_uid {which} ORDER BY c.kind, c.found_at, c.id"
        )

    def of_strangers(self) -> list[Row]:
        """Return conflicts whose instances may name another patient, decided or not, newest first.

        One of each kind, study and series.
        """
        return self._rows(
            "SELECT c.* FROM v_conflicts c JOIN (SELECT max(id) AS id FROM conflicts WHERE kind = "
            "'study-of-two-patients' OR \"key\" IS NOT NULL GROUP BY kind, study_instance_uid, series_instance_uid) n "
            f"ON n.id = c.id ORDER BY c.id DESC LIMIT {MAX_STRANGERS}"
        )

    def count_open(self) -> dict[str, int]:
        """Count the conflicts that nobody has decided, by kind."""
        return self._counts("SELECT kind, count(*) AS count FROM v_conflicts WHERE decision IS NULL GROUP BY kind")

    def count_undecided(self) -> int:
        """Count what is to be decided: all such conflicts of one kind, study and sender at once."""
        return self._number(
            "SELECT count(*) FROM (SELECT 1 FROM conflicts WHERE decision IS NULL "
            "GROUP BY kind, study_instance_uid, calling_ae_title) grouped"
        )

    def about(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[Row]:
        """Return undecided conflicts of a study or a series, and of instances that are current in it, oldest first.

        Those of another patient come before the others.
        """
        of_series = "" if series_instance_uid is None else "AND series_instance_uid = :series"
        return self._rows(
            "SELECT * FROM v_conflicts WHERE decision IS NULL AND ("
            f"(study_instance_uid = :study {of_series}) OR sop_instance_uid IN ("
            f"SELECT sop_instance_uid FROM v_images WHERE study_instance_uid = :study {of_series})) "
            f"ORDER BY kind <> 'study-of-two-patients', id LIMIT {MAX_CONFLICTS + 1}",
            study=study_instance_uid,
            series=series_instance_uid,
        )

    def in_quarantine(self) -> list[Row]:
        """Return the conflicts whose file is in quarantine: ``key``, ``reason``, ``detail``, UIDs and ``sha256``."""
        return self._rows(
            'SELECT "key", kind AS reason, detail, study_instance_uid, series_instance_uid, sop_instance_uid, sha256 '
            "FROM conflicts WHERE \"key\" > 'quarantine/' AND \"key\" < 'quarantine0'"  # "0" follows "/"
        )

    def of_uid(self, uid: str) -> list[Row]:
        """Return undecided conflicts that name a study, a series or an instance, oldest first."""
        is_named = "decision IS NULL AND :uid IN (study_instance_uid, series_instance_uid, sop_instance_uid)"
        return self._rows(f"SELECT * FROM v_conflicts WHERE {is_named} ORDER BY id LIMIT {MAX_CONFLICTS + 1}", uid=uid)
