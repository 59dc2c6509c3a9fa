"""What went wrong: refusals, failures, and what a person has to settle: problems of series, and identity conflicts.

Refusals have a bounded table; equal refusals within a minute share a row.

A failure is the reason why a series, or one of its stacks, has no volume.

An acknowledgment holds for what a person saw: `PROBLEM` as it was then. If the state, the verdict, the number of
missing instances or the revision of the series changes, the problem is open again.

An identity conflict is one UID or Patient ID with different content.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Update, and_, delete, func, insert, select, text, update
from sqlalchemy.orm import aliased, join

from node.errors import kind_of
from node.index.engine.rows import (
    IndexRepository,
    PagedRepository,
    ReadRepository,
    Row,
    columns_but,
    on_reader,
    on_writer,
    reads,
)
from node.index.engine.sql import listed_in
from node.index.engine.view_rows import certainty_of
from node.index.engine.views import problem_of
from node.index.models.history import SET_ASIDE, ConflictRow, FailureRow, RejectionRow
from node.index.models.levels import SeriesRow, StudyRow
from node.index.nouns.converted import SeriesKey
from node.index.nouns.events import FinalKind, record_event, record_series_event, uids_of
from node.index.nouns.level_views import FailureViews
from node.index.nouns.received import IN_ANOTHER_ENCODING, NOT_COMPARED, RECODED
from node.index.nouns.records import CountedRefusal, Refused
from node.index.nouns.verdicts import judge_holding
from node.index.nouns.views import ConflictViews, RejectionViews

PROBLEM = problem_of("series")
"""SQL of what an acknowledgment is about, as ``v_series`` has it."""

SeriesProblem = tuple[SeriesKey, str]
"""A series and its ``problem``."""

_ACKNOWLEDGED = ("acknowledged_problem", "acknowledged_reason", "acknowledged_by", "acknowledged_at")

MAX_ALIKE = 1000
"""Problems of one cause that are decided at a time."""


class ProblemRepository(IndexRepository):
    """The problems of series that a person has to settle."""

    @on_writer
    def acknowledge(
        self, connection: Connection, problems: Sequence[SeriesProblem], reason: str, who: str, now: dt.datetime
    ) -> list[SeriesProblem]:
        """Record that a person has seen the problems of series and leaves them as they are, in one transaction.

        `problems`: the ``problem`` of each row that the person saw.
        `reason`: why nothing is to be done, in the words of the person.

        The result has those that were recorded: not those whose series is not there or has changed since.
        """
        done = []
        for key, problem in problems:
            values = dict(zip(_ACKNOWLEDGED, (problem, reason, who, now), strict=True))
            is_same = text(f"{PROBLEM} = :problem").bindparams(problem=problem)
            if connection.execute(_change(key).where(is_same).values(values)).rowcount == 1:
                # Without the reason, which may name a patient.
                record_series_event(connection, "problem-acknowledged", key, now, f"by {who}")
                done.append((key, problem))
        return done

    @on_writer
    def withdraw(self, connection: Connection, key: SeriesKey, who: str, now: dt.datetime) -> None:
        """Withdraw the acknowledgment of the problem of a series, if there is one."""
        is_acknowledged = SeriesRow.acknowledged_problem.is_not(None)
        change = _change(key).where(is_acknowledged).values(dict.fromkeys(_ACKNOWLEDGED))
        if connection.execute(change).rowcount == 1:
            record_series_event(connection, "problem-reopened", key, now, f"by {who}")  # the reason may name a patient


def _change(key: SeriesKey) -> Update:
    study_instance_uid, series_instance_uid = key
    study = select(StudyRow.id).where(StudyRow.study_instance_uid == study_instance_uid).scalar_subquery()
    return update(SeriesRow).where(SeriesRow.study_id == study, SeriesRow.series_instance_uid == series_instance_uid)


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


ROW_TIME = dt.timedelta(minutes=1)
"""Equal refusals at most this far apart share a row."""

MAX_ROWS = 10_000
"""Rows of each level that are kept; the oldest are deleted."""


class RejectionRepository(IndexRepository):
    """The refusals of a node."""

    @on_writer
    def record(self, connection: Connection, refusals: Sequence[CountedRefusal]) -> list[Refused]:
        """Add refusals to the counts of their open rows, or insert new rows.

        Returns the refusals for which a row was inserted.
        """
        news = [counted.refused for counted in refusals if not _counted(connection, counted)]
        for what in {refused.what for refused in news}:
            of_level = RejectionRow.what == what
            oldest = select(RejectionRow.id).where(of_level).order_by(RejectionRow.id.desc()).offset(MAX_ROWS).limit(1)
            connection.execute(delete(RejectionRow).where(of_level, RejectionRow.id <= oldest.scalar_subquery()))
        return news


def _counted(connection: Connection, counted: CountedRefusal) -> bool:
    """Add a refusal to the open row of an equal one and return True; else insert a row and return False."""
    same = asdict(counted.refused)
    kind = same.pop("kind")
    texts = {"reason": same.pop("reason"), "remedy": same.pop("remedy"), "last_at": counted.last_at}
    open_rows = connection.execute(
        select(RejectionRow.id, RejectionRow.reason)
        .where(*(getattr(RejectionRow, name) == value for name, value in same.items()))
        .where(RejectionRow.last_at >= counted.first_at - ROW_TIME)
        .order_by(RejectionRow.id.desc())
    )
    open_row = next((id for id, reason in open_rows if kind_of(reason) == kind), None)
    if open_row is None:
        connection.execute(insert(RejectionRow).values(**same, **texts, count=counted.count, first_at=counted.first_at))
        return False
    connection.execute(
        update(RejectionRow)
        .where(RejectionRow.id == open_row)
        .values(**texts, count=RejectionRow.count + counted.count)
    )
    return True


class ReadRejections(PagedRepository, RejectionViews):
    """Rows of ``rejections`` and ``v_rejections``."""

    listing = select(RejectionRow.__table__)
    filters = (RejectionRow.rule,)


Decision = Literal["accepted", "kept"]
"""Of the two versions, the one in the conflict is accepted, or the current one is kept."""


def host_of(connection: Connection, conflict: int) -> str | None:
    """Return the host whose disk has the file of a conflict; None: the archive of all hosts, if there is a file."""
    host: str | None = connection.scalar(select(ConflictRow.host).where(ConflictRow.id == conflict))
    return host


class ConflictRepository(IndexRepository):
    """The conflicts of a node; `node.index.nouns.levels.record_conflict` adds them."""

    host_of = reads(host_of)

    @on_writer
    def decide(
        self, connection: Connection, ids: Collection[int], decision: Decision, who: str, now: dt.datetime
    ) -> None:
        """Record what a person has decided about conflicts, and judge the series again that have the instances."""
        decided = update(ConflictRow).where(listed_in(ConflictRow.id, ids))
        decided = decided.values(decision=decision, decided_at=now, decided_by=who)
        judge_holding(connection, connection.scalars(decided.returning(ConflictRow.sop_instance_uid)).all(), now)

    @on_reader
    def not_compared(self, connection: Connection) -> Sequence[Any]:
        """Return conflict, UID and key of the versions that this host is to compare with the current ones."""
        query = select(ConflictRow.id, ConflictRow.sop_instance_uid, ConflictRow.key).order_by(ConflictRow.id)
        of_host = ConflictRow.host.is_not_distinct_from(self._sharing.holder)
        return connection.execute(query.where(ConflictRow.decided_by == NOT_COMPARED, of_host)).all()

    @on_writer
    def compared(self, connection: Connection, conflict: int, now: dt.datetime, *, is_same: bool) -> None:
        """Record whether a version has the data set of the current one; if not, a person decides, or has done so."""
        found = update(ConflictRow).where(ConflictRow.id == conflict, ConflictRow.decided_by == NOT_COMPARED)
        if is_same:
            connection.execute(found.values(decided_by=RECODED))
            return
        detail = func.replace(ConflictRow.detail, IN_ANOTHER_ENCODING, "with other bytes")
        opened = found.values(decision=None, decided_at=None, decided_by=None, detail=detail).returning(ConflictRow)
        for row in connection.execute(opened).all():
            record_event(connection, "instance-conflict", now, detail=row.detail, **uids_of(row))
            judge_holding(connection, [row.sop_instance_uid], now)


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
