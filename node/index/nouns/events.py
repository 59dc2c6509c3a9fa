"""Events, and what subscribers are owed: events and instances of which they have no message yet.

An event is written in the same transaction as the change that it records.

A subscriber is a hook, or a destination of a route. The transaction that commits an event or an instance inserts a row
for each subscriber that wants it, whichever host commits it. The row is deleted in the transaction that records what
became of the message, or in the one that deletes the instance: a crash repeats a message, and loses none.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, Literal, TypedDict, Unpack, cast

from sqlalchemy import JSON, ColumnElement, Connection, Integer, bindparam, delete, exists, func, insert, select
from sqlalchemy.orm import aliased

from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.rows import PagedRepository, Row
from node.index.engine.sharing import Watermarks, is_below
from node.index.engine.sql import listed_in, looked_up_in
from node.index.models.history import EventRow
from node.index.models.levels import ImageRow
from node.index.models.work import OwedEventRow, OwedImageRow, SubscriberRow
from node.index.nouns.converted import SeriesKey
from node.index.nouns.views import EventViews

EventKind = Literal[
    "series-quiet",  # a conversion begins; `detail` gives the reason
    "series-converted",
    "series-refused",  # includes series without images
    "series-failed",
    "series-unchanged",  # reconversion requested, but input, converter and options match the current revision
    "series-reopened",  # an instance was added, deleted or replaced after the conversion, or reconversion requested
    "verdict-changed",  # a closed series was judged again; `verdict_before` has the columns of its verdict before
    "series-confirmed",  # the sender was asked for its number of instances, or a performed procedure step listed them
    "sender-aborted",  # an association that delivered instances did not end by release
    "node-ended",  # the node ended such an association before the series was quiet
    "sender-returned",  # the sender came back after that, had nothing new, and released its association
    "sender-never-releases",  # as a person says: that it did not end by release says nothing
    "attributes-changed",  # of a study or a series, because other instances came or left; `detail` names the columns
    "volume-superseded",
    "study-quiet",
    "instance-replaced",
    "instance-conflict",
    "instance-set-aside",  # an instance cannot be indexed; its file is in quarantine
    "journal-damaged",  # acknowledged records cannot be read
    "file-missing",  # fsck found a row without its file
    "file-damaged",  # a file is not as it was received: the instance must be sent again
    "file-found",  # a missing file is back, or a damaged one is whole again
    "digest-corrected",  # fsck or a rebuild believed a whole file against the digest of its row
    "file-restored",  # an instance came again, and took the place of its file, which was not whole
    "instances-lost",  # instances of a series were acknowledged and are not here
    "lost-written-off",  # a person has written lost instances of a series off
    "quarantine-released",  # a person took a file in quarantine back into the archive
    "quarantine-purged",
    "deleted",
    "restored",  # a deletion was undone; the instances are received again
    "patient-merged",
    "patient-corrected",  # a person has said who a patient, or that of one study, really is
    "patient-separated",  # a merge was undone, or a shared Patient ID got an issuer
    "job-ended",  # a hook with results has done what it was asked to, failed, or was late
    "problem-acknowledged",  # a person has seen that a series is incomplete or has no volume, and leaves it so
    "problem-reopened",  # a person has withdrawn that
    "message-given-up",  # every attempt to deliver a message to a hook failed
]

FinalKind = Literal["series-converted", "series-refused", "series-failed", "series-unchanged"]
"""The events that end a conversion, one for each conversion."""


class EventUids(TypedDict, total=False):
    """What an event is about."""

    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None


class EventColumns(EventUids, total=False):
    """What an event says; `detail` is a sentence without patient data, and the last two are of some kinds only."""

    revision: int | None
    detail: str | None
    verdict_before: dict[str, Any]
    ended: str | None


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


class ReadEvents(PagedRepository, EventViews):
    """Rows of ``events`` and ``v_events``; see `node.index.database.reading.ReadIndex`."""

    def __init__(self, connection: Connection, watermarks: Watermarks | None) -> None:
        super().__init__(connection)
        self._is_below = is_below(watermarks, EventRow.id)

    listing = select(EventRow.__table__)
    filters = (EventRow.kind, EventRow.series_instance_uid)

    def since(self, id: int, limit: int) -> list[Row]:
        """Return at most `limit` events after the event `id`, oldest first."""
        rows = self._connection.execute(
            self.listing.where(EventRow.id > id, self._is_below).order_by(EventRow.id).limit(limit)
        )
        return [dict(row) for row in rows.mappings()]

    def newest(self) -> int:
        """Return the id of the newest event, or 0 if there are no events."""
        return int(self._connection.execute(select(func.max(EventRow.id)).where(self._is_below)).scalar() or 0)

    def conversions(self, limit: int) -> list[Row]:
        """Return the final events of the last conversions, with series and patient, newest first.

        ``certainty`` is that of the series, if the conversion is its current one.
        """
        return self._rows(
            "SELECT e.kind, e.revision, e.detail, e.happened_at, e.study_instance_uid, e.series_instance_uid, "
            "se.series_number, se.series_description, se.modality, st.patient_name, st.patient_id, "
            "CASE WHEN se.revision = e.revision THEN se.certainty END AS certainty "
            "FROM (SELECT * FROM v_events WHERE kind || '' IN "  # no column: the index of kinds is left aside
            "('series-converted', 'series-refused', 'series-failed', 'series-unchanged') "
            "ORDER BY id DESC LIMIT :limit) e JOIN v_series se USING (study_instance_uid, series_instance_uid) "
            "JOIN v_studies st USING (study_instance_uid) ORDER BY e.id DESC",
            limit=limit,
        )


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


def wants(kind: str) -> ColumnElement[bool]:
    """Return the condition of a subscriber that wants a kind of events."""
    return SubscriberRow.wanted_kinds.like(f"% {kind} %")


def narrow_owed(connection: Connection, subscriber: int, kinds: Collection[str], *, wants_instances: bool) -> None:
    """Remove from the outbox of a subscriber everything that it no longer wants."""
    is_wanted = exists().where(EventRow.id == OwedEventRow.event_id, EventRow.kind.in_(kinds))
    connection.execute(delete(OwedEventRow).where(OwedEventRow.subscriber_id == subscriber, ~is_wanted))
    if not wants_instances:
        connection.execute(delete(OwedImageRow).where(OwedImageRow.subscriber_id == subscriber))
