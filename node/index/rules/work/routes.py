"""Destinations of routes: whether each is paused or in trouble, what it has taken, and what it has confirmed.

Messages to destinations are rows of the ledger (`node.index.rules.work.deliveries`). A message about a series stands
for many instances; `sent_instances` says which of them the destination has taken, so that an attempt after a failure,
or an event of the same series, sends the others only. A series may be deleted once every destination of a route has
confirmed it, and nobody waits for it any more.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, true, update
from sqlalchemy.orm import aliased, join

from node.errors import VoxelnodeError
from node.index.rows.converted import SeriesKey
from node.index.rows.files import IDENTIFIED, Identities, StoredInstance
from node.index.rows.models.history import ConflictRow, EventRow
from node.index.rows.models.levels import OPEN_STATES, ImageRow, PatientRow, SeriesRow, StudyRow
from node.index.rows.models.work import (
    SENT_AS_IT_LEAVES,
    OwedEventRow,
    OwedImageRow,
    SentInstanceRow,
    SubscriberRow,
    WorkRow,
    has_taken,
    taken_by,
    wants,
)
from node.index.rows.records import Lane
from node.index.rows.repositories import IndexRepository, columns_of, on_reader, on_writer
from node.index.rows.sql import insert, listed_in
from node.index.rules.work.deliveries import MAX_REPLAYED, Replay, is_subscriber
from node.index.rules.work.ledger import Ended, in_lane
from node.index.rules.work.messages import Attempt, PendingEvent, enqueue, keep, show_progress, waiting_by_study

ASKED_AT_ONCE = 1000
"""Instances of one request for commitment."""

MAX_ASKS = 5
"""Requests for commitment of an instance after which one that the destination does not keep is given up."""

_NAMESPACE = uuid.UUID("2f3c7b52-9c3f-4d0e-8a0f-5d1f7e6b1c44")


class SendBeingCancelled(VoxelnodeError):
    """A worker still sends the same, and has not heard yet that it was cancelled."""


def lane_to(route: str, destination: str) -> Lane:
    """Return the lane of a destination of a route; `route` is empty for what people send by hand."""
    return Lane("route", route, destination)


@dataclass(frozen=True, slots=True)
class DueInstance(StoredInstance):
    """An instance that a message is about, as it is stored; `is_sent`: the destination has taken these bytes."""

    image_id: int
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


_IS_KEPT = SentInstanceRow.state != "lost"
_IS_SENT = and_(SENT_AS_IT_LEAVES, _IS_KEPT).label("is_sent")
_OTHERS = {"image_id": ImageRow.id, "is_sent": _IS_SENT, "identity": IDENTIFIED}
_DUE = (
    select(*columns_of(DueInstance, ImageRow, SeriesRow, PatientRow, StudyRow, **_OTHERS))
    .select_from(join(ImageRow, SeriesRow).join(StudyRow).join(PatientRow, PatientRow.id == StudyRow.patient_id))
    .order_by(SeriesRow.id, ImageRow.instance_number.nulls_first(), ImageRow.id)
)


class RouteRepository(IndexRepository):
    """The destinations of routes."""

    @on_reader
    def state(self, connection: Connection, lane: Lane) -> RouteState:
        """Return the state of a subscriber."""
        columns = SubscriberRow.paused, SubscriberRow.retry_at
        row = connection.execute(select(*columns).where(is_subscriber(lane))).one()
        return RouteState(row.paused, row.retry_at)

    @on_writer
    def note_trouble(
        self, connection: Connection, lane: Lane, reason: str, now: dt.datetime, retry_at: dt.datetime | None
    ) -> None:
        """Record that a destination cannot be reached until `retry_at`; None: that something else is wrong with it."""
        since = func.coalesce(SubscriberRow.trouble_since, now)
        values = {"trouble": reason, "trouble_since": since, "retry_at": retry_at}
        connection.execute(update(SubscriberRow).where(is_subscriber(lane)).values(values))

    @on_writer
    def note_reached(self, connection: Connection, lane: Lane) -> None:
        """Record that a destination can be reached again."""
        connection.execute(update(SubscriberRow).where(is_subscriber(lane)).values(_WITHOUT_TROUBLE))

    @on_writer
    def show_progress(
        self, connection: Connection, lane: Lane, taken: Sequence[tuple[PendingEvent, int, int]], now: dt.datetime
    ) -> None:
        """Record how many of the instances of each message a destination has taken, and how many there are."""
        for pending, number, count in taken:
            show_progress(connection, lane, pending, 100 * number // count, f"{number} of {count} instances", now)

    @on_reader
    def due(self, connection: Connection, lane: Lane, pending: Sequence[PendingEvent]) -> dict[str, list[DueInstance]]:
        """Return the instances that each message is about, by its id and in the order in which they are sent.

        Messages of single instances are read in one query.
        """
        query = _DUE.outerjoin(SentInstanceRow, and_(SentInstanceRow.image_id == ImageRow.id, taken_by(lane)))
        found: dict[str, list[DueInstance]] = {one.message_id: [] for one in pending}
        singles = {one.sop_instance_uid: one for one in pending if one.sop_instance_uid is not None}
        for due in _due(connection, query, listed_in(ImageRow.sop_instance_uid, list(singles))) if singles else ():
            one = singles[due.sop_instance_uid]
            if (due.study_instance_uid, due.series_instance_uid) == (one.study_instance_uid, one.series_instance_uid):
                found[one.message_id].append(due)
        for one in pending:
            if one.sop_instance_uid is None:
                condition = _of(one.study_instance_uid, one.series_instance_uid)
                found[one.message_id] = list(_due(connection, query, condition))
        return found

    @on_writer
    def record_sent(self, connection: Connection, lane: Lane, sent: Sequence[SentInstance], now: dt.datetime) -> None:
        """Record what a destination has taken."""
        ids = [one.due.image_id for one in sent]
        there = set(connection.scalars(select(ImageRow.id).where(listed_in(ImageRow.id, ids))))
        rows = [
            {
                "image_id": one.due.image_id, "route": lane.name, "destination": lane.destination,
                "sha256": one.due.sha256, "patient_id": one.due.patient_id,
                "identified_at": one.due.identity and one.due.identity.decided_at,
                "sop_class_uid": one.sop_class_uid, "sop_instance_uid": one.sop_instance_uid, "state": one.state,
                "sent_at": now, "asks": 0, "confirmed_at": now if one.state == "confirmed" else None,
            }
            for one in sent
            if one.due.image_id in there  # others were deleted meanwhile
        ]  # fmt: skip
        if not rows:
            return
        statement = insert(SentInstanceRow)
        names = ("sha256", "patient_id", "identified_at", "sop_class_uid", "sop_instance_uid", "state", "sent_at",
                 "confirmed_at")  # fmt: skip
        new = {column: statement.excluded[column] for column in names} | {"transaction_uid": None}
        connection.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=new), rows)

    @on_writer
    def note_skipped(
        self,
        connection: Connection,
        lane: Lane,
        study_instance_uid: str,
        reasons: Mapping[str | None, str],
        now: dt.datetime,
    ) -> None:
        """Record which series of a study a data set leaves out now; what was recorded before is forgotten.

        `reasons`: By Series Instance UID; None: what the data set keeps of series that are no longer here.
        """
        before = in_lane(lane), WorkRow.study_instance_uid == study_instance_uid
        connection.execute(delete(WorkRow).where(*before, WorkRow.outcome == "skipped"))
        for series, reason in reasons.items():
            message_id = _message_id("skipped", lane, study_instance_uid, series)
            pending = PendingEvent(message_id, "replay", now, study_instance_uid, series)
            keep(connection, lane, Attempt(pending, Ended("skipped", reason), 1), now)

    @on_reader
    def owed(self, connection: Connection, lane: Lane, asked_before: dt.datetime) -> list[OwedInstance]:
        """Return instances about which a destination is to be asked: never yet, or without an answer since then."""
        query = (
            select(*columns_of(OwedInstance, SentInstanceRow, StudyRow, SeriesRow))
            .select_from(join(SentInstanceRow, ImageRow).join(SeriesRow).join(StudyRow))
            .where(
                taken_by(lane),
                or_(
                    SentInstanceRow.state == "owed",
                    and_(SentInstanceRow.state == "asked", SentInstanceRow.asked_at < asked_before),
                ),
            )
            .order_by(SentInstanceRow.image_id)
            .limit(ASKED_AT_ONCE)
        )
        return [OwedInstance(*row) for row in connection.execute(query)]

    @on_reader
    def next_ask_at(self, connection: Connection, lane: Lane) -> dt.datetime | None:
        """Return when the oldest request without an answer was made; None if there is none."""
        asked_for = taken_by(lane), SentInstanceRow.state == "asked"
        return connection.execute(select(func.min(SentInstanceRow.asked_at)).where(*asked_for)).scalar()

    @on_writer
    def note_asked(
        self, connection: Connection, lane: Lane, owed: Sequence[OwedInstance], transaction_uid: str, now: dt.datetime
    ) -> None:
        """Record a request for commitment, before it is made."""
        taken = taken_by(lane), listed_in(SentInstanceRow.image_id, [o.image_id for o in owed])
        values = {"state": "asked", "transaction_uid": transaction_uid, "asked_at": now}
        values["asks"] = SentInstanceRow.asks + 1
        connection.execute(update(SentInstanceRow).where(*taken).values(values))

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

        `committed`: SOP Instance UIDs, as sent.
        `failed`: SOP Instance UIDs and reasons.
        """
        asked = SentInstanceRow.transaction_uid == transaction_uid, SentInstanceRow.state == "asked"
        rows = connection.execute(
            select(
                SentInstanceRow.image_id, SentInstanceRow.route, SentInstanceRow.destination, SentInstanceRow.asks,
                SentInstanceRow.sop_instance_uid, StudyRow.study_instance_uid, SeriesRow.series_instance_uid,
                ImageRow.sop_instance_uid.label("stored_uid"),
            )
            .select_from(join(SentInstanceRow, ImageRow).join(SeriesRow).join(StudyRow))
            .where(*asked)
        ).all()  # fmt: skip
        if not rows:
            return False
        lost = [row for row in rows if row.sop_instance_uid in failed]
        confirmed = [row for row in rows if row.sop_instance_uid in committed]
        for some, values in ((confirmed, {"state": "confirmed", "confirmed_at": now}), (lost, {"state": "lost"})):
            of_images = listed_in(SentInstanceRow.image_id, [row.image_id for row in some])
            connection.execute(update(SentInstanceRow).where(*asked, of_images).values(values))
        for row in lost:
            lane = lane_to(row.route, row.destination)
            pending = PendingEvent(
                _message_id("resend", lane, row.stored_uid), "resend", now, row.study_instance_uid,
                row.series_instance_uid, row.stored_uid,
            )  # fmt: skip
            reason = f"the destination does not keep it: {failed[row.sop_instance_uid]}"
            if row.asks < MAX_ASKS:
                enqueue(connection, lane, pending, now, reason)
            else:
                keep(connection, lane, Attempt(pending, Ended("failed", reason), row.asks), now)
        return True

    @on_writer
    def replay(
        self, connection: Connection, lane: Lane, series: Sequence[SeriesKey], again: bool, now: dt.datetime
    ) -> Replay:
        """Queue a message about each series of which the destination has not taken everything.

        `again`: queue those that it has taken, too, and send all of their instances.
        """
        room = MAX_REPLAYED - waiting_by_study(connection, lane).total()
        queued: list[str] = []
        waiting = sent = 0
        for number, (study, one) in enumerate(series):
            if len(queued) >= room:
                return Replay(queued, waiting, sent, 0, list(series[number:]))
            pending = PendingEvent(_message_id("replay", lane, study, one), "replay", now, study, one)
            images = _IMAGES.where(_of(study, one))
            of_message = in_lane(lane), WorkRow.key == pending.message_id, WorkRow.outcome.is_(None)
            if connection.execute(select(WorkRow.id).where(*of_message)).first() is not None:
                waiting += 1
                continue
            if again:
                taken = taken_by(lane), SentInstanceRow.image_id.in_(images)
                connection.execute(delete(SentInstanceRow).where(*taken))
            elif connection.execute(images.where(~has_taken(lane, _IS_KEPT)).limit(1)).first() is None:
                sent += 1
                continue
            enqueue(connection, lane, pending, now)
            queued.append(pending.message_id)
        return Replay(queued, waiting, sent, 0, [])

    @on_writer
    def send(
        self,
        connection: Connection,
        lane: Lane,
        study_instance_uid: str,
        series_instance_uid: str | None,
        now: dt.datetime,
    ) -> int:
        """Queue what a person sends to a destination: a study or a series; return the number of its instances.

        Raises SendBeingCancelled.
        """
        images = _IMAGES.where(_of(study_instance_uid, series_instance_uid))
        count = connection.execute(select(func.count()).select_from(images.subquery())).scalar_one()
        pending = PendingEvent(
            _message_id("send", lane, study_instance_uid, series_instance_uid), "send", now, study_instance_uid,
            series_instance_uid,
        )  # fmt: skip
        of_message = in_lane(lane), WorkRow.key == pending.message_id, WorkRow.outcome.is_(None)
        waiting = connection.execute(select(WorkRow.cancelled_by).where(*of_message)).first()
        if waiting is not None and waiting.cancelled_by is not None:
            raise SendBeingCancelled("an earlier send of the same is being cancelled: try again in a few seconds")
        if count and waiting is None:
            taken = taken_by(lane), SentInstanceRow.image_id.in_(images)
            connection.execute(delete(SentInstanceRow).where(*taken))
            enqueue(connection, lane, pending, now)
        return int(count)


_IMAGES = select(ImageRow.id).select_from(join(ImageRow, SeriesRow).join(StudyRow))


def _of(study_instance_uid: str, series_instance_uid: str | None) -> ColumnElement[bool]:
    """Return the condition of the images of a study, or of a series of it."""
    of_series = true() if series_instance_uid is None else SeriesRow.series_instance_uid == series_instance_uid
    return and_(StudyRow.study_instance_uid == study_instance_uid, of_series)


_WITHOUT_TROUBLE = {"trouble": None, "trouble_since": None, "retry_at": None}


def _due(connection: Connection, query: object, condition: ColumnElement[bool]) -> Iterator[DueInstance]:
    identities, at = Identities(connection), DueInstance.__match_args__.index("identity")
    for row in connection.execute(query.where(condition)):  # type: ignore[attr-defined]
        yield DueInstance(*(*row[:at], identities.of(row[at]), *row[at + 1 : -1], bool(row[-1])))


def _message_id(*facts: object) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, facts))))


_KEY = ["image_id", "route", "destination"]


def deletable(connection: Connection, lanes: Collection[Lane]) -> list[SeriesKey]:
    """Return the series that all destinations of a route have confirmed, and that nobody waits for any more.

    Series with identity conflicts are left out, since a deletion also removes the versions that were not sent.
    """
    is_confirmed = SentInstanceRow.state == "confirmed"
    unconfirmed = [~has_taken(lane, is_confirmed) for lane in lanes]
    confirmed = select(SentInstanceRow.image_id).where(taken_by(next(iter(lanes))), is_confirmed)
    other = aliased(SeriesRow)
    candidates = select(ImageRow.series_id).where(ImageRow.id.in_(confirmed)).distinct()
    # A study that is not quiet yet has an event to come.
    is_waited_for = connection.execute(select(SubscriberRow.id).where(wants("study-quiet")).limit(1)).first()
    is_to_be_quiet = or_(
        StudyRow.closed_at.is_not(None),
        exists().where(other.study_id == StudyRow.id, other.state.in_(OPEN_STATES)).correlate(StudyRow),
    )
    owed_studies = select(EventRow.study_instance_uid).where(
        OwedEventRow.event_id == EventRow.id, OwedEventRow.subscriber_id == SubscriberRow.id
    )
    owes_instances = exists().where(
        ImageRow.series_id == SeriesRow.id,
        OwedImageRow.subscriber_id == SubscriberRow.id,
        OwedImageRow.image_id == ImageRow.id,
    )
    rows = connection.execute(
        select(StudyRow.study_instance_uid, SeriesRow.series_instance_uid)
        .join_from(SeriesRow, StudyRow)
        .where(SeriesRow.id.in_(candidates), SeriesRow.state.not_in(OPEN_STATES))
        .where(true() if is_waited_for is None else ~is_to_be_quiet)
        .where(~exists().where(ImageRow.series_id == SeriesRow.id, or_(*unconfirmed)).correlate(SeriesRow))
        .where(
            ~exists().where(
                WorkRow.study_instance_uid == StudyRow.study_instance_uid,
                WorkRow.kind.in_(("hook", "route")),
                WorkRow.outcome.is_(None),
            )
        )
        .where(StudyRow.study_instance_uid.not_in(owed_studies), ~owes_instances.correlate(SeriesRow))
        .where(~exists().where(ConflictRow.series_instance_uid == SeriesRow.series_instance_uid))
        .limit(100)
    )
    return [(row.study_instance_uid, row.series_instance_uid) for row in rows]
