"""Messages: work of hooks and of destinations of routes, caused by an event or by a person; and the jobs of hooks.

A message that is caused by an event has a row once it was attempted; until then, the cursor of its subscriber is before
the event (`node.index.rules.work.deliveries`). Its key is the same each time the event is read. A message has no state
for an attempt that is under way, since the process that makes it has the lease of the lane: if it dies, the message is
due.

A job is what a hook with results was asked to do, with the instances that came back. It is there before its message is
sent, since the receiver may report before it answers. A retry of the message continues the job. The row of a result is
there before its instance: whatever becomes of the process, an instance that a hook made is known as such when it is
received. `WorkViews` lists all work, newest first: a message that has a job is shown as its job.
"""

import datetime as dt
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import aliased

from node.errors import counted
from node.index.rows.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import IS_JOB, IS_OPEN, OPEN, JobState, ResultRow, WorkRow
from node.index.rows.records import Lane
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import listed_in
from node.index.rows.states import Assignment, Message, Outcome, document_of, payload_of
from node.index.rules.work.events import EventUids, record_event, uids_of
from node.index.rules.work.ledger import (
    Decision,
    Ended,
    NoSuchWork,
    Postponed,
    WorkEnded,
    add,
    begin_again,
    decide,
    end,
    in_lane,
    move,
)
from node.settings.core import HookEvent, RouteEvent

UNWANTED = "filtered out by the configuration of the hook", "the route leaves it out"
"""Why a hook, or a route, has not taken a message that it may want once its series is described otherwise."""

MAX_READ_ROWS = 200
"""Rows of each table that a subscriber reads at a time."""

LedgerEvent = HookEvent | RouteEvent | Literal["replay", "send", "resend", "changed"]
"""replay: a person sends a route over a series that is here; send: a person sends something to a destination; resend:
the destination does not keep an instance that it took; changed: a deletion, or a merge of patients or its end."""


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event to be delivered to a subscriber; `message_id` is the same each time the event is read."""

    message_id: str
    event: LedgerEvent
    happened_at: dt.datetime
    study_instance_uid: str
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    revision: int | None = None
    detail: str | None = None
    verdict_before: Mapping[str, Any] | None = None  # of `verdict-changed`
    attempts: int = 0  # so far
    again: str | None = None  # the command that has it sent again
    event_id: int | None = None  # row of `events`, if it was read from there
    image_id: int | None = None  # row of `images`, if it was read from there


@dataclass(frozen=True, slots=True)
class Attempt:
    """What becomes of a message after `attempts`; `output` may hold patient data, the decision never does.

    `damaged`: the keys of damaged files that it failed for. `if_repaired`: the decision if none of them is damaged by
    now: `begin_repaired` finds a message only once it is given up.
    """

    pending: PendingEvent
    decision: Decision
    attempts: int
    output: str | None = None
    damaged: tuple[str, ...] = ()
    if_repaired: Decision | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How the message ended; None: it waits for another attempt."""
        return self.decision.outcome if isinstance(self.decision, Ended) else None


def keep(connection: Connection, lane: Lane, attempt: Attempt, now: dt.datetime) -> None:
    """Record what became of an attempt in the row of its message."""
    pending = attempt.pending
    if attempt.if_repaired is not None and not _is_marked(connection, attempt.damaged):
        attempt = replace(attempt, decision=attempt.if_repaired)
    payload = Message(pending.detail, attempt.output, pending.verdict_before, pending.again)
    of_message = in_lane(lane), WorkRow.key == pending.message_id
    row = connection.execute(select(WorkRow.id, WorkRow.outcome).where(*of_message)).first()
    if row is None:
        id = _add(connection, lane, pending, payload, now)
    else:
        id = row.id
        if row.outcome is not None:
            begin_again(connection, now, WorkRow.id == id)
    which = WorkRow.id == id
    values: dict[str, Any] = {"attempts": attempt.attempts}
    if attempt.attempts > pending.attempts:
        values["tried_at"] = now
    connection.execute(update(WorkRow).where(which).values(**values))
    decide(connection, replace(attempt.decision, payload=payload), now, which)
    if attempt.outcome == "failed":
        tried = f"{_described(lane)} did not take {pending.event} in {counted(attempt.attempts, 'attempt')}"
        detail, revision = f"{tried}: {attempt.decision.reason}", pending.revision
        record_event(connection, "message-given-up", now, detail=detail, revision=revision, **uids_of(pending))


def _is_marked(connection: Connection, keys: Sequence[str]) -> bool:
    """Return whether any of these files is missing or damaged."""
    marked = select(ImageRow.id).where(listed_in(ImageRow.key, list(keys)), ImageRow.file_missing)
    return connection.execute(marked.limit(1)).first() is not None


def enqueue(
    connection: Connection, lane: Lane, pending: PendingEvent, now: dt.datetime, reason: str | None = None
) -> None:
    """Let a message wait for its first attempt, which is due."""
    keep(connection, lane, Attempt(pending, Postponed(now, reason), 0), now)


def show_progress(
    connection: Connection, lane: Lane, pending: PendingEvent, percent: int, text: str, now: dt.datetime
) -> None:
    """Record how far an attempt is; if the process dies, the message is due."""
    of_message = in_lane(lane), WorkRow.key == pending.message_id
    id = connection.execute(select(WorkRow.id).where(*of_message)).scalar()
    if id is None:
        id = _add(connection, lane, pending, Message(pending.detail, verdict_before=pending.verdict_before), now)
    values = {"percent": percent, "reason": text, "due_at": now, "changed_at": now}
    connection.execute(update(WorkRow).where(WorkRow.id == id, WorkRow.state == "waiting").values(values))


def retry(connection: Connection, now: dt.datetime, ended_as: Collection[Outcome], *which: ColumnElement[bool]) -> int:
    """Make messages due that wait, or that ended in one of these ways; all have all of their attempts again."""
    waiting = update(WorkRow).where(*which, WorkRow.state == "waiting")
    count = connection.execute(waiting.values(attempts=0, due_at=now)).rowcount
    return count + begin_again(connection, now, *which, WorkRow.outcome.in_(ended_as))


def begin_repaired(connection: Connection, instance: Any, now: dt.datetime) -> None:
    """Make what routes gave up due again once the file of an instance is whole: what its damage kept back is owed.

    `instance`: has the UIDs of `uids_of`.
    """
    given_up = WorkRow.kind == "route", WorkRow.outcome == "failed"
    is_about_it = or_(WorkRow.sop_instance_uid.is_(None), WorkRow.sop_instance_uid == instance.sop_instance_uid)
    of_series = or_(WorkRow.series_instance_uid.is_(None), WorkRow.series_instance_uid == instance.series_instance_uid)
    of_study = WorkRow.study_instance_uid == instance.study_instance_uid
    begin_again(connection, now, *given_up, of_study, of_series, is_about_it)


def waiting_by_study(connection: Connection, lane: Lane) -> Counter[str]:
    """Count the waiting messages by study."""
    rows = connection.execute(
        select(WorkRow.study_instance_uid, func.count())
        .where(in_lane(lane), WorkRow.outcome.is_(None))
        .group_by(WorkRow.study_instance_uid)
    )
    return Counter({study: count for study, count in rows if study is not None})


def due_messages(connection: Connection, lane: Lane, now: dt.datetime) -> tuple[PendingEvent, ...]:
    """Return the due messages, except those behind an earlier message of the same study that is not due yet.

    This keeps the messages of a study in order.
    """
    earlier = aliased(WorkRow)
    blocked = select(earlier.id).where(
        in_lane(lane, earlier), earlier.outcome.is_(None), earlier.due_at > now, earlier.id < WorkRow.id,
        earlier.study_instance_uid == WorkRow.study_instance_uid,
    )  # fmt: skip
    rows = connection.execute(
        select(WorkRow.__table__)
        .where(in_lane(lane), WorkRow.outcome.is_(None), WorkRow.due_at <= now, ~blocked.exists())
        .order_by(WorkRow.id)
        .limit(MAX_READ_ROWS)
    )
    return tuple(map(pending_of, rows))


def known_among(connection: Connection, lane: Lane, message_ids: Collection[str]) -> set[str]:
    """Return which of these messages have a row, in whatever state."""
    of_messages = in_lane(lane), listed_in(WorkRow.key, list(message_ids))
    return set(connection.scalars(select(WorkRow.key).where(*of_messages)))


def pending_of(row: Row[Any]) -> PendingEvent:
    """Return the event of a row of ``work``."""
    message = cast(Message, payload_of(row.kind, row.payload))
    return PendingEvent(
        row.key, row.event, row.happened_at, row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid,
        row.revision, message.detail, message.verdict_before, row.attempts, message.again,
    )  # fmt: skip


def _add(connection: Connection, lane: Lane, pending: PendingEvent, payload: Message, now: dt.datetime) -> int:
    names = "event", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "revision", "happened_at"
    values = {name: getattr(pending, name) for name in names}
    by = f"{lane.kind} {lane.name}" if lane.name else "a person"
    return add(connection, lane, pending.message_id, payload, now, requested_by=by[:64], **values)


def _described(lane: Lane) -> str:
    if lane.kind == "hook":
        return f"hook {lane.name}"
    return f"{lane.destination}, of route {lane.name}," if lane.name else lane.destination


UNACCEPTED = dt.timedelta(days=2)
"""Time after which a job expires whose message was not accepted, beyond the time that its hook has for a job."""

MAX_TOKENS = 8
"""Tokens of a job that are valid: one for each of the last attempts to deliver its message."""

TOKEN_PREFIX = "voxeljob_"
"""Begin of the tokens of jobs, which distinguishes them from those of accounts."""


class NoSuchJob(NoSuchWork):
    """There is no such job; it may have been deleted with its study."""


class JobEnded(WorkEnded):
    """The job has ended: it accepts no more reports or results."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job, as its message and its results need it."""

    id: int
    job_id: str
    hook: str
    study_instance_uid: str
    series_instance_uid: str | None
    revision: int | None
    state: JobState
    detail: str | None
    assignment: Assignment = field(default_factory=Assignment)

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


class JobRepository(IndexRepository):
    """The jobs of hooks, and their results."""

    @on_writer
    def begin(
        self, connection: Connection, hook: str, pending: PendingEvent, now: dt.datetime, job_time: dt.timedelta
    ) -> tuple[Job, str]:
        """Return the job of a message, a new one if it has none that goes on or has ended, and a new token for it.

        A job whose message is not accepted expires as well, so that none waits for a message that was dropped. It took
        no part in an outcome: an attempt after a long time begins a new one.
        """
        token = f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}"
        due_at = now + UNACCEPTED + job_time
        of_message = IS_JOB, WorkRow.name == hook, WorkRow.cause == pending.message_id
        connection.execute(update(WorkRow).where(*of_message, WorkRow.outcome == "expired").values(cause=None))
        row = connection.execute(select(WorkRow.id, WorkRow.payload).where(*of_message)).first()
        if row is not None:
            assignment = _assignment(row.payload)
            tokens = (*assignment.tokens, _digest(token))[-MAX_TOKENS:]
            its_row = update(WorkRow).where(WorkRow.id == row.id)
            connection.execute(its_row.values(payload=document_of(replace(assignment, tokens=tokens))))
            connection.execute(its_row.where(WorkRow.state == "waiting").values(due_at=due_at))
            return job_at(connection, row.id), token
        names = "event", "study_instance_uid", "series_instance_uid", "revision", "happened_at"
        values = {name: getattr(pending, name) for name in names}
        values |= {"cause": pending.message_id, "requested_by": f"hook {hook}"[:64], "due_at": due_at}
        assignment = Assignment(tokens=(_digest(token),))
        added = add(connection, Lane("job", hook), secrets.token_hex(16), assignment, now, **values)
        return job_at(connection, added), token

    @on_writer
    def accepted(
        self, connection: Connection, id: int, location: str | None, due_at: dt.datetime, now: dt.datetime
    ) -> None:
        """Record that a hook took the message of a job, and works on it until `due_at` at most."""
        assignment = _assignment(connection.execute(select(WorkRow.payload).where(WorkRow.id == id)).scalar_one())
        payload = document_of(replace(assignment, location=location))
        move(connection, "begin", now, WorkRow.id == id, tried_at=now, due_at=due_at, payload=payload)

    @on_writer
    def begin_here(self, connection: Connection, id: int, now: dt.datetime) -> None:
        """Record that a command or a plugin of this machine works on a job."""
        move(connection, "begin", now, WorkRow.id == id, tried_at=now, reason=None)

    @on_writer
    def wait_here(self, connection: Connection, id: int, reason: str, now: dt.datetime) -> None:
        """Record that a command or a plugin of this machine failed: the job waits for the next attempt."""
        move(connection, "postpone", now, WorkRow.id == id, reason=reason)

    @on_reader
    def with_id(self, connection: Connection, job_id: str) -> Job:
        """Return a job.

        Raises NoSuchJob.
        """
        return job_at(connection, _row_id(connection, job_id))

    @on_reader
    def knows_token(self, connection: Connection, job_id: str, token: str) -> bool:
        """Return whether a token is one of a job; compared by digest, so the time reveals nothing of the token."""
        payload = connection.execute(select(WorkRow.payload).where(IS_JOB, WorkRow.key == job_id)).scalar()
        return payload is not None and _digest(token) in _assignment(payload).tokens

    @on_writer
    def end(self, connection: Connection, job_id: str, state: JobState, detail: str | None, now: dt.datetime) -> Job:
        """End a job that is open; `detail` is what the hook says of it.

        Raises NoSuchJob, JobEnded.
        """
        job = open_job(connection, job_id)
        end_job(connection, job, state, detail, now)
        return job


def replay_jobs(connection: Connection, hook: str, message_ids: Sequence[str]) -> None:
    """Let the next delivery of messages begin new jobs: a person wants the ended ones again."""
    ended_jobs = IS_JOB, WorkRow.name == hook, listed_in(WorkRow.cause, message_ids), ~IS_OPEN
    connection.execute(update(WorkRow).where(*ended_jobs).values(cause=None))


def after_deletion(connection: Connection, study_instance_uid: str, now: dt.datetime, *, forgets: bool = True) -> None:
    """End the jobs of a study whose series were deleted, and forget what was said about it and may name the patient.

    That is the output of commands, what hooks said of their jobs and peers of their answers, and results that were
    deleted. What was said is not forgotten yet, without `forgets`, if the series are in the trash.
    """
    of_study = StudyRow.study_instance_uid == study_instance_uid
    left = set(connection.execute(select(SeriesRow.series_instance_uid).join(StudyRow).where(of_study)).scalars())
    are_jobs = IS_JOB, IS_OPEN, WorkRow.study_instance_uid == study_instance_uid
    for id in connection.execute(select(WorkRow.id).where(*are_jobs)).scalars().all():
        job = job_at(connection, id)
        if not left or (job.series_instance_uid is not None and job.series_instance_uid not in left):
            end_job(connection, job, "cancelled", None, now)
    is_there = exists().where(ImageRow.sop_instance_uid == ResultRow.sop_instance_uid)
    gone = and_(ResultRow.study_instance_uid == study_instance_uid, ResultRow.stored_at.is_not(None), ~is_there)
    connection.execute(delete(ResultRow).where(gone))
    if forgets:
        forget_jobs(connection, study_instance_uid)


def _assignment(document: Mapping[str, Any]) -> Assignment:
    return cast(Assignment, payload_of("job", document))


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def _row_id(connection: Connection, job_id: str) -> int:
    found = connection.execute(select(WorkRow.id).where(IS_JOB, WorkRow.key == job_id)).scalar()
    if found is None:
        raise NoSuchJob
    return found


def job_at(connection: Connection, id: int) -> Job:
    """Return the job with this row."""
    row = connection.execute(select(WorkRow.__table__).where(WorkRow.id == id)).one()
    state = cast(JobState, row.outcome or row.state)
    uids = row.study_instance_uid, row.series_instance_uid
    return Job(row.id, row.key, row.name, *uids, row.revision, state, row.reason, _assignment(row.payload))


def open_job(connection: Connection, job_id: str) -> Job:
    """Return a job that may still report, and keep its row until the commit. Raises NoSuchJob, JobEnded."""
    connection.execute(select(WorkRow.id).where(IS_JOB, WorkRow.key == job_id).with_for_update(key_share=True))
    job = job_at(connection, _row_id(connection, job_id))
    if not job.is_open:
        raise JobEnded(f"the job has {_ENDED[job.state]}: it accepts no more reports or results")
    return job


_ENDED = {"succeeded": "succeeded", "failed": "failed", "cancelled": "been cancelled", "expired": "expired"}


def end_job(connection: Connection, job: Job, state: JobState, detail: str | None, now: dt.datetime) -> None:
    """End a job that is open; `detail` is what the hook says of it."""
    if detail is None and not (state == "succeeded" and job.assignment.is_refused):
        detail = job.detail
    ended = Ended(cast(Outcome, state), detail)
    end(connection, ended, now, WorkRow.id == job.id)
    stored_results = ResultRow.job_id == job.id, ResultRow.stored_at.is_not(None)
    results = connection.execute(select(func.count()).select_from(ResultRow).where(*stored_results)).scalar_one()
    detail = f"the job of hook {job.hook} has {_ENDED[state]}, with {counted(results, 'result')}"
    uids: EventUids = {"study_instance_uid": job.study_instance_uid, "series_instance_uid": job.series_instance_uid}
    record_event(connection, "job-ended", now, revision=job.revision, detail=detail, **uids)


def forget_jobs(connection: Connection, study_instance_uid: str) -> None:
    """Remove what may name the patient of a study that was deleted: what commands, hooks and peers have said."""
    of_study = WorkRow.study_instance_uid == study_instance_uid
    connection.execute(delete(WorkRow).where(of_study, WorkRow.outcome.is_not(None), WorkRow.kind == "retrieval"))
    connection.execute(update(WorkRow).where(of_study, WorkRow.kind == "job").values(reason=None))
    has_output = and_(WorkRow.kind == "hook", WorkRow.payload["output"].as_string().is_not(None))
    is_named = or_(has_output, WorkRow.kind == "download")
    for row in connection.execute(select(WorkRow.id, WorkRow.kind, WorkRow.payload).where(of_study, is_named)).all():
        payload = row.payload | ({"output": None} if row.kind == "hook" else {"file_name": "deleted.zip"})
        connection.execute(update(WorkRow).where(WorkRow.id == row.id).values(payload=payload))
