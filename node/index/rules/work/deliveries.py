"""Deliveries: the messages of each hook and each destination of a route.

These are the subscribers; each is a lane of the ledger, which has its messages (`node.index.rules.work.messages`).
Every message is delivered at least once. The outbox has what a subscriber has no message of yet
(`node.index.rules.work.events`), and its row goes in the transaction that records what became of the attempt. If the
process dies between an attempt and that commit, the next start delivers the message again, with the same message id.
The ledger has the messages that wait for another attempt, and the outcome of all but those of single instances that
were taken at once.

One host at a time delivers to a subscriber.
"""

import datetime as dt
import heapq
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, or_, select, update
from sqlalchemy.orm import join

from node.index.rows.converted import SeriesKey
from node.index.rows.models.history import EventKind, EventRow
from node.index.rows.models.levels import ImageRow, SeriesRow, StudyRow
from node.index.rows.models.work import OwedEventRow, OwedImageRow, SubscriberRow, WorkRow
from node.index.rows.records import Lane
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.sql import insert
from node.index.rows.states import OUTCOMES, Kind, Outcome
from node.index.rules.work.events import forget_owed, kinds_in_words, narrow_owed
from node.index.rules.work.ledger import Ended, end, in_lane
from node.index.rules.work.messages import (
    MAX_READ_ROWS,
    Attempt,
    LedgerEvent,
    PendingEvent,
    due_messages,
    enqueue,
    keep,
    known_among,
    pending_of,
    replay_jobs,
    retry,
    waiting_by_study,
)
from node.settings.core import HookEvent

MAX_WAITING = 1000
"""Messages of a hook that may wait for another attempt; at this limit, the hook reads no new rows."""

MAX_REPLAYED = MAX_WAITING // 2
"""Waiting messages of a hook up to which a replay adds more, so that new events find room."""

HOOK_EVENTS: Mapping[EventKind, HookEvent] = {
    "instance-replaced": "instance-stored",
    "series-quiet": "series-quiet",
    "series-converted": "volume-written",
    "series-refused": "series-failed",
    "series-failed": "series-failed",
    "volume-superseded": "volume-superseded",
    "verdict-changed": "verdict-changed",
    "study-quiet": "study-quiet",
}
"""Hook event for each kind of event that hooks receive; `instance-stored` also comes from the rows of `images`."""

REPLAYED: tuple[HookEvent, ...] = ("series-quiet", "volume-written", "series-failed", "study-quiet")
"""Events that a replay repeats: those that describe what is here now."""

WITH_VERDICT: tuple[EventKind, ...] = ("series-converted", "series-refused", "verdict-changed")
"""Kinds of events at which a series has a verdict: `series-complete`, if that is complete."""

CHANGES: tuple[EventKind, ...] = (
    "deleted", "restored", "patient-merged", "patient-corrected", "patient-separated", "attributes-changed",
)  # fmt: skip
"""Kinds of events that a data set follows, as `changed`: what it has is no longer here, is again, is of another
patient, or is described otherwise."""

GIVEN_UP: tuple[Outcome, ...] = ("failed", "skipped")
"""Outcomes of messages that a retry makes due again."""

_OUTCOMES: tuple[EventKind, ...] = ("series-converted", "series-refused", "series-failed")

_NAMESPACE = uuid.UUID("7a9c1f0e-5d43-4b6c-9a57-0c2f6f0b8e11")


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages that a subscriber has to deliver now.

    `again`: messages due for another attempt. `held`: studies with messages that are not due yet; `new` messages of
    these studies queue up behind them. `known`: what is owed and has a message already.
    """

    again: tuple[PendingEvent, ...] = ()
    held: frozenset[str] = frozenset()
    new: tuple[PendingEvent, ...] = ()
    known: tuple[PendingEvent, ...] = ()


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
    def begin(self, connection: Connection, kind: Kind, wanted: Mapping[Lane, Collection[LedgerEvent]]) -> int:
        """Match the rows to the configuration: a new subscriber starts with the next event, a removed one is deleted.

        Runs at startup, for the hooks and for the destinations of routes, and when routes change. Returns the number of
        messages that waited for those that were removed, and are dropped.

        `wanted`: the configured subscribers of this kind, and the events that each wants.
        """
        of_kind = SubscriberRow.kind == kind
        held = update(SubscriberRow).where(of_kind, SubscriberRow.retry_at.is_not(None))
        connection.execute(held.values(retry_at=None))
        lanes = {str(lane) for lane in wanted} | self._sharing.others_subscribers(connection)
        waits = WorkRow.kind == kind, WorkRow.outcome.is_(None)
        of_work = select(WorkRow.name, WorkRow.destination).where(*waits)
        found = select(SubscriberRow.name, SubscriberRow.destination).where(of_kind).union(of_work)
        count = 0
        for name, destination in connection.execute(found).all():
            lane = Lane(kind, name, destination)
            if str(lane) not in lanes:
                count += _forget(connection, lane, dt.datetime.now(dt.UTC))
        for lane, events in wanted.items():
            kinds, wants_instances = kinds_of(events), "instance-stored" in events
            values = {"wanted_kinds": kinds_in_words(kinds), "wants_instances": wants_instances}
            row = insert(SubscriberRow).values(**lane._asdict(), delivered=0, **values)
            row = row.on_conflict_do_update(index_elements=Lane._fields, set_=values)
            subscriber = connection.execute(row.returning(SubscriberRow.id)).scalar_one()
            narrow_owed(connection, subscriber, kinds, wants_instances=wants_instances)
        return count

    @on_reader
    def work(self, connection: Connection, lane: Lane, events: Collection[LedgerEvent], now: dt.datetime) -> Batch:
        """Return the messages that a subscriber to `events` has to deliver now, in the order of their events."""
        waiting = waiting_by_study(connection, lane)
        again = due_messages(connection, lane, now) if waiting else ()
        held = frozenset(waiting - Counter(pending.study_instance_uid for pending in again))
        if waiting.total() >= MAX_WAITING:
            return Batch(again, held)
        owed = _owed(connection, _subscriber(connection, lane), frozenset(events))
        # A row says what became of its message: it was replayed meanwhile, or shows how far its attempt was.
        ids = known_among(connection, lane, [pending.message_id for pending in owed]) if owed else ()
        new = tuple(pending for pending in owed if pending.message_id not in ids)
        return Batch(again, held, new, tuple(pending for pending in owed if pending.message_id in ids))

    @on_reader
    def next_due_at(self, connection: Connection, lane: Lane) -> dt.datetime | None:
        """Return when a message may be tried again, the first of its study; None: none waits."""
        waiting = in_lane(lane), WorkRow.outcome.is_(None)
        first = select(func.min(WorkRow.id)).where(*waiting).group_by(WorkRow.study_instance_uid)
        return connection.execute(select(func.min(WorkRow.due_at)).where(WorkRow.id.in_(first))).scalar()

    @on_writer
    def record(
        self,
        connection: Connection,
        lane: Lane,
        attempts: Iterable[Attempt],
        taken: Collection[PendingEvent],
        now: dt.datetime,
    ) -> None:
        """Record the outcomes of attempts, and remove `taken` from the outbox of the subscriber.

        Raises LeaseLost if another host delivers to this subscriber by now: it will deliver these messages once more.
        """
        self._sharing.require(connection, lease_of(lane))
        delivered = 0
        for attempt in attempts:
            is_delivered = attempt.outcome == "succeeded"
            delivered += is_delivered
            if not is_delivered or attempt.pending.image_id is None:
                keep(connection, lane, attempt, now)
        if delivered:
            values = {"delivered": SubscriberRow.delivered + delivered, "delivered_at": now}
            connection.execute(update(SubscriberRow).where(is_subscriber(lane)).values(values))
        if taken:
            events = [pending.event_id for pending in taken if pending.event_id is not None]
            images = [pending.image_id for pending in taken if pending.image_id is not None]
            forget_owed(connection, _subscriber(connection, lane), events, images)

    @on_writer
    def retry_one(self, connection: Connection, id: int, now: dt.datetime) -> None:
        """Make one message due, in whatever state it is."""
        row = connection.execute(select(WorkRow.kind, WorkRow.name, WorkRow.key).where(WorkRow.id == id)).one()
        if row.kind == "hook":
            replay_jobs(connection, row.name, [row.key])
        retry(connection, now, OUTCOMES, WorkRow.id == id)

    @on_writer
    def pause(self, connection: Connection, lanes: Sequence[Lane], paused: bool) -> int:
        """Pause subscribers, or let them go on; return the number of those that changed."""
        to_change = or_(*map(is_subscriber, lanes)), SubscriberRow.paused.is_not(paused)
        return connection.execute(update(SubscriberRow).where(*to_change).values(paused=paused)).rowcount

    @on_writer
    def retry(self, connection: Connection, lanes: Sequence[Lane], message_id: str | None, now: dt.datetime) -> int:
        """Make messages that wait, were given up or were skipped due at once; return how many there were.

        Destinations in trouble are tried, too.

        `message_id`: only this message; None: all of them.
        """
        connection.execute(update(SubscriberRow).where(or_(*map(is_subscriber, lanes))).values(retry_at=None))
        count = 0
        for lane in lanes:
            which = [in_lane(lane), *([] if message_id is None else [WorkRow.key == message_id])]
            if lane.kind == "hook":
                is_retried = or_(WorkRow.outcome.is_(None), WorkRow.outcome.in_(GIVEN_UP))
                retriable = select(WorkRow.key).where(*which, is_retried)
                replay_jobs(connection, lane.name, connection.scalars(retriable).all())
            count += retry(connection, now, GIVEN_UP, *which)
        return count

    @on_writer
    def replay(
        self,
        connection: Connection,
        hook: str,
        events: Collection[HookEvent],
        series: Sequence[SeriesKey],
        again: str | None,
        now: dt.datetime,
    ) -> Replay:
        """Queue messages about series that are here: the newest event of each kind in `REPLAYED`, with its id.

        The messages wait in the same rows as all others and are delivered like them.

        `again`: queue also messages that were delivered, but for those that this command, which it names, has queued.
        """
        room = MAX_REPLAYED - waiting_by_study(connection, Lane("hook", hook)).total()
        queued: list[str] = []
        states: Counter[str] = Counter()
        for number, key in enumerate(series):
            if len(queued) >= room:
                return Replay(queued, states["waiting"], states["delivered"], states["none"], list(series[number:]))
            found = _replayed(connection, events, key)
            states["none"] += not found
            for pending in found:
                state = _queue(connection, hook, pending, again, now)
                states[state] += 1
                if state == "new":
                    queued.append(pending.message_id)
        return Replay(queued, states["waiting"], states["delivered"], states["none"], [])


def _forget(connection: Connection, lane: Lane, now: dt.datetime) -> int:
    gone = delete(SubscriberRow).where(is_subscriber(lane)).returning(SubscriberRow.id)
    for subscriber in connection.scalars(gone).all():
        narrow_owed(connection, subscriber, (), wants_instances=False)
    return end(connection, Ended("dropped", "it is no longer configured"), now, in_lane(lane))


def lease_of(lane: Lane) -> str:
    """Return the name of the lease under which a host delivers to a subscriber."""
    return f"deliver/{lane}"


def is_subscriber(lane: Lane) -> ColumnElement[bool]:
    """Return the condition of the row of a subscriber."""
    return in_lane(lane, SubscriberRow)


def _subscriber(connection: Connection, lane: Lane) -> int:
    return connection.execute(select(SubscriberRow.id).where(is_subscriber(lane))).scalar_one()


def _replayed(connection: Connection, events: Collection[HookEvent], series: SeriesKey) -> list[PendingEvent]:
    """Return the newest events about a series as it is now, in the order of their commits."""
    study_instance_uid, series_instance_uid = series
    of_series = EventRow.study_instance_uid == study_instance_uid, EventRow.series_instance_uid == series_instance_uid
    wanted: list[tuple[ColumnElement[bool], ...]] = [(*of_series, EventRow.kind == "series-quiet")]
    wanted.append((*of_series, EventRow.kind.in_(_OUTCOMES)))
    if "study-quiet" in events:
        wanted.append((EventRow.kind == "study-quiet", of_series[0]))
    newest = select(EventRow).order_by(EventRow.id.desc()).limit(1)
    rows = [connection.execute(newest.where(*its)).first() for its in wanted]
    found = [row for row in rows if row is not None and HOOK_EVENTS[row.kind] in events]
    return [_of_event(row, HOOK_EVENTS[row.kind]) for row in sorted(found, key=lambda row: row.id)]


def _queue(connection: Connection, hook: str, pending: PendingEvent, again: str | None, now: dt.datetime) -> str:
    """Let a message wait for its delivery, unless it does or was delivered; return the state it had."""
    lane = Lane("hook", hook)
    this = in_lane(lane), WorkRow.key == pending.message_id
    row = connection.execute(select(WorkRow.__table__).where(*this)).first()
    if row is not None and row.outcome is None:
        return "waiting"
    if row is not None and row.outcome == "succeeded" and again in (None, pending_of(row).again):
        return "delivered"
    enqueue(connection, lane, replace(pending, again=again), now)
    replay_jobs(connection, hook, [pending.message_id])
    return "new"


def _owed(connection: Connection, subscriber: int, events: frozenset[LedgerEvent]) -> list[PendingEvent]:
    """Return the first messages of which a subscriber has none yet, in the order of their commits."""
    happened = select(EventRow).join(OwedEventRow, OwedEventRow.event_id == EventRow.id)
    wanted = OwedEventRow.subscriber_id == subscriber, EventRow.kind.in_(kinds_of(events))
    event_rows = connection.execute(happened.where(*wanted).order_by(OwedEventRow.event_id).limit(MAX_READ_ROWS))
    kinds = ((row, _event_of(row.kind, events)) for row in event_rows)
    found = [((row.id, 0), _of_event(row, event)) for row, event in kinds if event is not None]
    images = connection.execute(_OWED_IMAGES, {"subscriber": subscriber, "limit": MAX_READ_ROWS})
    stored = [((row.last_event, 1), _of_image(row)) for row in images]
    # Of the first rows of both tables, no row that was not read belongs between them.
    merged = heapq.merge(found, stored, key=itemgetter(0))
    return [pending for _, pending in islice(merged, MAX_READ_ROWS)]


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


_OWED_IMAGES = (
    select(ImageRow.id, ImageRow.sop_instance_uid, ImageRow.sha256, ImageRow.received_at.label("happened_at"))
    .add_columns(SeriesRow.series_instance_uid, StudyRow.study_instance_uid, OwedImageRow.last_event)
    .select_from(join(OwedImageRow, ImageRow, OwedImageRow.image_id == ImageRow.id).join(SeriesRow).join(StudyRow))
    .where(OwedImageRow.subscriber_id == bindparam("subscriber"))
    .order_by(OwedImageRow.image_id)
    .limit(bindparam("limit"))
)


def _of_event(row: Row[Any], event: LedgerEvent) -> PendingEvent:
    uids = (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    message_id = _message_id(str(row.id), row.kind, row.happened_at.isoformat(), *uids, row.revision)
    before = row.verdict_before
    return PendingEvent(message_id, event, row.happened_at, *uids, row.revision, row.detail, before, event_id=row.id)


def _of_image(row: Row[*tuple[Any, ...]]) -> PendingEvent:
    uids = (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    message_id = _message_id("instance", row.sha256, row.happened_at.isoformat(), *uids)
    return PendingEvent(message_id, "instance-stored", row.happened_at, *uids, image_id=row.id)


def _message_id(*facts: object) -> str:
    """Derive an id from the facts of an event: stable between readings, unique across rows, indexes and nodes."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, facts))))
