"""Events, what subscribers are owed, and files that are to be removed.

Subscribers are owed events and instances of which they have no message yet.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, TypedDict, Unpack, cast

from sqlalchemy import JSON, ColumnElement, Connection, Integer, bindparam, delete, exists, func, literal, select, true
from sqlalchemy.orm import aliased, join

from node.index.rows.about_keys import STORE
from node.index.rows.converted import SeriesKey
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import EventKind, EventRow, RevisionFileRow, TrashRow
from node.index.rows.models.levels import ImageRow, Utc
from node.index.rows.models.work import (
    HostRemovalRow,
    HostRow,
    ObjectRemovalRow,
    OwedEventRow,
    OwedImageRow,
    SubscriberRow,
)
from node.index.rows.repositories import about
from node.index.rows.sql import insert, listed_in, looked_up_in


class EventUids(TypedDict, total=False):
    """What an event is about."""

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None


class EventColumns(EventUids, total=False):
    """What an event says; `detail` is a sentence without patient data, and the last four are of some kinds only."""

    revision: int | None
    detail: str | None
    verdict_before: dict[str, Any]
    ended: str | None
    why: str | None
    key: str | None


def uids_of(named: Any) -> EventUids:
    """Return the UIDs of something that has all three: a row, or the attributes of an instance."""
    return cast(EventUids, {name: getattr(named, name) for name in EventUids.__annotations__})


NEWEST_EVENT = select(func.coalesce(func.max(EventRow.id), 0)).scalar_subquery()
"""Tells, with a row, which events came before it."""


def record_event(
    connection: Connection, kind: EventKind, happened_at: dt.datetime, **columns: Unpack[EventColumns]
) -> None:
    """Add an event to the transaction of `connection`, and owe it to each subscriber that wants its kind."""
    values = {"kind": kind, "happened_at": happened_at, **columns}
    id = connection.execute(insert(EventRow).values(values).returning(EventRow.id)).scalar_one()
    if columns.get("study_instance_uid") is not None:
        _OWE_EVENT.execute(connection, {"event_id": id, "pattern": f"% {kind} %"})


def record_series_event(
    connection: Connection,
    kind: EventKind,
    series: SeriesKey,
    happened_at: dt.datetime,
    detail: str | None,
    revision: int | None = None,
    **columns: Any,
) -> None:
    """Add an event of a series; see `record_event`."""
    uids: EventUids = {"study_instance_uid": series[0], "series_instance_uid": series[1]}
    record_event(connection, kind, happened_at, revision=revision, detail=detail, **uids, **columns)


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
        ["subscriber_id", "image_id", "last_event"],
        select(SubscriberRow.id, ImageRow.id, NEWEST_EVENT).where(
            exists().where(_OTHER.wants_instances),  # else nothing is looked up
            SubscriberRow.wants_instances,
            looked_up_in(ImageRow.sop_instance_uid, bindparam("uids", type_=JSON)),
        ),
    )
)


def owe_images(connection: Connection, sop_instance_uids: Collection[str]) -> None:
    """Owe new instances to each subscriber that wants messages of single ones."""
    _OWE_IMAGES.execute(connection, {"uids": list(sop_instance_uids)})


def forget_images(connection: Connection, *which: ColumnElement[bool]) -> None:
    """Remove instances from the outbox, before their rows are deleted."""
    gone = select(ImageRow.id).where(*which)
    everybody = OwedImageRow.subscriber_id.in_(select(SubscriberRow.id))  # so that the key of the table is used
    connection.execute(delete(OwedImageRow).where(everybody, OwedImageRow.image_id.in_(gone)))


def forget_owed(connection: Connection, subscriber: int, events: Sequence[int], images: Sequence[int]) -> None:
    """Remove events and instances from the outbox of a subscriber."""
    for table, column, ids in (
        (OwedEventRow, OwedEventRow.event_id, events),
        (OwedImageRow, OwedImageRow.image_id, images),
    ):
        if ids:
            connection.execute(delete(table).where(table.subscriber_id == subscriber, listed_in(column, ids)))


def kinds_in_words(kinds: Collection[str]) -> str:
    """Return kinds of events as `subscribers.wanted_kinds` has them."""
    return f" {' '.join(kinds)} "


def narrow_owed(connection: Connection, subscriber: int, kinds: Collection[str], *, wants_instances: bool) -> None:
    """Remove from the outbox of a subscriber everything that it no longer wants."""
    is_wanted = exists().where(EventRow.id == OwedEventRow.event_id, EventRow.kind.in_(kinds))
    connection.execute(delete(OwedEventRow).where(OwedEventRow.subscriber_id == subscriber, ~is_wanted))
    if not wants_instances:
        connection.execute(delete(OwedImageRow).where(OwedImageRow.subscriber_id == subscriber))


def owe_removals(connection: Connection, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    """Order the removal of the objects of images that are about to be deleted, or to get other files.

    In the second case, `now` is when the other file was received: the order waits until that one is in the store.
    """
    _owe(connection, ImageRow, leaving & ImageRow.place.is_not(None), now)


def owe_files(connection: Connection, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    """Order the removal of the objects of files of revisions, and delete the rows of these files."""
    _owe(connection, RevisionFileRow, leaving, now)
    connection.execute(delete(RevisionFileRow).where(leaving))


def owe_host_removals(connection: Connection, paths: Sequence[str], now: dt.datetime) -> None:
    """Order the removal of files and folders from the disk of every host, if each has a root of its own."""
    if not about(connection, STORE):
        return
    hosts = list(connection.scalars(select(HostRow.name).order_by(HostRow.name)))
    rows = [{"host": host, "path": path, "ordered_at": now} for host in hosts for path in sorted(paths)]
    if rows:
        connection.execute(insert(HostRemovalRow).on_conflict_do_nothing(), rows)


def owe_trashed(connection: Connection, deletion: int, now: dt.datetime) -> None:
    """Order the removal of the objects of a deletion that leaves the trash."""
    _owe(connection, TrashRow, (TrashRow.deletion == deletion) & TrashRow.place.is_not(None), now)


def _owe(connection: Connection, table: Any, leaving: ColumnElement[bool], now: dt.datetime) -> None:
    key = table.key
    objects = select(key, literal(now, Utc)).where(leaving)
    order = insert(ObjectRemovalRow).from_select(["key", "ordered_at"], objects)
    connection.execute(order.on_conflict_do_nothing())
    copies = select(HostRow.name, key, literal(now, Utc)).select_from(join(table, HostRow, true())).where(leaving)
    there = insert(HostRemovalRow).from_select(["host", "path", "ordered_at"], copies)
    connection.execute(there.on_conflict_do_nothing())
