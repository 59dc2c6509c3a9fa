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
from typing import Any, Literal

from sqlalchemy import Connection, Update, delete, func, insert, select, text, update

from node.errors import kind_of
from node.index.rows.converted import SeriesKey
from node.index.rows.models.history import ConflictRow, RejectionRow
from node.index.rows.models.levels import SeriesRow, StudyRow
from node.index.rows.records import CountedRefusal, Refused, SeriesProblem
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import listed_in
from node.index.rows.view_rows import PROBLEM
from node.index.rules.intake.received import IN_ANOTHER_ENCODING, RECODED
from node.index.rules.series.verdicts import judge_holding
from node.index.rules.work.events import record_event, record_series_event, uids_of

_ACKNOWLEDGED = ("acknowledged_problem", "acknowledged_reason", "acknowledged_by", "acknowledged_at")


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


Decision = Literal["accepted", "kept"]
"""Of the two versions, the one in the conflict is accepted, or the current one is kept."""


class ConflictRepository(IndexRepository):
    """The conflicts of a node; `node.index.rules.intake.levels.record_conflict` adds them."""

    @on_writer
    def decide(
        self, connection: Connection, ids: Collection[int], decision: Decision, who: str, now: dt.datetime
    ) -> None:
        """Record what a person has decided about conflicts, and judge the series again that have the instances."""
        decided = update(ConflictRow).where(listed_in(ConflictRow.id, ids))
        decided = decided.values(decision=decision, decided_at=now, decided_by=who, is_uncompared=False)
        judge_holding(connection, connection.scalars(decided.returning(ConflictRow.sop_instance_uid)).all(), now)

    @on_reader
    def not_compared(self, connection: Connection) -> Sequence[Any]:
        """Return conflict, UID and key of the versions that this host is to compare with the current ones."""
        query = select(ConflictRow.id, ConflictRow.sop_instance_uid, ConflictRow.key).order_by(ConflictRow.id)
        of_host = ConflictRow.host.is_not_distinct_from(self._sharing.holder)
        return connection.execute(query.where(ConflictRow.is_uncompared, of_host)).all()

    @on_writer
    def compared(self, connection: Connection, conflict: int, now: dt.datetime, *, is_same: bool) -> None:
        """Record whether a version has the data set of the current one; if not, a person decides, or has done so."""
        found = update(ConflictRow).where(ConflictRow.id == conflict, ConflictRow.is_uncompared)
        if is_same:
            connection.execute(found.values(decided_by=RECODED, is_uncompared=False))
            return
        detail = func.replace(ConflictRow.detail, IN_ANOTHER_ENCODING, "with other bytes")
        undecided = {"decision": None, "decided_at": None, "decided_by": None, "is_uncompared": False}
        opened = found.values(undecided | {"detail": detail}).returning(ConflictRow)
        for row in connection.execute(opened).all():
            record_event(connection, "instance-conflict", now, detail=row.detail, **uids_of(row))
            judge_holding(connection, [row.sop_instance_uid], now)
