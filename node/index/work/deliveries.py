"""The ledger of hooks and routes: the progress of each, messages that wait for another attempt, and those that failed.

Its subscribers are hooks, and the destinations of routes, whose names have the form ROUTE/DESTINATION (`subscriber`).
Every message is delivered at least once. A subscriber reads the rows of `events` and `images` after its cursors, and a
cursor moves in the transaction that records the outcome of the attempts. If the process dies between an attempt and
that commit, the next start delivers the message again, with the same message id. The table `deliveries` holds the
messages that wait for another attempt, and the outcome of all messages except those of single instances.

One writer commits ids in ascending order. Several hosts do not: a cursor stops before ids that may still be committed
(`node.index.engine.backend.Settled`), and one host at a time delivers to a subscriber. SQLite reuses the highest ids of
`images` once their rows are deleted: `after_deletion` moves the cursors back in the same transaction.
"""

from __future__ import annotations

import datetime as dt
import heapq
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, select, update
from sqlalchemy.orm import aliased, join

from node.index.converted import SeriesKey
from node.index.engine.backend import Settled, is_settled
from node.index.engine.repository import IndexRepository, on_reader, on_writer
from node.index.engine.sql import insert
from node.index.models import DeliveryRow, EventRow, HookRow, ImageRow, SeriesRow, StudyRow
from node.index.nouns.events import EventKind, record_event
from node.index.work import jobs
from node.index.work.ledger import forget_study
from node.index.work.own_workitems import OwnWork, Standing, end_others, follow
from node.settings.model import HookEvent, RouteEvent

MAX_READ_ROWS = 200
"""Rows of each table that a hook reads at a time."""

MAX_WAITING = 1000
"""Messages of a hook that may wait for another attempt; at this limit, the hook reads no new rows."""

MAX_REPLAYED = MAX_WAITING // 2
"""Waiting messages of a hook up to which a replay adds more, so that new events find room."""

MAX_KEPT_ROWS = 10_000
"""Rows of finished messages that are kept; older ones are deleted."""

LedgerEvent = HookEvent | RouteEvent | Literal["replay", "send", "resend", "changed"]
"""replay: a person sends a route over a series that is here; send: a person sends something to a destination; resend:
the destination does not keep an instance that it took; changed: see `CHANGES`."""

HOOK_EVENTS: Mapping[EventKind, HookEvent] = {
    "instance-replaced": "instance-stored",
    "series-quiet": "series-quiet",
    "series-converted": "volume-written",
    "series-refused": "series-failed",
    "series-failed": "series-failed",
    "volume-superseded": "volume-superseded",
    "study-quiet": "study-quiet",
}
"""Hook event for each kind of event that hooks receive; `instance-stored` also comes from the rows of `images`."""

REPLAYED: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "series-failed", "study-quiet")
"""Events that a replay repeats: those that describe what is here now."""

WITH_VERDICT: tuple[EventKind, ...] = ("series-converted", "series-refused")
"""Kinds of events at which a series has a verdict: `series-complete`, if that is complete."""

CHANGES: tuple[EventKind, ...] = ("deleted", "patient-merged")
"""Kinds of events that a data set follows, as `changed`: what it has is no longer here, or is of another patient."""

_OUTCOMES: tuple[EventKind, ...] = ("series-converted", "series-refused", "series-failed")

_NAMESPACE = uuid.UUID("7a9c1f0e-5d43-4b6c-9a57-0c2f6f0b8e11")

DeliveryState = Literal["waiting", "delivered", "given-up", "dropped", "skipped"]
"""dropped: the object was deleted, or the hook does not want the message or is no longer configured; skipped: a data
set leaves a series out, or keeps what is no longer here."""


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
    attempts: int = 0  # so far
    event_id: int | None = None  # row of `events`, if it was read from there
    image_id: int | None = None  # row of `images`, if it was read from there


@dataclass(frozen=True, slots=True)
class Cursors:
    """The progress of a hook: the last rows that it has finished.

    `rewinds` is incremented whenever ids of `images` may be reused; cursors with an older value are out of date.
    """

    event_id: int
    image_id: int | None
    rewinds: int


@dataclass(frozen=True, slots=True)
class Work:
    """The messages that a hook has to deliver now.

    `again`: messages due for another attempt. `held`: studies with messages that are not due yet; `new` messages of
    these studies queue up behind them. Cursors: `stored` in the index, `begin` before `new`, `end` after `new`.
    """

    stored: Cursors
    begin: Cursors
    end: Cursors
    again: tuple[PendingEvent, ...] = ()
    held: frozenset[str] = frozenset()
    new: tuple[PendingEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of an attempt; `output` may hold patient data, `reason` never does."""

    pending: PendingEvent
    state: DeliveryState
    attempts: int
    due_at: dt.datetime | None = None
    reason: str | None = None
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay did: ids of queued messages; how many wait or were delivered already; series without an event.

    `left` are the series that found no room.
    """

    queued: list[str]
    waiting: int
    delivered: int
    without_event: int
    left: list[SeriesKey]


class DeliveryRepository(IndexRepository):
    """The messages to the hooks of a node, and the progress of each hook."""

    @on_writer
    def begin_hooks(
        self, connection: Connection, wants_instances: Mapping[str, bool], *, are_routes: bool = False
    ) -> int:
        """Match the rows to the configuration: a new hook starts with the next event, a removed hook is deleted.

        Runs at startup, for the hooks and for the destinations of routes. Returns the number of messages that waited
        for those that were removed, and are dropped.

        Parameters
        ----------
        wants_instances : mapping of hook to bool
            The configured hooks, and whether each wants messages of single instances.
        """
        names = list(wants_instances)
        connection.execute(update(HookRow).where(HookRow.retry_at.is_not(None)).values(retry_at=None))
        kept = [*names, *self._turn.others_subscribers(connection)]
        gone = HookRow.name.not_in(kept), HookRow.name.contains("/") == are_routes
        connection.execute(delete(HookRow).where(*gone))
        orphans = update(DeliveryRow).where(
            DeliveryRow.hook.not_in(kept), DeliveryRow.hook.contains("/") == are_routes, DeliveryRow.state == "waiting"
        )
        dropped = orphans.values(state="dropped", due_at=None, reason="it is no longer configured")
        count = connection.execute(dropped).rowcount
        if are_routes:
            end_others(connection, kept, dt.datetime.now(dt.UTC))
        last_event = connection.execute(select(func.coalesce(func.max(EventRow.id), 0))).scalar_one()
        last_image = connection.execute(select(func.coalesce(func.max(ImageRow.id), 0))).scalar_one()
        for name, wanted in wants_instances.items():
            values = {"name": name, "event_id": last_event, "rewinds": 0, "delivered": 0}
            connection.execute(insert(HookRow).values(values).on_conflict_do_nothing())
            image_id = func.coalesce(HookRow.image_id, last_image) if wanted else None
            connection.execute(update(HookRow).where(HookRow.name == name).values(image_id=image_id))
        return count

    def work(self, hook: str, events: Collection[LedgerEvent], seen_event: int, now: dt.datetime) -> Work:
        """Return the messages that a hook has to deliver now, in the order of their events.

        Parameters
        ----------
        events : collection of LedgerEvent
            The events that the hook subscribes to.
        seen_event : int
            Last row of `events` known to hold nothing for this hook; its stored cursor may be before that row.
        """
        return self._work(hook, events, seen_event, now, self._turn.settled())

    @on_reader
    def _work(
        self,
        connection: Connection,
        hook: str,
        events: Collection[LedgerEvent],
        seen_event: int,
        now: dt.datetime,
        settled: Settled | None,
    ) -> Work:
        row = connection.execute(select(HookRow).where(HookRow.name == hook)).one()
        stored = Cursors(row.event_id, row.image_id, row.rewinds)
        begin = replace(stored, event_id=max(row.event_id, seen_event))
        waiting = waiting_by_study(connection, hook)
        again = _due(connection, hook, now) if waiting else ()
        rest = waiting - Counter(pending.study_instance_uid for pending in again)
        if waiting.total() >= MAX_WAITING:
            return Work(stored, begin, begin, again, frozenset(rest))
        new, end = _new(connection, begin, frozenset(events), settled)
        return Work(stored, begin, end, again, frozenset(rest), new)

    @on_reader
    def next_due_at(self, connection: Connection, hook: str) -> dt.datetime | None:
        """Return when the next message of a hook may be tried again, or None if no message waits.

        Only the first message of each study counts: later ones queue up behind it, even if due earlier.
        """
        waiting = DeliveryRow.hook == hook, DeliveryRow.state == "waiting"
        first = select(func.min(DeliveryRow.id)).where(*waiting).group_by(DeliveryRow.study_instance_uid)
        return connection.execute(select(func.min(DeliveryRow.due_at)).where(DeliveryRow.id.in_(first))).scalar()

    @on_writer
    def settle(
        self, connection: Connection, hook: str, attempts: Iterable[Attempt], cursors: Cursors, now: dt.datetime
    ) -> None:
        """Record the outcome of attempts, and move the hook to `cursors`.

        If ids of `images` may have been reused since `cursors` were read, the cursor on `images` stays, and the
        instances after it are delivered once more.

        Raises
        ------
        TurnLost
            Another host delivers to this hook by now: it will deliver these messages once more.
        """
        self._turn.require(connection, lease_of(hook))
        delivered = 0
        kept = []
        for attempt in attempts:
            delivered += attempt.state == "delivered"
            if attempt.state != "delivered" or attempt.pending.image_id is None:
                kept.append(attempt)
        for attempt in kept:
            keep(connection, hook, attempt, now)
        if kept:
            newest = select(func.max(DeliveryRow.id)).scalar_subquery()
            old = delete(DeliveryRow).where(DeliveryRow.state != "waiting", DeliveryRow.id <= newest - MAX_KEPT_ROWS)
            connection.execute(old)
        this = HookRow.name == hook
        values: dict[str, Any] = {"event_id": cursors.event_id}
        if delivered:
            values |= {"delivered": HookRow.delivered + delivered, "delivered_at": now}
        connection.execute(update(HookRow).where(this).values(values))
        connection.execute(
            update(HookRow).where(this, HookRow.rewinds == cursors.rewinds, HookRow.image_id.is_not(None)).values(
                image_id=cursors.image_id
            )
        )  # fmt: skip

    @on_writer
    def retry(self, connection: Connection, hook: str, message_id: str | None, now: dt.datetime) -> int:
        """Make the waiting and given-up messages of a hook due at once; return how many there were.

        Parameters
        ----------
        message_id : str or None
            Only this message; None: all of them.
        """
        these: ColumnElement[bool] = and_(DeliveryRow.hook == hook, DeliveryRow.state.in_(("given-up", "waiting")))
        if message_id is not None:
            these = and_(these, DeliveryRow.message_id == message_id)
        jobs.replay(connection, hook, connection.scalars(select(DeliveryRow.message_id).where(these)).all())
        again = {"state": "waiting", "attempts": 0, "due_at": now}
        return connection.execute(update(DeliveryRow).where(these).values(again)).rowcount

    @on_writer
    def replay(
        self,
        connection: Connection,
        hook: str,
        events: Collection[HookEvent],
        series: Sequence[SeriesKey],
        before: dt.datetime | None,
        now: dt.datetime,
    ) -> Replay:
        """Queue messages about series that are here: the newest event of each kind in `REPLAYED`, with its id.

        The messages wait in the same rows as all others and are delivered like them.

        Parameters
        ----------
        events : collection of HookEvent
        series : sequence of SeriesKey
        before : datetime or None
            Queue also messages that were delivered before this moment; None: none that were delivered.
        """
        room = MAX_REPLAYED - waiting_by_study(connection, hook).total()
        queued: list[str] = []
        states: Counter[str] = Counter()
        for number, key in enumerate(series):
            if len(queued) >= room:
                return Replay(queued, states["waiting"], states["delivered"], states["none"], list(series[number:]))
            found = _replayed(connection, events, key)
            states["none"] += not found
            for pending in found:
                state = _queue(connection, hook, pending, before, now)
                states[state] += 1
                if state == "new":
                    queued.append(pending.message_id)
        return Replay(queued, states["waiting"], states["delivered"], states["none"], [])


def lease_of(hook: str) -> str:
    """Return the name of the lease of the host that delivers to a hook, or to a destination of a route."""
    return f"deliver/{hook}"


def _replayed(connection: Connection, events: Collection[HookEvent], series: SeriesKey) -> list[PendingEvent]:
    """Return the newest events about a series as it is now, in the order of their commits."""
    study_instance_uid, series_instance_uid = series
    of_series = EventRow.study_instance_uid == study_instance_uid, EventRow.series_instance_uid == series_instance_uid
    queries = [
        select(EventRow).where(*of_series, EventRow.kind == "series-quiet"),
        select(EventRow).where(*of_series, EventRow.kind.in_(_OUTCOMES)),
    ]
    if "study-quiet" in events:
        of_study = EventRow.study_instance_uid == study_instance_uid
        queries.append(select(EventRow).where(EventRow.kind == "study-quiet", of_study))
    rows = [connection.execute(query.order_by(EventRow.id.desc()).limit(1)).first() for query in queries]
    wanted = [row for row in rows if row is not None and HOOK_EVENTS[row.kind] in events]
    return [_of_event(row, HOOK_EVENTS[row.kind]) for row in sorted(wanted, key=lambda row: row.id)]


def _queue(
    connection: Connection, hook: str, pending: PendingEvent, before: dt.datetime | None, now: dt.datetime
) -> str:
    """Let a message wait for its delivery, unless it does or was delivered after `before`; return the state it had."""
    this = DeliveryRow.hook == hook, DeliveryRow.message_id == pending.message_id
    row = connection.execute(select(DeliveryRow.state, DeliveryRow.last_at).where(*this)).first()
    if row is None:
        keep(connection, hook, Attempt(pending, "waiting", 0, now), now)
        jobs.replay(connection, hook, [pending.message_id])
        return "new"
    is_done = row.state == "delivered" and (before is None or row.last_at is None or row.last_at >= before)
    if row.state != "waiting" and not is_done:
        again = {"state": "waiting", "attempts": 0, "due_at": now}
        connection.execute(update(DeliveryRow).where(*this).values(again))
        jobs.replay(connection, hook, [pending.message_id])
        return "new"
    return str(row.state)


def waiting_by_study(connection: Connection, hook: str) -> Counter[str]:
    """Count the waiting messages by study."""
    rows = connection.execute(
        select(DeliveryRow.study_instance_uid, func.count())
        .where(DeliveryRow.hook == hook, DeliveryRow.state == "waiting")
        .group_by(DeliveryRow.study_instance_uid)
    )
    return Counter({study: count for study, count in rows})


def _due(connection: Connection, hook: str, now: dt.datetime) -> tuple[PendingEvent, ...]:
    """Return the due messages, except those behind an earlier message of the same study that is not due yet.

    This keeps the messages of a study in order.
    """
    earlier = aliased(DeliveryRow)
    blocked = select(earlier.id).where(
        earlier.hook == hook,
        earlier.study_instance_uid == DeliveryRow.study_instance_uid,
        earlier.state == "waiting",
        earlier.due_at > now,
        earlier.id < DeliveryRow.id,
    )
    rows = connection.execute(
        select(DeliveryRow)
        .where(DeliveryRow.hook == hook, DeliveryRow.state == "waiting", DeliveryRow.due_at <= now, ~blocked.exists())
        .order_by(DeliveryRow.id)
        .limit(MAX_READ_ROWS)
    )
    return tuple(map(pending_of, rows))


def pending_of(row: Row[Any]) -> PendingEvent:
    """Return the event of a row of ``deliveries``."""
    return PendingEvent(
        row.message_id, row.event, row.happened_at, row.study_instance_uid, row.series_instance_uid,
        row.sop_instance_uid, row.revision, row.detail, row.attempts,
    )  # fmt: skip


def _new(
    connection: Connection, cursors: Cursors, events: frozenset[LedgerEvent], settled: Settled | None
) -> tuple[tuple[PendingEvent, ...], Cursors]:
    """Return the messages after the cursors, and the cursors after these messages."""
    event_rows = connection.execute(
        select(EventRow)
        .where(EventRow.id > cursors.event_id, is_settled(settled, EventRow.id))
        .order_by(EventRow.id)
        .limit(MAX_READ_ROWS)
    ).all()
    image_rows = _image_rows(connection, cursors.image_id, settled) if cursors.image_id is not None else []
    # If a table has more rows than were read, the other one must not run ahead of it.
    # (Several hosts do not number their rows in the order of time.)
    tables = (event_rows, image_rows)
    ends = [max(row.happened_at for row in rows) for rows in tables if len(rows) == MAX_READ_ROWS]
    if ends:
        event_rows, image_rows = _until(event_rows, min(ends)), _until(image_rows, min(ends))
    wanted = [
        _of_event(row, event)
        for row in event_rows
        if row.study_instance_uid is not None and (event := _event_of(row.kind, events)) is not None
    ]
    new = heapq.merge(wanted, map(_of_image, image_rows), key=lambda pending: pending.happened_at)
    end = Cursors(
        event_rows[-1].id if event_rows else cursors.event_id,
        image_rows[-1].id if image_rows else cursors.image_id,
        cursors.rewinds,
    )
    return tuple(new), end


def _event_of(kind: EventKind, events: Collection[LedgerEvent]) -> LedgerEvent | None:
    """Return the event among `events` that a row of `events` is; None if it is none of them."""
    event = HOOK_EVENTS.get(kind)
    if event in events:
        return event
    if kind in CHANGES:
        return "changed" if "changed" in events else None
    return "series-complete" if "series-complete" in events and kind in WITH_VERDICT else None


def kinds_of(events: Collection[LedgerEvent]) -> list[EventKind]:
    """Return the kinds of events that a subscriber to `events` receives."""
    return [kind for kind in (*HOOK_EVENTS, *CHANGES) if _event_of(kind, events) is not None]


def _image_rows(connection: Connection, after: int, settled: Settled | None) -> Sequence[Row[Any]]:
    columns: list[Any] = [
        ImageRow.id,
        ImageRow.sop_instance_uid,
        ImageRow.sha256,
        ImageRow.received_at.label("happened_at"),
    ]
    columns += [SeriesRow.series_instance_uid, StudyRow.study_instance_uid]
    statement: Select[Any] = (
        select(*columns)
        .select_from(join(ImageRow, SeriesRow).join(StudyRow))
        .where(ImageRow.id > after, is_settled(settled, ImageRow.id))
        .order_by(ImageRow.id)
        .limit(MAX_READ_ROWS)
    )
    return connection.execute(statement).all()


def _until(rows: Sequence[Row[Any]], end: dt.datetime) -> Sequence[Row[Any]]:
    """Return the leading rows that happened no later than `end`."""
    count = next((number for number, row in enumerate(rows) if row.happened_at > end), len(rows))
    return rows[:count]


def _of_event(row: Row[Any], event: LedgerEvent) -> PendingEvent:
    uids = (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    message_id = _message_id(str(row.id), row.kind, row.happened_at.isoformat(), *uids, row.revision)
    return PendingEvent(message_id, event, row.happened_at, *uids, row.revision, row.detail, event_id=row.id)


def _of_image(row: Row[Any]) -> PendingEvent:
    uids = (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    message_id = _message_id("instance", row.sha256, row.happened_at.isoformat(), *uids)
    return PendingEvent(message_id, "instance-stored", row.happened_at, *uids, image_id=row.id)


def _message_id(*facts: object) -> str:
    """Derive an id from the facts of an event: stable between readings, unique across rows, indexes and nodes."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, facts))))


def keep(connection: Connection, hook: str, attempt: Attempt, now: dt.datetime) -> None:
    """Write the row of a message."""
    pending = attempt.pending
    values = {
        "state": attempt.state,
        "attempts": attempt.attempts,
        "due_at": attempt.due_at,
        "reason": attempt.reason,
        "output": attempt.output,
        "last_at": now if attempt.attempts > pending.attempts else None,
    }
    names = (
        "message_id", "event", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "revision", "detail",
        "happened_at",
    )  # fmt: skip
    row = {"hook": hook} | {name: getattr(pending, name) for name in names} | values
    upsert = insert(DeliveryRow).values(row).on_conflict_do_update(index_elements=["hook", "message_id"], set_=values)
    connection.execute(upsert)
    if is_send(hook, pending):
        follow(connection, send_of(hook, pending), _standing(attempt), now)
    if attempt.state == "given-up":
        record_event(
            connection,
            "message-given-up",
            now,
            study_instance_uid=pending.study_instance_uid,
            series_instance_uid=pending.series_instance_uid,
            sop_instance_uid=pending.sop_instance_uid,
            revision=pending.revision,
            detail=f"{_described(hook)} did not take {pending.event} in {attempt.attempts} attempts: {attempt.reason}",
        )


def is_send(hook: str, pending: PendingEvent) -> bool:
    """Return whether a message is a workitem: of a route, and about more than one instance or a change of what is here.

    Messages of single instances are so many that nobody watches them.
    """
    return "/" in hook and pending.sop_instance_uid is None and pending.event != "changed"


def send_of(hook: str, pending: PendingEvent) -> OwnWork:
    """Return what the workitem of a message follows."""
    route = hook.partition("/")[0]
    requested_by = f"route {route}" if route else "a person"
    uids = pending.study_instance_uid, pending.series_instance_uid
    return OwnWork("send", hook, pending.message_id, *uids, requested_by)


def _standing(attempt: Attempt) -> Standing:
    reason = attempt.reason or ""
    match attempt.state:
        case "waiting":
            return Standing("IN PROGRESS" if attempt.attempts else "SCHEDULED", reason)
        case "delivered":
            return Standing("COMPLETED")
        case "given-up":
            return Standing("CANCELED", reason, is_failure=True)
    return Standing("CANCELED", reason)


def _described(name: str) -> str:
    route, slash, destination = name.partition("/")
    if not slash:
        return f"hook {name}"
    return f"{destination}, of route {route}," if route else destination


def after_deletion(connection: Connection, study_instance_uid: str, now: dt.datetime) -> None:
    """Move the cursors back after rows of `images` were deleted: the next row may reuse an id that a cursor has passed.

    Also delete the output of commands about the study and what hooks said of their jobs and peers of their answers,
    which may name the patient.
    """
    last = select(func.coalesce(func.max(ImageRow.id), 0)).scalar_subquery()
    connection.execute(update(HookRow).values(rewinds=HookRow.rewinds + 1))
    connection.execute(update(HookRow).where(HookRow.image_id > last).values(image_id=last))
    of_study = and_(DeliveryRow.study_instance_uid == study_instance_uid, DeliveryRow.output.is_not(None))
    connection.execute(update(DeliveryRow).where(of_study).values(output=None))
    jobs.forget_deleted(connection, study_instance_uid, now)
    forget_study(connection, study_instance_uid)
