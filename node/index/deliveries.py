"""The ledger of hooks: how far each of them has been told what happened, what waits for another try, what failed.

A hook reads what is new behind its cursors on `events` and `images`. A cursor moves on in the transaction that records
what came of the attempts, so that a process that dies in between tells the same once more, with the same message id:
at least once. Rows of `deliveries` hold what must be tried again, and what became of everything but single instances.

Both tables are written by one connection, so that ids are committed in their order. SQLite gives the highest ids of
`images` again once their rows are deleted: `after_deletion` sets cursors back in that transaction.
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
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import aliased

from node.index.events import EventKind, record_event
from node.index.models import DeliveryRow, EventRow, HookRow, ImageRow, SeriesRow, StudyRow
from node.index.repository import Repository, on_reader, on_writer
from node.settings.model import HookEvent

AT_ONCE = 200
"""Rows of each kind that a hook reads at a time."""

MOST_WAITING = 1000
"""With so many messages to be tried again a hook reads nothing new: what happens meanwhile waits behind its cursors."""

KEPT_ROWS = 10_000
"""Rows of deliveries that are kept besides those that wait; the oldest give way."""

TOLD_AS: Mapping[EventKind, HookEvent] = {
    "instance-replaced": "instance-stored",
    "series-quiet": "series-quiet",
    "series-converted": "volume-written",
    "series-refused": "series-failed",
    "series-failed": "series-failed",
    "volume-superseded": "volume-superseded",
    "study-quiet": "study-quiet",
}
"""What hooks are told of the kinds of events; `instance-stored` comes from the rows of images too."""

_NAMESPACE = uuid.UUID("7a9c1f0e-5d43-4b6c-9a57-0c2f6f0b8e11")

DeliveryState = Literal["waiting", "delivered", "given-up", "dropped"]
"""dropped: nothing is left to be told of, or nobody to be told."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that a hook is to be told; `message_id` is the same whenever it is read."""

    message_id: str
    event: HookEvent
    happened_at: dt.datetime
    study_instance_uid: str
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    revision: int | None = None
    detail: str | None = None
    attempts: int = 0  # before now
    event_id: int | None = None  # its row, if it was read from there
    image_id: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """How far a hook is; `rewinds` tells whether ids of images have been given anew since it was read."""

    event_id: int
    image_id: int | None
    rewinds: int


@dataclass(frozen=True, slots=True)
class HookWork:
    """What a hook has to do.

    `again` is due for another try; `held` are studies of which something else waits, so that what is new of them waits
    behind it. The hook is at `stored` as rows tell, at `begin` as far as is known, and at `end` once `new` is done.
    """

    stored: Place
    begin: Place
    end: Place
    again: tuple[Happening, ...] = ()
    held: frozenset[str] = frozenset()
    new: tuple[Happening, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempted:
    """What came of a happening; `output` may hold patient data, `reason` never does."""

    happening: Happening
    state: DeliveryState
    attempts: int
    due_at: dt.datetime | None = None
    reason: str | None = None
    output: str | None = None


class DeliveryRepository(Repository):
    """The messages to the hooks of a node, and how far each hook is."""

    @on_writer
    def begin_hooks(self, connection: Connection, wants_instances: Mapping[str, bool]) -> None:
        """At a start: hooks that are new begin with what happens from now on; those that are gone are forgotten.

        Parameters
        ----------
        wants_instances : mapping of hook to bool
            The hooks of the configuration, and whether they are told of single instances.
        """
        names = list(wants_instances)
        connection.execute(delete(HookRow).where(HookRow.name.not_in(names)))
        orphans = update(DeliveryRow).where(DeliveryRow.hook.not_in(names), DeliveryRow.state == "waiting")
        connection.execute(orphans.values(state="dropped", due_at=None, reason="the hook is configured no more"))
        last_event = connection.execute(select(func.coalesce(func.max(EventRow.id), 0))).scalar_one()
        last_image = connection.execute(select(func.coalesce(func.max(ImageRow.id), 0))).scalar_one()
        for name, wanted in wants_instances.items():
            values = {"name": name, "event_id": last_event, "rewinds": 0, "delivered": 0}
            connection.execute(insert(HookRow).values(values).on_conflict_do_nothing())
            image_id = func.coalesce(HookRow.image_id, last_image) if wanted else None
            connection.execute(update(HookRow).where(HookRow.name == name).values(image_id=image_id))

    @on_reader
    def work(
        self, connection: Connection, hook: str, events: Collection[HookEvent], seen_event: int, now: dt.datetime
    ) -> HookWork:
        """What a hook has to do now, in the order in which it happened.

        Parameters
        ----------
        seen_event : int
            Row of events up to which there is nothing for this hook, whatever its cursor says.
        """
        row = connection.execute(select(HookRow).where(HookRow.name == hook)).one()
        stored = Place(row.event_id, row.image_id, row.rewinds)
        begin = replace(stored, event_id=max(row.event_id, seen_event))
        waiting = _waiting(connection, hook)
        again = _due(connection, hook, now) if waiting else ()
        rest = waiting - Counter(one.study_instance_uid for one in again)
        if waiting.total() >= MOST_WAITING:
            return HookWork(stored, begin, begin, again, frozenset(rest))
        new, end = _new(connection, begin, frozenset(events))
        return HookWork(stored, begin, end, again, frozenset(rest), new)

    @on_writer
    def settle(
        self, connection: Connection, hook: str, attempted: Iterable[Attempted], place: Place, now: dt.datetime
    ) -> None:
        """Record the outcome of attempts, and move the cursors to `place`.

        Where ids of images were given again since `place` was read, the cursor on images stays: the instances behind it
        are delivered once more.
        """
        delivered = 0
        kept = []
        for one in attempted:
            delivered += one.state == "delivered"
            if one.state != "delivered" or one.happening.image_id is None:
                kept.append(one)
        for one in kept:
            _keep(connection, hook, one, now)
        if kept:
            newest = select(func.max(DeliveryRow.id)).scalar_subquery()
            old = delete(DeliveryRow).where(DeliveryRow.state != "waiting", DeliveryRow.id <= newest - KEPT_ROWS)
            connection.execute(old)
        this = HookRow.name == hook
        values: dict[str, Any] = {"event_id": place.event_id}
        if delivered:
            values |= {"delivered": HookRow.delivered + delivered, "delivered_at": now}
        connection.execute(update(HookRow).where(this).values(values))
        connection.execute(
            update(HookRow).where(this, HookRow.rewinds == place.rewinds, HookRow.image_id.is_not(None)).values(
                image_id=place.image_id
            )
        )  # fmt: skip

    @on_writer
    def retry(self, connection: Connection, hook: str, message_id: str | None, now: dt.datetime) -> int:
        """Try what was given up again, and what waits at once; returns how many messages."""
        these: ColumnElement[bool] = and_(DeliveryRow.hook == hook, DeliveryRow.state.in_(("given-up", "waiting")))
        if message_id is not None:
            these = and_(these, DeliveryRow.message_id == message_id)
        again = {"state": "waiting", "attempts": 0, "due_at": now}
        return connection.execute(update(DeliveryRow).where(these).values(again)).rowcount


def _waiting(connection: Connection, hook: str) -> Counter[str]:
    """How many messages wait, by study."""
    rows = connection.execute(
        select(DeliveryRow.study_instance_uid, func.count())
        .where(DeliveryRow.hook == hook, DeliveryRow.state == "waiting")
        .group_by(DeliveryRow.study_instance_uid)
    )
    return Counter({study: count for study, count in rows})


def _due(connection: Connection, hook: str, now: dt.datetime) -> tuple[Happening, ...]:
    """What may be tried again: nothing whose study has something earlier that waits longer, so that the order stays."""
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
        .limit(AT_ONCE)
    )
    return tuple(
        Happening(
            row.message_id, row.event, row.happened_at, row.study_instance_uid, row.series_instance_uid,
            row.sop_instance_uid, row.revision, row.detail, row.attempts,
        )
        for row in rows
    )  # fmt: skip


def _new(connection: Connection, place: Place, events: frozenset[HookEvent]) -> tuple[tuple[Happening, ...], Place]:
    """What lies behind the cursors, and where they are when it is done."""
    event_rows = connection.execute(
        select(EventRow).where(EventRow.id > place.event_id).order_by(EventRow.id).limit(AT_ONCE)
    ).all()
    image_rows = _image_rows(connection, place.image_id) if place.image_id is not None else []
    # Where one table has more than was read, the other must not run ahead of it.
    ends = [rows[-1].happened_at for rows in (event_rows, image_rows) if len(rows) == AT_ONCE]
    if ends:
        event_rows, image_rows = _until(event_rows, min(ends)), _until(image_rows, min(ends))
    wanted = [row for row in event_rows if TOLD_AS.get(row.kind) in events and row.study_instance_uid is not None]
    new = heapq.merge(map(_of_event, wanted), map(_of_image, image_rows), key=lambda one: one.happened_at)
    end = Place(
        event_rows[-1].id if event_rows else place.event_id,
        image_rows[-1].id if image_rows else place.image_id,
        place.rewinds,
    )
    return tuple(new), end


def _image_rows(connection: Connection, after: int) -> Sequence[Row[Any]]:
    columns: list[Any] = [
        ImageRow.id,
        ImageRow.sop_instance_uid,
        ImageRow.sha256,
        ImageRow.received_at.label("happened_at"),
    ]
    columns += [SeriesRow.series_instance_uid, StudyRow.study_instance_uid]
    statement: Select[Any] = (
        select(*columns)
        .join(SeriesRow, SeriesRow.id == ImageRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(ImageRow.id > after)
        .order_by(ImageRow.id)
        .limit(AT_ONCE)
    )
    return connection.execute(statement).all()


def _until(rows: Sequence[Row[Any]], end: dt.datetime) -> Sequence[Row[Any]]:
    """The first rows, as far as they happened until `end`."""
    count = next((number for number, row in enumerate(rows) if row.happened_at > end), len(rows))
    return rows[:count]


def _of_event(row: Row[Any]) -> Happening:
    uids = (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    message_id = _message_id(str(row.id), row.kind, row.happened_at.isoformat(), *uids, row.revision)
    return Happening(message_id, TOLD_AS[row.kind], row.happened_at, *uids, row.revision, row.detail, event_id=row.id)


def _of_image(row: Row[Any]) -> Happening:
    uids = (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    message_id = _message_id("instance", row.sha256, row.happened_at.isoformat(), *uids)
    return Happening(message_id, "instance-stored", row.happened_at, *uids, image_id=row.id)


def _message_id(*facts: object) -> str:
    """An id made of what happened: whoever reads the row gets the same, and no other row, index or node ever does."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(map(str, facts))))


def _keep(connection: Connection, hook: str, one: Attempted, now: dt.datetime) -> None:
    what = one.happening
    values = {
        "state": one.state,
        "attempts": one.attempts,
        "due_at": one.due_at,
        "reason": one.reason,
        "output": one.output,
        "last_at": now if one.attempts > what.attempts else None,
    }
    names = (
        "message_id", "event", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "revision", "detail",
        "happened_at",
    )  # fmt: skip
    row = {"hook": hook} | {name: getattr(what, name) for name in names} | values
    upsert = insert(DeliveryRow).values(row).on_conflict_do_update(index_elements=["hook", "message_id"], set_=values)
    connection.execute(upsert)
    if one.state == "given-up":
        record_event(
            connection,
            "message-given-up",
            now,
            study_instance_uid=what.study_instance_uid,
            series_instance_uid=what.series_instance_uid,
            sop_instance_uid=what.sop_instance_uid,
            revision=what.revision,
            detail=f"hook {hook} was not told of {what.event} in {one.attempts} attempts: {one.reason}",
        )


def after_deletion(connection: Connection, study_instance_uid: str) -> None:
    """Rows of images of a study were deleted: the next one may get an id that a cursor has passed already.

    What commands wrote of the study goes too: it may name the patient.
    """
    last = select(func.coalesce(func.max(ImageRow.id), 0)).scalar_subquery()
    connection.execute(update(HookRow).values(rewinds=HookRow.rewinds + 1))
    connection.execute(update(HookRow).where(HookRow.image_id > last).values(image_id=last))
    of_study = and_(DeliveryRow.study_instance_uid == study_instance_uid, DeliveryRow.output.is_not(None))
    connection.execute(update(DeliveryRow).where(of_study).values(output=None))
