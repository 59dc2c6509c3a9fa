"""Messages: work of hooks and of destinations of routes, caused by an event or by a person.

A message that is caused by an event has a row once it was attempted; until then, the cursor of its subscriber is before
the event (`node.index.rules.work.deliveries`). Its key is the same each time the event is read. A message has no state
for an attempt that is under way, since the process that makes it has the lease of the lane: if it dies, the message is
due.
"""

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from sqlalchemy import ColumnElement, Connection, Row, func, or_, select, update
from sqlalchemy.orm import aliased

from node.errors import counted
from node.index.rows.models.levels import ImageRow
from node.index.rows.models.work import WorkRow
from node.index.rows.records import Lane
from node.index.rows.sql import listed_in
from node.index.rows.states import Message, Outcome, payload_of
from node.index.rules.work.events import record_event, uids_of
from node.index.rules.work.ledger import Decision, Ended, Postponed, add, begin_again, decide, in_lane
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
