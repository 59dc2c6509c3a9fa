"""Let a closed series be open again: an instance has come, or what its conversion used has changed.

`record_growth` opens the series of instances that are received, in the transaction that stores them; `reopen` those of
which an instance was deleted, lost, brought back or judged anew. One that is being converted stays claimed: its outcome
finds that `receptions` has grown, and the series is due again.

A series such as a structure set refers to the series that it was drawn on. Its conversion uses the instances of these,
and is repeated when one of them gets a new revision, is deleted, or comes back.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import JSON, Connection, Row, and_, bindparam, case, delete, exists, insert, or_, select, update
from sqlalchemy.orm import join

from node.index.rows.backend import Overtaken
from node.index.rows.converted import ClaimedInstance, SeriesKey
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.history import SeriesReferenceRow
from node.index.rows.models.levels import OPEN_STATES, ImageRow, SeriesRow, StudyRow
from node.index.rows.records import FoundSeries, Received
from node.index.rows.repositories import IndexRepository, on_reader
from node.index.rows.sql import looked_up_in
from node.index.rules.series.waits import (
    Seen,
    is_all_here,
    is_awaiting,
    listed_series,
    note_open,
    replace_waits,
    revoke_claim,
    waits_of,
)
from node.index.rules.work.events import NEWEST_EVENT, record_series_event
from node.quiet import Waits, after_received, due_at

OPENED = {"state": "receiving", "attempts": 0, "error": None, "why": None}
"""Columns of a closed series that is open again."""


@dataclass(slots=True)
class _Growth:
    """The instances of a batch that belong to one series, by their reception: a host may be late.

    `first`, `last` and `count` are without those that were there already.
    """

    senders: dict[str, Received] = field(default_factory=dict)  # the last instance of each
    begun: dict[str, set[str]] = field(default_factory=dict)  # the begins of the associations of each
    first: Received | None = None
    last: Received | None = None
    count: int = 0
    replaced: bool = False

    def add(self, one: Seen) -> None:
        """Note an instance."""
        received, sender, moment = one.received, one.received.file.calling_ae_title, one.received.file.received_at
        self.senders[sender] = _later(self.senders.get(sender), received)
        self.begun.setdefault(sender, set()).add(received.begun)
        if one.counts:
            self.last = _later(self.last, received)
            if self.first is None or moment < self.first.file.received_at:
                self.first = received
            self.count += 1
            self.replaced |= one.replaces

    def waits_after(self, waits: Waits) -> Waits:
        """Return for whom the series waits, and until when."""
        for sender, received in self.senders.items():
            moment = received.file.received_at
            quiet_at = moment + dt.timedelta(seconds=received.quiet_seconds)
            waits = after_received(waits, sender, quiet_at, self.begun[sender], moment)
        return waits


def _later(before: Received | None, received: Received) -> Received:
    return received if before is None or received.file.received_at >= before.file.received_at else before


_FIRST = bindparam("first", type_=SeriesRow.open_since.type)
_LAST = bindparam("last", type_=SeriesRow.last_received_at.type)
_SERIES_GREW = PreparedStatement(
    update(SeriesRow)
    .where(SeriesRow.id == bindparam("series"))
    .values(
        receptions=SeriesRow.receptions + bindparam("count"),
        open_since=case((SeriesRow.open_since < _FIRST, SeriesRow.open_since), else_=_FIRST),
        last_received_at=case((SeriesRow.last_received_at > _LAST, SeriesRow.last_received_at), else_=_LAST),
        last_event=NEWEST_EVENT,
        due_at=bindparam("due"),
        attempts=0,
        error=None,
        why=None,
        # A series under conversion stays claimed; its outcome finds that `receptions` has grown and makes it due again.
        state=case((SeriesRow.state == "converting", "converting"), else_="receiving"),
    )
)

_HOLD = PreparedStatement(
    select(SeriesRow.id, SeriesRow.state, SeriesRow.stated)
    .where(looked_up_in(SeriesRow.id, bindparam("ids", type_=JSON)))
    .order_by(SeriesRow.id)
    .with_for_update(key_share=True)  # others insert images of the series meanwhile
)
_SERIES_ALIVE = PreparedStatement(
    update(SeriesRow).where(SeriesRow.id == bindparam("series")).values(due_at=bindparam("due"))
)


def record_growth(connection: Connection, seen: Sequence[Seen], host: str = "") -> Mapping[int, int | None]:
    """Let series wait for what follows the instances that they have seen; those that have grown are open again.

    `host`: the one that has received them, if several share the index. Returns `stated` of each; no other writer
    changes it now.

    Raises Overtaken if another writer has deleted one of them meanwhile.
    """
    grown: dict[int, _Growth] = {}
    for one in seen:
        grown.setdefault(one.series_id, _Growth()).add(one)
    if not grown:
        return {}
    held = {series: of for series, *of in _HOLD.execute(connection, {"ids": list(grown)})}
    if len(held) < len(grown):
        raise Overtaken("another writer has deleted the series of an instance meanwhile")
    waits = waits_of(connection, grown)
    uids = {growth.last.attributes.series_instance_uid for growth in grown.values() if growth.last}
    listed = listed_series(connection, uids) if uids else set()
    alive, grew = [], []
    changes: dict[int, tuple[Waits, Waits]] = {}
    for series_id in sorted(grown):
        growth = grown[series_id]
        if growth.last is None and held[series_id][0] not in OPEN_STATES:
            continue
        before = waits.get(series_id, {})
        after = growth.waits_after(before)
        changes[series_id] = before, after
        values = {"series": series_id, "due": due_at(after)}
        if growth.first is None or growth.last is None:
            alive.append(values)
            continue
        attributes, last = growth.last.attributes, growth.last.file.received_at
        study, series = attributes.study_instance_uid, attributes.series_instance_uid
        if series in listed and is_all_here(connection, series_id, study, series):
            values["due"], changes[series_id] = last, (before, {})
        grew.append(values | {"count": growth.count, "first": growth.first.file.received_at, "last": last})
    replace_waits(connection, changes)
    _SERIES_ALIVE.execute_each(connection, alive)
    _SERIES_GREW.execute_each(connection, grew)
    note_open(connection, host, seen)
    for series_id, growth in grown.items():
        if growth.replaced:
            revoke_claim(connection, series_id)
    return {series: stated for series, (_, stated) in held.items()}


def reopen(
    connection: Connection,
    series_id: int,
    study_instance_uid: str,
    sop_instance_uid: str | None,
    now: dt.datetime,
    detail: str,
) -> None:
    """Make a series due for another conversion, and let one that is under way not count.

    `sop_instance_uid`: the instance that has left the series, if that is why.
    """
    connection.execute(update(SeriesRow).where(SeriesRow.id == series_id).values(receptions=SeriesRow.receptions + 1))
    closed = and_(SeriesRow.id == series_id, SeriesRow.state.not_in(("receiving", "converting")))
    again = update(SeriesRow).where(closed).values(OPENED | {"open_since": now, "due_at": now})
    for uid in connection.scalars(again.returning(SeriesRow.series_instance_uid)):
        key = study_instance_uid, uid
        record_series_event(connection, "series-reopened", key, now, detail, sop_instance_uid=sop_instance_uid)
    revoke_claim(connection, series_id)


def reopen_damaged(connection: Connection, images: Sequence[int], now: dt.datetime) -> None:
    """Make the series of instances whose files are whole again due, if they were set aside because of damage.

    One that is being converted may be about to be set aside for it, and is converted again.
    """
    of_images = select(ImageRow.series_id).where(ImageRow.id.in_(images))
    is_set_aside = and_(SeriesRow.state == "failed", SeriesRow.why == "damaged")
    met = select(SeriesRow.id, StudyRow.study_instance_uid).join(StudyRow).where(SeriesRow.id.in_(of_images))
    for row in connection.execute(met.where(or_(is_set_aside, SeriesRow.state == "converting"))).all():
        reopen(connection, row.id, row.study_instance_uid, None, now, "a damaged file is whole again")


RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"


class ReferenceRepository(IndexRepository):
    """The series to which a series refers."""

    @on_reader
    def find(self, connection: Connection, series_id: int, keys: Sequence[SeriesKey]) -> tuple[FoundSeries, ...]:
        """Return what is here of each series to which a series refers, in the order of `keys`."""
        return tuple(find_series(connection, series_id, key) for key in keys)


def find_series(connection: Connection, series_id: int, key: SeriesKey) -> FoundSeries:
    """Return what is here of a series to which the series `series_id` refers.

    If its Series Instance UID is in several studies, the series of the same patient comes first, then that of the named
    study, then that of the same study. A series with a structure set is never open: two of them could wait for each
    other.
    """
    row = _row(connection, series_id, key)
    if row is None:
        return FoundSeries(key)
    has_structure_set = exists().where(ImageRow.series_id == row.id, ImageRow.sop_class_uid == RT_STRUCTURE_SET)
    images = connection.execute(
        select(ImageRow.sop_instance_uid, ImageRow.key, ImageRow.sha256, ImageRow.data_set_offset, ImageRow.bytes)
        .where(ImageRow.series_id == row.id)
        .order_by(ImageRow.instance_number.nulls_first(), ImageRow.sop_instance_uid)
    ).all()
    return FoundSeries(
        key=key,
        revision=row.revision,
        is_open=row.state in OPEN_STATES and not connection.execute(select(has_structure_set)).scalar_one(),
        is_of_patient=bool(row.is_of_patient),
        instances=tuple(ClaimedInstance(*image) for image in images),
    )


def _row(connection: Connection, series_id: int, key: SeriesKey) -> Row[Any] | None:
    study_instance_uid, series_instance_uid = key
    referring = connection.execute(
        select(StudyRow.id, StudyRow.patient_id).select_from(join(SeriesRow, StudyRow)).where(SeriesRow.id == series_id)
    ).one()
    is_of_patient = StudyRow.patient_id == referring.patient_id
    return connection.execute(
        select(SeriesRow.id, SeriesRow.state, SeriesRow.revision, is_of_patient.label("is_of_patient"))
        .select_from(join(SeriesRow, StudyRow))
        .where(SeriesRow.series_instance_uid == series_instance_uid, SeriesRow.id != series_id)
        .order_by(
            case((is_of_patient, 0), else_=1),
            case((StudyRow.study_instance_uid == study_instance_uid, 0), else_=1),
            case((StudyRow.id == referring.id, 0), else_=1),
            SeriesRow.id,
        )
        .limit(1)
    ).first()


def references_of(connection: Connection, series_id: int) -> tuple[SeriesKey, ...]:
    """Return the series to which a series refers, as far as its last conversion knew them."""
    rows = connection.execute(
        select(SeriesReferenceRow.study_instance_uid, SeriesReferenceRow.series_instance_uid)
        .where(SeriesReferenceRow.series_id == series_id)
        .order_by(SeriesReferenceRow.id)
    )
    return tuple((study, uid) for study, uid in rows)


def replace_references(
    connection: Connection, series_id: int, references: Sequence[tuple[SeriesKey, int | None]]
) -> bool:
    """Replace the references of a series; return whether a referenced series has changed meanwhile.

    `references`: with the revision that was used, 0 if there was none. None: the conversion waits for that series.
    """
    connection.execute(delete(SeriesReferenceRow).where(SeriesReferenceRow.series_id == series_id))
    rows = [
        {"series_id": series_id, "study_instance_uid": study, "series_instance_uid": uid, "revision": revision}
        for (study, uid), revision in references
    ]
    if rows:
        connection.execute(insert(SeriesReferenceRow), rows)
    current = ((_row(connection, series_id, key), revision) for key, revision in references)
    return any(revision not in (None, row.revision if row is not None else 0) for row, revision in current)


def convert_referring(
    connection: Connection, series_instance_uids: Iterable[str], now: dt.datetime, change: str, used: int | None = None
) -> None:
    """Make the series due that refer to one of these series, because it has changed.

    A series that has references itself has no images to draw on, and none of this applies to it: two series that refer
    to each other would be converted for ever.

    `change`: what has happened to the referenced series, in words. `used`: not those that were made with this revision.
    """
    for uid in series_instance_uids:
        for row in _referring(connection, uid):
            if used is not None and row.revision == used:
                continue
            detail = f"series {uid}, to which it refers, {change}"
            reopen(connection, row.id, row.study_instance_uid, None, now, detail)


def end_waits_for(connection: Connection, series_instance_uid: str, now: dt.datetime) -> None:
    """Make the series due whose conversions wait for a series that is not open any more."""
    waiting = [row.id for row in _referring(connection, series_instance_uid) if row.revision is None]
    if waiting:
        is_waiting = SeriesRow.id.in_(waiting), SeriesRow.state == "receiving", ~is_awaiting()
        connection.execute(update(SeriesRow).where(*is_waiting).values(due_at=now))


def _referring(connection: Connection, series_instance_uid: str) -> Sequence[Row[int, str, int | None]]:
    """Return the rows of the series that refer to a series."""
    return connection.execute(
        select(SeriesRow.id, StudyRow.study_instance_uid, SeriesReferenceRow.revision)
        .select_from(join(SeriesReferenceRow, SeriesRow).join(StudyRow))
        .where(
            SeriesReferenceRow.series_instance_uid == series_instance_uid,
            SeriesRow.series_instance_uid != series_instance_uid,
        )
    ).all()


def delete_references(connection: Connection, series: Collection[int], now: dt.datetime) -> None:
    """Delete the references of series that are about to be deleted; other series that refer to them become due."""
    connection.execute(delete(SeriesReferenceRow).where(SeriesReferenceRow.series_id.in_(series)))
    uids = connection.scalars(select(SeriesRow.series_instance_uid).where(SeriesRow.id.in_(series))).all()
    convert_referring(connection, uids, now, "was deleted")
