"""What may be deleted because every destination of a route has confirmed it, and nobody waits for it any more."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select, true
from sqlalchemy.orm import aliased, join

from node.index.models import (
    OPEN_STATES,
    ConflictRow,
    EventRow,
    ImageRow,
    SentInstanceRow,
    SeriesRow,
    StudyRow,
    SubscriberRow,
    WorkRow,
)
from node.index.nouns.converted import SeriesKey
from node.index.work.deliveries import is_subscriber, kinds_of
from node.index.work.ledger import Lane
from node.index.work.messages import LedgerEvent


def deletable_series(
    connection: Connection, lanes: Collection[Lane], subscribers: Mapping[Lane, Collection[LedgerEvent]]
) -> list[SeriesKey]:
    """Return the series that all of `lanes` have confirmed, and that nobody waits for any more.

    Series with identity conflicts are left out, since a deletion also removes the versions that were not sent.

    `lanes`: the destinations of a route. `subscribers`: all hooks and destinations, and the events to which each
    subscribes.
    """
    unconfirmed = [
        ~exists().where(
            SentInstanceRow.image_id == ImageRow.id,
            taken_by(lane),
            SentInstanceRow.sha256 == ImageRow.sha256,
            SentInstanceRow.state == "confirmed",
        )
        for lane in lanes
    ]
    confirmed = select(SentInstanceRow.image_id).where(
        taken_by(next(iter(lanes))), SentInstanceRow.state == "confirmed"
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
                WorkRow.study_instance_uid == StudyRow.study_instance_uid,
                WorkRow.kind.in_(("hook", "route")),
                WorkRow.outcome.is_(None),
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
            _is_done(connection, lane, events, row.study_instance_uid, row.last_image)
            for lane, events in subscribers.items()
        )
    ]


def _is_done(
    connection: Connection, lane: Lane, events: Collection[LedgerEvent], study_instance_uid: str, last_image: int
) -> bool:
    """Return whether a subscriber has passed all events of a study."""
    columns = SubscriberRow.event_id, SubscriberRow.image_id
    cursors = connection.execute(select(*columns).where(is_subscriber(lane))).first()
    if cursors is None:
        return True
    if cursors.image_id is not None and cursors.image_id < last_image:
        return False
    left = select(EventRow.id).where(
        EventRow.id > cursors.event_id,
        EventRow.study_instance_uid == study_instance_uid,
        EventRow.kind.in_(kinds_of(events)),
    )
    return connection.execute(left.limit(1)).first() is None


def taken_by(lane: Lane) -> ColumnElement[bool]:
    """Return the condition of what a destination has taken."""
    return and_(SentInstanceRow.route == lane.name, SentInstanceRow.destination == lane.destination)
