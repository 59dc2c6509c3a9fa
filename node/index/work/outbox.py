"""What subscribers are owed: events and instances of which they have no message yet.

A subscriber is a hook, or a destination of a route. The transaction that commits an event or an instance inserts a row
for each subscriber that wants it, whichever host commits it. The row is deleted in the transaction that records what
became of the message, or in the one that deletes the instance: a crash repeats a message, and loses none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import JSON, ColumnElement, Connection, Integer, bindparam, delete, exists, insert, select
from sqlalchemy.orm import aliased

from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.sql import listed_in, looked_up_in
from node.index.models.history import EventRow
from node.index.models.levels import ImageRow
from node.index.models.work import OwedEventRow, OwedImageRow, SubscriberRow

_OTHER = aliased(SubscriberRow)
_OWE_EVENT = PreparedStatement(
    insert(OwedEventRow).from_select(
        ["subscriber_id", "event_id"],
        select(SubscriberRow.id, bindparam("event_id", type_=Integer)).where(
            SubscriberRow.wanted_kinds.like(bindparam("pattern"))
        ),
    )
)
_OWE_IMAGES = PreparedStatement(
    insert(OwedImageRow).from_select(
        ["subscriber_id", "image_id"],
        select(SubscriberRow.id, ImageRow.id).where(
            exists().where(_OTHER.wants_instances),  # else nothing is looked up
            SubscriberRow.wants_instances,
            looked_up_in(ImageRow.sop_instance_uid, bindparam("uids", type_=JSON)),
        ),
    )
)


def owe_event(connection: Connection, id: int, kind: str) -> None:
    """Owe a new event to each subscriber that wants its kind."""
    _OWE_EVENT.execute(connection, {"event_id": id, "pattern": f"% {kind} %"})


def owe_images(connection: Connection, sop_instance_uids: Collection[str]) -> None:
    """Owe new instances to each subscriber that wants messages of single ones."""
    _OWE_IMAGES.execute(connection, {"uids": list(sop_instance_uids)})


def forget_images(connection: Connection, *which: ColumnElement[bool]) -> None:
    """Remove instances from the outbox, before their rows are deleted."""
    gone = select(ImageRow.id).where(*which)
    everybody = OwedImageRow.subscriber_id.in_(select(SubscriberRow.id))  # so that the key of the table is used
    connection.execute(delete(OwedImageRow).where(everybody, OwedImageRow.image_id.in_(gone)))


def forget(connection: Connection, subscriber: int, events: Sequence[int], images: Sequence[int]) -> None:
    """Remove events and instances from the outbox of a subscriber."""
    for table, column, ids in (
        (OwedEventRow, OwedEventRow.event_id, events),
        (OwedImageRow, OwedImageRow.image_id, images),
    ):
        if ids:
            connection.execute(delete(table).where(table.subscriber_id == subscriber, listed_in(column, ids)))


def in_words(kinds: Collection[str]) -> str:
    """Return kinds of events as `subscribers.wanted_kinds` has them."""
    return f" {' '.join(kinds)} "


def wants(kind: str) -> ColumnElement[bool]:
    """Return the condition of a subscriber that wants a kind of events."""
    return SubscriberRow.wanted_kinds.like(f"% {kind} %")


def narrow(connection: Connection, subscriber: int, kinds: Collection[str], *, wants_instances: bool) -> None:
    """Remove from the outbox of a subscriber everything that it no longer wants."""
    is_wanted = exists().where(EventRow.id == OwedEventRow.event_id, EventRow.kind.in_(kinds))
    connection.execute(delete(OwedEventRow).where(OwedEventRow.subscriber_id == subscriber, ~is_wanted))
    if not wants_instances:
        connection.execute(delete(OwedImageRow).where(OwedImageRow.subscriber_id == subscriber))
