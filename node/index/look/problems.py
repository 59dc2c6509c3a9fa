"""What is read of problems: failures, refusals, conflicts, and what waits for a person."""

from collections.abc import Collection
from typing import get_args

from sqlalchemy import and_, select
from sqlalchemy.orm import aliased, join

from node.index.look.kept import LostViews
from node.index.look.level_views import FailureViews
from node.index.look.views import ConflictViews, RejectionViews
from node.index.rows.models.history import (
    SET_ASIDE,
    ConflictRow,
    FailureRow,
    FinalKind,
    LostInstanceRow,
    RejectionRow,
    host_of,
)
from node.index.rows.models.levels import SeriesRow, StudyRow
from node.index.rows.records import SeriesProblem
from node.index.rows.repositories import PagedRepository, ReadRepository, Row, columns_but, reads
from node.index.rows.view_rows import certainty_of
from node.index.rows.views import PROBLEM


class ReadLost(PagedRepository, LostViews):
    """Rows of ``lost_instances`` and ``v_lost_instances``."""

    listing = select(LostInstanceRow.__table__)
    filters = (LostInstanceRow.study_instance_uid, LostInstanceRow.series_instance_uid)


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


class ReadProblems(ReadRepository):
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


class ReadFailures(PagedRepository, FailureViews):
    """Rows of ``failures`` and ``v_failures``."""

    listing = select(
        *FailureRow.__table__.columns, StudyRow.study_instance_uid, SeriesRow.series_instance_uid
    ).select_from(join(FailureRow, SeriesRow).join(StudyRow))
    filters = (FailureRow.reason, StudyRow.study_instance_uid, SeriesRow.series_instance_uid)

    def beyond_repair(self, limit: int, skip: int) -> list[Row]:
        """Return the failures of images about which nobody can do anything, with series and patient, newest first."""
        reasons = ", ".join(f"'{reason}'" for reason in BEYOND_MENDING if reason != "not-an-image")
        return self._rows(
            "SELECT f.*, se.series_number, se.series_description, se.modality, se.state, st.patient_name, "
            "st.patient_id FROM v_failures f JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            f"JOIN v_studies st USING (study_instance_uid) WHERE f.reason IN ({reasons}) "
            "ORDER BY f.failed_at DESC, f.series_instance_uid, f.stack NULLS FIRST LIMIT :limit OFFSET :skip",
            limit=limit,
            skip=skip,
        )

    def count_by_reason(self) -> dict[str, int]:
        """Count the failures of the last conversions by reason."""
        return self._counts("SELECT reason, count(*) AS count FROM failures GROUP BY reason")


class ReadRejections(PagedRepository, RejectionViews):
    """Rows of ``rejections`` and ``v_rejections``."""

    listing = select(RejectionRow.__table__)
    filters = (RejectionRow.rule,)


_SENDERS = "SELECT calling_ae_title, source, received_at FROM v_images"


class ReadConflicts(PagedRepository, ConflictViews):
    """Rows of ``conflicts`` and ``v_conflicts``."""

    listing = select(*columns_but(ConflictRow, "key", "host"))
    filters = (ConflictRow.study_instance_uid, ConflictRow.id)

    def one(self, conflict: int) -> Row | None:
        """Return one conflict with the ``key`` of its file; None if there is none."""
        query = self.listing.add_columns(ConflictRow.key).where(ConflictRow.id == conflict)
        row = self._connection.execute(query).mappings().first()
        return None if row is None else dict(row)

    host_of = reads(host_of)

    def sender_of_current(self, sop_instance_uid: str | None) -> Row | None:
        """Return ``calling_ae_title``, ``source`` and ``received_at`` of the current version, or None."""
        return self._row(f"{_SENDERS} WHERE sop_instance_uid = :uid", uid=sop_instance_uid)

    def first_sender(self, study_instance_uid: str) -> Row | None:
        """Return what `sender_of_current` does, of the first instance of a study."""
        first = "WHERE study_instance_uid = :study ORDER BY received_at, sop_instance_uid LIMIT 1"
        return self._row(f"{_SENDERS} {first}", study=study_instance_uid)

    def alike(self, conflict: int) -> list[Row]:
        """Return the undecided conflicts of the same kind, study and sender as `one` does, oldest first."""
        named = aliased(ConflictRow)
        query = self.listing.add_columns(ConflictRow.key).join(
            named,
            and_(
                ConflictRow.kind == named.kind,
                ConflictRow.study_instance_uid.is_not_distinct_from(named.study_instance_uid),
                ConflictRow.calling_ae_title.is_not_distinct_from(named.calling_ae_title),
            ),
        )
        query = query.where(named.id == conflict, ConflictRow.decision.is_(None)).order_by(ConflictRow.id)
        return [dict(row) for row in self._connection.execute(query).mappings()]

    def lost_to_another(self, sop_instance_uids: Collection[str], calling_ae_title: str) -> set[str]:
        """Return those of the instances of which a sender's own version is not current, by no decision for it."""
        query = select(ConflictRow.sop_instance_uid).where(
            ConflictRow.sop_instance_uid.in_(sop_instance_uids),
            ConflictRow.calling_ae_title == calling_ae_title,
            ConflictRow.kind.in_(SET_ASIDE),
            ConflictRow.decision.is_distinct_from("accepted"),
        )
        return {uid for uid in self._connection.scalars(query) if uid is not None}

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
                   i.study_instance_uid AS current_study, i.series_instance_uid AS current_series,
                   s.patient_name, s.patient_id, s.study_date
            FROM (SELECT max(id) AS id, count(*) AS count FROM v_conflicts WHERE decision IS NULL
                  GROUP BY kind, study_instance_uid, calling_ae_title) grouped
            JOIN v_conflicts newest ON newest.id = grouped.id
            LEFT JOIN v_images i ON i.sop_instance_uid = newest.sop_instance_uid
            LEFT JOIN v_studies s
                ON s.study_instance_uid = coalesce(i.study_instance_uid, newest.study_instance_uid)
            ORDER BY newest.id DESC LIMIT :limit OFFSET :skip
            """,
            limit=limit,
            skip=skip,
        )
