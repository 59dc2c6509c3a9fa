"""Destinations of routes: whether each is paused or in trouble, what it has taken, and what it has confirmed.

Messages to destinations are rows of the ledger (`node.index.work.deliveries`). A message about a series stands for many
instances; `sent_instances` says which of them the destination has taken, so that an attempt after a failure, or an
event of the same series, sends the others only.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, true, update
from sqlalchemy.orm import aliased, join

from node.errors import VoxelnodeError
from node.index.converted import SeriesKey
from node.index.engine.repository import IndexRepository, on_reader, on_writer
from node.index.engine.rows import PagedRepository, Row
from node.index.engine.sql import Position, insert, listed_in
from node.index.models import (
    OPEN_STATES,
    ConflictRow,
    DeliveryRow,
    EventRow,
    HookRow,
    ImageRow,
    PatientRow,
    SentInstanceRow,
    SeriesRow,
    StudyRow,
)
from node.index.work.deliveries import (
    MAX_REPLAYED,
    Attempt,
    LedgerEvent,
    PendingEvent,
    Replay,
    is_send,
    keep,
    kinds_of,
    pending_of,
    send_of,
    waiting_by_study,
)
from node.index.work.own_workitems import Standing, follow, is_under_cancellation

ASKED_AT_ONCE = 1000
"""Instances of one request for commitment."""

MAX_ASKS = 5
"""Requests for commitment of an instance after which one that the destination does not keep is given up."""

_NAMESPACE = uuid.UUID("2f3c7b52-9c3f-4d0e-8a0f-5d1f7e6b1c44")


class SendBeingCancelled(VoxelnodeError):
    """A worker still sends the same, and has not heard yet that it was cancelled."""


def subscriber(route: str, destination: str) -> str:
    """Return the name of a destination of a route in the ledger; `route` is empty for what people send by hand."""
    return f"{route}/{destination}"


@dataclass(frozen=True, slots=True)
class DueInstance:
    """An instance that a message is about, as it is stored; `is_sent`: the destination has taken these bytes."""

    image_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    key: str
    data_set_offset: int
    bytes: int
    sha256: str
    source: str
    calling_ae_title: str | None
    peer: str | None
    patient_id: str | None
    is_sent: bool


@dataclass(frozen=True, slots=True)
class SentInstance:
    """An instance that a destination has taken, with the UIDs as sent; `state` is one of `SENT_STATES`."""

    due: DueInstance
    sop_class_uid: str
    sop_instance_uid: str
    state: str


@dataclass(frozen=True, slots=True)
class OwedInstance:
    """An instance that a destination has taken and is to be asked about; `asks` counts the requests so far."""

    image_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    asks: int


@dataclass(frozen=True, slots=True)
class RouteState:
    """Whether a destination is paused, and when one that cannot be reached is to be tried again."""

    is_paused: bool
    retry_at: dt.datetime | None


_DUE = (
    select(
        ImageRow.id,
        StudyRow.study_instance_uid,
        SeriesRow.series_instance_uid,
        ImageRow.sop_instance_uid,
        ImageRow.sop_class_uid,
        ImageRow.transfer_syntax_uid,
        ImageRow.key,
        ImageRow.data_set_offset,
        ImageRow.bytes,
        ImageRow.sha256,
        ImageRow.source,
        ImageRow.calling_ae_title,
        ImageRow.peer,
        PatientRow.patient_id,
        and_(SentInstanceRow.sha256 == ImageRow.sha256, SentInstanceRow.state != "lost").label("is_sent"),
    )
    .select_from(join(ImageRow, SeriesRow).join(StudyRow).join(PatientRow, PatientRow.id == StudyRow.patient_id))
    .order_by(SeriesRow.id, ImageRow.instance_number.nulls_first(), ImageRow.id)
)


class RouteRepository(IndexRepository):
    """The destinations of routes."""

    @on_reader
    def state(self, connection: Connection, name: str) -> RouteState:
        """Return the state of a destination."""
        row = connection.execute(select(HookRow.paused, HookRow.retry_at).where(HookRow.name == name)).one()
        return RouteState(row.paused, row.retry_at)

    @on_writer
    def pause(self, connection: Connection, names: Sequence[str], paused: bool) -> int:
        """Pause destinations, or let them go on; return the number of those that changed."""
        these = HookRow.name.in_(names), HookRow.paused.is_not(paused)
        return connection.execute(update(HookRow).where(*these).values(paused=paused)).rowcount

    @on_writer
    def note_trouble(
        self, connection: Connection, name: str, reason: str, now: dt.datetime, retry_at: dt.datetime | None
    ) -> None:
        """Record that a destination cannot be reached until `retry_at`; None: that something else is wrong with it."""
        values = {"trouble": reason, "trouble_since": func.coalesce(HookRow.trouble_since, now), "retry_at": retry_at}
        connection.execute(update(HookRow).where(HookRow.name == name).values(values))

    @on_writer
    def note_reached(self, connection: Connection, name: str) -> None:
        """Record that a destination can be reached again."""
        connection.execute(update(HookRow).where(HookRow.name == name).values(_WITHOUT_TROUBLE))

    @on_writer
    def retry(self, connection: Connection, names: Sequence[str], now: dt.datetime) -> int:
        """Make messages that wait, were given up or were skipped due; return their number.

        Destinations in trouble are tried, too.
        """
        connection.execute(update(HookRow).where(HookRow.name.in_(names)).values(retry_at=None))
        these = DeliveryRow.hook.in_(names), DeliveryRow.state.in_(("given-up", "waiting", "skipped"))
        ended = connection.execute(select(DeliveryRow).where(*these, DeliveryRow.state != "waiting")).all()
        again = {"state": "waiting", "attempts": 0, "due_at": now}
        count = connection.execute(update(DeliveryRow).where(*these).values(again)).rowcount
        for row in ended:
            if is_send(row.hook, pending := pending_of(row)):
                follow(connection, send_of(row.hook, pending), Standing("SCHEDULED"), now)
        return count

    @on_writer
    def drop_cancelled(self, connection: Connection, name: str, cancelled: Mapping[str, str], now: dt.datetime) -> None:
        """Drop the waiting messages to a destination, of which nothing is under way, whose workitems were cancelled.

        Parameters
        ----------
        cancelled : mapping of str to str
            By the id of the message, who wants it.
        """
        these = DeliveryRow.hook == name, listed_in(DeliveryRow.message_id, list(cancelled))
        for row in connection.execute(select(DeliveryRow).where(*these, DeliveryRow.state == "waiting")).all():
            reason = f"cancelled by {cancelled[row.message_id]}"
            keep(connection, name, Attempt(pending_of(row), "dropped", row.attempts, reason=reason), now)

    @on_reader
    def due(self, connection: Connection, name: str, pending: Sequence[PendingEvent]) -> dict[str, list[DueInstance]]:
        """Return the instances that each message is about, by its id and in the order in which they are sent.

        Messages of single instances are read in one query.
        """
        query = _DUE.outerjoin(
            SentInstanceRow, and_(SentInstanceRow.image_id == ImageRow.id, SentInstanceRow.subscriber == name)
        )
        found: dict[str, list[DueInstance]] = {one.message_id: [] for one in pending}
        singles = {one.sop_instance_uid: one for one in pending if one.sop_instance_uid is not None}
        for due in _due(connection, query, listed_in(ImageRow.sop_instance_uid, list(singles))) if singles else ():
            one = singles[due.sop_instance_uid]
            if (due.study_instance_uid, due.series_instance_uid) == (one.study_instance_uid, one.series_instance_uid):
                found[one.message_id].append(due)
        for one in pending:
            if one.sop_instance_uid is None:
                condition = StudyRow.study_instance_uid == one.study_instance_uid
                if one.series_instance_uid is not None:
                    condition = and_(condition, SeriesRow.series_instance_uid == one.series_instance_uid)
                found[one.message_id] = list(_due(connection, query, condition))
        return found

    @on_writer
    def record_sent(self, connection: Connection, name: str, sent: Sequence[SentInstance], now: dt.datetime) -> None:
        """Record what a destination has taken."""
        rows = [
            {
                "image_id": one.due.image_id, "subscriber": name, "sha256": one.due.sha256,
                "sop_class_uid": one.sop_class_uid, "sop_instance_uid": one.sop_instance_uid, "state": one.state,
                "sent_at": now, "asks": 0, "confirmed_at": now if one.state == "confirmed" else None,
            }
            for one in sent
        ]  # fmt: skip
        ids = [one.due.image_id for one in sent]
        there = set(connection.scalars(select(ImageRow.id).where(listed_in(ImageRow.id, ids))))
        rows = [row for row in rows if row["image_id"] in there]  # the others were deleted meanwhile
        if not rows:
            return
        statement = insert(SentInstanceRow)
        names = ("sha256", "sop_class_uid", "sop_instance_uid", "state", "sent_at", "confirmed_at")
        new = {column: statement.excluded[column] for column in names} | {"transaction_uid": None}
        connection.execute(statement.on_conflict_do_update(index_elements=["image_id", "subscriber"], set_=new), rows)

    @on_writer
    def note_skipped(
        self,
        connection: Connection,
        name: str,
        study_instance_uid: str,
        reasons: Mapping[str | None, str],
        now: dt.datetime,
    ) -> None:
        """Record which series of a study a data set leaves out now; what was recorded before is forgotten.

        Parameters
        ----------
        reasons : mapping
            By Series Instance UID; None: what the data set keeps of series that are no longer here.
        """
        before = DeliveryRow.hook == name, DeliveryRow.study_instance_uid == study_instance_uid
        connection.execute(delete(DeliveryRow).where(*before, DeliveryRow.state == "skipped"))
        for series, reason in reasons.items():
            message_id = _message_id("skipped", name, study_instance_uid, series)
            pending = PendingEvent(message_id, "replay", now, study_instance_uid, series)
            keep(connection, name, Attempt(pending, "skipped", 1, reason=reason), now)

    @on_reader
    def owed(self, connection: Connection, name: str, asked_before: dt.datetime) -> list[OwedInstance]:
        """Return instances about which a destination is to be asked: never yet, or without an answer since then."""
        query = (
            select(
                SentInstanceRow.image_id, StudyRow.study_instance_uid, SeriesRow.series_instance_uid,
                SentInstanceRow.sop_class_uid, SentInstanceRow.sop_instance_uid, SentInstanceRow.asks,
            )
            .select_from(join(SentInstanceRow, ImageRow).join(SeriesRow).join(StudyRow))
            .where(
                SentInstanceRow.subscriber == name,
                or_(
                    SentInstanceRow.state == "owed",
                    and_(SentInstanceRow.state == "asked", SentInstanceRow.asked_at < asked_before),
                ),
            )
            .order_by(SentInstanceRow.image_id)
            .limit(ASKED_AT_ONCE)
        )  # fmt: skip
        return [OwedInstance(*row) for row in connection.execute(query)]

    @on_reader
    def next_ask_at(self, connection: Connection, name: str) -> dt.datetime | None:
        """Return when the oldest request without an answer was made; None if there is none."""
        these = SentInstanceRow.subscriber == name, SentInstanceRow.state == "asked"
        return connection.execute(select(func.min(SentInstanceRow.asked_at)).where(*these)).scalar()

    @on_writer
    def note_asked(
        self, connection: Connection, name: str, owed: Sequence[OwedInstance], transaction_uid: str, now: dt.datetime
    ) -> None:
        """Record a request for commitment, before it is made."""
        these = SentInstanceRow.subscriber == name, listed_in(SentInstanceRow.image_id, [o.image_id for o in owed])
        values = {
            "state": "asked",
            "transaction_uid": transaction_uid,
            "asked_at": now,
            "asks": SentInstanceRow.asks + 1,
        }
        connection.execute(update(SentInstanceRow).where(*these).values(values))

    @on_writer
    def note_commitment(
        self,
        connection: Connection,
        transaction_uid: str,
        committed: Collection[str],
        failed: Mapping[str, str],
        now: dt.datetime,
    ) -> bool:
        """Record the answer to a request for commitment; return False if no such request is open.

        An instance that the destination does not keep is sent again, up to `MAX_ASKS` times.

        Parameters
        ----------
        committed : collection of str
            SOP Instance UIDs, as sent.
        failed : mapping of str to str
            SOP Instance UIDs and reasons.
        """
        asked = SentInstanceRow.transaction_uid == transaction_uid, SentInstanceRow.state == "asked"
        rows = connection.execute(
            select(
                SentInstanceRow.image_id, SentInstanceRow.subscriber, SentInstanceRow.asks,
                SentInstanceRow.sop_instance_uid, StudyRow.study_instance_uid, SeriesRow.series_instance_uid,
                ImageRow.sop_instance_uid.label("stored_uid"),
            )
            .select_from(join(SentInstanceRow, ImageRow).join(SeriesRow).join(StudyRow))
            .where(*asked)
        ).all()  # fmt: skip
        if not rows:
            return False
        kept = [row.image_id for row in rows if row.sop_instance_uid in committed]
        connection.execute(
            update(SentInstanceRow)
            .where(*asked, listed_in(SentInstanceRow.image_id, kept))
            .values(state="confirmed", confirmed_at=now)
        )
        lost = [row for row in rows if row.sop_instance_uid in failed]
        connection.execute(
            update(SentInstanceRow)
            .where(*asked, listed_in(SentInstanceRow.image_id, [row.image_id for row in lost]))
            .values(state="lost")
        )
        for row in lost:
            pending = PendingEvent(
                _message_id("resend", row.subscriber, row.stored_uid), "resend", now, row.study_instance_uid,
                row.series_instance_uid, row.stored_uid,
            )  # fmt: skip
            reason = f"the destination does not keep it: {failed[row.sop_instance_uid]}"
            if row.asks < MAX_ASKS:
                attempt = Attempt(pending, "waiting", 0, now, reason)
            else:
                attempt = Attempt(pending, "given-up", row.asks, None, reason)
            keep(connection, row.subscriber, attempt, now)
        return True

    @on_reader
    def deletable(
        self, connection: Connection, names: Collection[str], subscribers: Mapping[str, Collection[LedgerEvent]]
    ) -> list[SeriesKey]:
        """Return the series that all destinations have confirmed. See `deletable_series`."""
        return deletable_series(connection, names, subscribers)

    @on_writer
    def replay(
        self,
        connection: Connection,
        name: str,
        series: Sequence[SeriesKey],
        again: bool,
        now: dt.datetime,
    ) -> Replay:
        """Queue a message about each series of which the destination has not taken everything.

        Parameters
        ----------
        again : bool
            Queue those that it has taken, too, and send all of their instances.
        """
        room = MAX_REPLAYED - waiting_by_study(connection, name).total()
        queued: list[str] = []
        waiting = sent = 0
        for number, (study, one) in enumerate(series):
            if len(queued) >= room:
                return Replay(queued, waiting, sent, 0, list(series[number:]))
            pending = PendingEvent(_message_id("replay", name, study, one), "replay", now, study, one)
            of_series = StudyRow.study_instance_uid == study, SeriesRow.series_instance_uid == one
            images = select(ImageRow.id).select_from(join(ImageRow, SeriesRow).join(StudyRow)).where(*of_series)
            if _is_waiting(connection, name, pending):
                waiting += 1
                continue
            if again:
                taken = SentInstanceRow.subscriber == name, SentInstanceRow.image_id.in_(images)
                connection.execute(delete(SentInstanceRow).where(*taken))
            elif connection.execute(images.where(~_has_taken(name)).limit(1)).first() is None:
                sent += 1
                continue
            keep(connection, name, Attempt(pending, "waiting", 0, now), now)
            queued.append(pending.message_id)
        return Replay(queued, waiting, sent, 0, [])

    @on_writer
    def send(
        self,
        connection: Connection,
        name: str,
        study_instance_uid: str,
        series_instance_uid: str | None,
        now: dt.datetime,
    ) -> int:
        """Queue what a person sends to a destination: a study or a series; return the number of its instances.

        Raises
        ------
        SendBeingCancelled
        """
        condition = StudyRow.study_instance_uid == study_instance_uid
        if series_instance_uid is not None:
            condition = and_(condition, SeriesRow.series_instance_uid == series_instance_uid)
        images = select(ImageRow.id).select_from(join(ImageRow, SeriesRow).join(StudyRow)).where(condition)
        count = connection.execute(select(func.count()).select_from(images.subquery())).scalar_one()
        pending = PendingEvent(
            _message_id("send", name, study_instance_uid, series_instance_uid), "send", now, study_instance_uid,
            series_instance_uid,
        )  # fmt: skip
        if count and is_under_cancellation(connection, name, pending.message_id):
            raise SendBeingCancelled("an earlier send of the same is being cancelled: try again in a few seconds")
        if count and not _is_waiting(connection, name, pending):
            taken = SentInstanceRow.subscriber == name, SentInstanceRow.image_id.in_(images)
            connection.execute(delete(SentInstanceRow).where(*taken))
            keep(connection, name, Attempt(pending, "waiting", 0, now), now)
        return int(count)


_WITHOUT_TROUBLE = {"trouble": None, "trouble_since": None, "retry_at": None}


def deletable_series(
    connection: Connection, names: Collection[str], subscribers: Mapping[str, Collection[LedgerEvent]]
) -> list[SeriesKey]:
    """Return the series that all of `names` have confirmed, and that nobody waits for any more.

    Series with identity conflicts are left out, since a deletion also removes the versions that were not sent.

    Parameters
    ----------
    names : collection of str
        The destinations of a route.
    subscribers : mapping of str to collection of LedgerEvent
        All hooks and destinations, and the events to which each subscribes.
    """
    unconfirmed = [
        ~exists().where(
            SentInstanceRow.image_id == ImageRow.id,
            SentInstanceRow.subscriber == name,
            SentInstanceRow.sha256 == ImageRow.sha256,
            SentInstanceRow.state == "confirmed",
        )
        for name in names
    ]
    confirmed = select(SentInstanceRow.image_id).where(
        SentInstanceRow.subscriber == next(iter(names)), SentInstanceRow.state == "confirmed"
    )
    other = aliased(SeriesRow)
    candidates = select(ImageRow.series_id).where(ImageRow.id.in_(confirmed)).distinct()
    # A study that is not quiet yet has an event to come.
    is_waited_for = any("study-quiet" in events for events in subscribers.values())
    is_to_be_quiet = or_(
        StudyRow.closed_at.is_not(None),
        exists().where(other.study_id == StudyRow.id, other.state.in_(OPEN_STATES)).correlate(StudyRow),
    )
    rows = connection.execute(
        select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid, func.max(ImageRow.id).label("last_image"))
        .select_from(join(ImageRow, SeriesRow).join(StudyRow))
        .where(SeriesRow.id.in_(candidates), SeriesRow.state.not_in(OPEN_STATES))
        .where(~is_to_be_quiet if is_waited_for else true())
        .where(~exists().where(ImageRow.series_id == SeriesRow.id, or_(*unconfirmed)).correlate(SeriesRow))
        .where(
            ~exists().where(
                DeliveryRow.study_instance_uid == StudyRow.study_instance_uid, DeliveryRow.state == "waiting"
            )
        )
        .where(~exists().where(ConflictRow.series_instance_uid == SeriesRow.series_instance_uid))
        .group_by(SeriesRow.id, StudyRow.id)
        .limit(100)
    ).all()
    return [
        (row.study_instance_uid, row.series_instance_uid)
        for row in rows
        if all(
            _is_done(connection, name, events, row.study_instance_uid, row.last_image)
            for name, events in subscribers.items()
        )
    ]


def _is_done(
    connection: Connection, name: str, events: Collection[LedgerEvent], study_instance_uid: str, last_image: int
) -> bool:
    """Return whether a subscriber has passed all events of a study."""
    hook = connection.execute(select(HookRow.event_id, HookRow.image_id).where(HookRow.name == name)).first()
    if hook is None:
        return True
    if hook.image_id is not None and hook.image_id < last_image:
        return False
    left = select(EventRow.id).where(
        EventRow.id > hook.event_id,
        EventRow.study_instance_uid == study_instance_uid,
        EventRow.kind.in_(kinds_of(events)),
    )
    return connection.execute(left.limit(1)).first() is None


def _due(connection: Connection, query: object, condition: ColumnElement[bool]) -> Iterator[DueInstance]:
    for row in connection.execute(query.where(condition)):  # type: ignore[attr-defined]
        values: list[Any] = list(row)
        values[-1] = bool(values[-1])
        yield DueInstance(*values)


def _has_taken(name: str) -> ColumnElement[bool]:
    return exists().where(
        SentInstanceRow.image_id == ImageRow.id,
        SentInstanceRow.subscriber == name,
        SentInstanceRow.sha256 == ImageRow.sha256,
        SentInstanceRow.state != "lost",
    )


def _message_id(*facts: object) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, facts))))


def _is_waiting(connection: Connection, name: str, pending: PendingEvent) -> bool:
    these = DeliveryRow.hook == name, DeliveryRow.message_id == pending.message_id, DeliveryRow.state == "waiting"
    return connection.execute(select(DeliveryRow.id).where(*these)).first() is not None


_SLASH = Position(DeliveryRow.hook, "/")
_ROUTE = func.substr(DeliveryRow.hook, 1, _SLASH - 1).label("route")
_DESTINATION = func.substr(DeliveryRow.hook, _SLASH + 1).label("destination")


def outstanding(row: Mapping[str, Any]) -> int:
    """Return how many messages of a row of ``v_routes`` wait, and how many instances or series have no message yet."""
    return int(row["waiting"] + (row["instances_behind"] or 0) + (row["series_behind"] or 0))


class ReadRoutes(PagedRepository):
    """Rows of ``v_routes`` and ``v_route_messages``; `page` lists the messages."""

    listing = select(
        DeliveryRow.id,
        DeliveryRow.message_id,
        _ROUTE,
        _DESTINATION,
        DeliveryRow.event,
        DeliveryRow.study_instance_uid,
        DeliveryRow.series_instance_uid,
        DeliveryRow.sop_instance_uid,
        DeliveryRow.happened_at,
        DeliveryRow.state,
        DeliveryRow.attempts,
        DeliveryRow.due_at,
        DeliveryRow.reason,
        DeliveryRow.last_at,
    ).where(_SLASH > 0)
    filters = (_ROUTE, _DESTINATION, DeliveryRow.state)

    def destinations(self) -> list[Row]:
        """Return the rows of ``v_routes``."""
        return self._rows("SELECT * FROM v_routes ORDER BY route, destination")

    def messages(
        self, limit: int, *, route: str | None = None, destination: str | None = None, state: str | None = None
    ) -> list[Row]:
        """Return the last `limit` rows of ``v_route_messages`` with the names of their series, newest first.

        Parameters
        ----------
        route, destination, state : str or None
            Filters; None matches all.
        """
        return self._rows(
            "SELECT m.*, se.series_number, se.modality, se.series_description FROM (SELECT * FROM v_route_messages "
            "WHERE (:route IS NULL OR route = :route) AND (:destination IS NULL OR destination = :destination) "
            "AND (:state IS NULL OR state = :state) ORDER BY happened_at DESC, message_id LIMIT :limit) m "
            "LEFT JOIN v_series se USING (study_instance_uid, series_instance_uid) ORDER BY m.happened_at DESC",
            route=route,
            destination=destination,
            state=state,
            limit=limit,
        )

    def deletable(self, names: Collection[str], subscribers: Mapping[str, Collection[LedgerEvent]]) -> list[SeriesKey]:
        """Return the series that all destinations have confirmed. See `node.index.work.routes.deletable_series`."""
        return deletable_series(self._connection, names, subscribers)
