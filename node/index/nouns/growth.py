"""What series have seen of the instances that were received: they grow, and wait until they are quiet again.

How long is what `node.quiet` says. A series whose instances an
ended performed procedure step lists is due as soon as all of them are stored (PS3.4 F.7.2).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import JSON, Connection, bindparam, case, func, or_, select, update

from node.completeness import Performed, performed
from node.index.engine.backend import Overtaken
from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.sql import looked_up_in
from node.index.models.history import PerformedSeriesRow
from node.index.models.levels import OPEN_STATES, ImageRow, SeriesRow
from node.index.nouns.records import Received
from node.index.nouns.reopening import revoke_claim
from node.index.nouns.waits import note_open, replace_waits, waits_of
from node.quiet import Waits, after_received, due_at

_LISTS = PreparedStatement(
    select(PerformedSeriesRow.sop_instance_uids).where(
        PerformedSeriesRow.series_instance_uid == bindparam("series"),
        or_(
            PerformedSeriesRow.study_instance_uid == bindparam("study"), PerformedSeriesRow.study_instance_uid.is_(None)
        ),
    )
)
_LISTED = PreparedStatement(
    select(PerformedSeriesRow.series_instance_uid).where(
        looked_up_in(PerformedSeriesRow.series_instance_uid, bindparam("uids", type_=JSON))
    )
)
_COUNT = PreparedStatement(select(func.count()).where(ImageRow.series_id == bindparam("id")))
_STORED = PreparedStatement(select(ImageRow.sop_instance_uid).where(ImageRow.series_id == bindparam("id")))


def performed_of(
    connection: Connection, series_id: int, study_instance_uid: str, series_instance_uid: str
) -> Performed | None:
    """Compare what is listed of a series with what is stored; None if no ended step lists it."""
    listed = _listed(connection, study_instance_uid, series_instance_uid)
    return performed(listed, _stored(connection, series_id)) if listed else None


def listed_series(connection: Connection, series_instance_uids: Collection[str]) -> set[str]:
    """Return which of some Series Instance UIDs steps list; asked for each batch that is received.

    The rows of the series are locked before: a step that ends at the same time is seen here, or sees what is received.
    """
    return {uid for (uid,) in _LISTED.execute(connection, {"uids": list(series_instance_uids)})}


def is_all_here(connection: Connection, series_id: int, study_instance_uid: str, series_instance_uid: str) -> bool:
    """Return whether a step lists a series, and every listed instance is stored."""
    listed = _listed(connection, study_instance_uid, series_instance_uid)
    if not listed or _COUNT.execute(connection, {"id": series_id}).fetchone()[0] < len(listed):
        return False
    return listed <= _stored(connection, series_id)


def _listed(connection: Connection, study_instance_uid: str, series_instance_uid: str) -> set[str]:
    """Return the SOP Instance UIDs of all lists: two steps may make one series."""
    rows = _LISTS.execute(connection, {"study": study_instance_uid, "series": series_instance_uid})
    return {uid for (uids,) in rows for uid in json.loads(uids)}


def _stored(connection: Connection, series_id: int) -> set[str]:
    return {uid for (uid,) in _STORED.execute(connection, {"id": series_id})}


class Seen(NamedTuple):
    """An instance that a series has seen; `counts` unless it was there already."""

    series_id: int
    received: Received
    counts: bool = False
    replaces: bool = False


@dataclass(slots=True)
class _Growth:
    """The instances of a batch that belong to one series, by their reception: a host may be late.

    `first`, `last` and `count` are without those that were there already.
    """

    senders: dict[str, Received] = field(default_factory=dict)  # the last instance of each
    began_at: dict[str, dt.datetime] = field(default_factory=dict)  # the last association of each that began
    associations: dict[str, Received] = field(default_factory=dict)  # the last instance of each that is open
    first: Received | None = None
    last: Received | None = None
    count: int = 0
    replaced: bool = False

    def add(self, one: Seen) -> None:
        """Note an instance."""
        received, sender, moment = one.received, one.received.file.calling_ae_title, one.received.file.received_at
        began_at = received.began_at or moment
        self.senders[sender] = _later(self.senders.get(sender), received)
        self.began_at[sender] = max(began_at, self.began_at.get(sender, began_at))
        if received.association:
            self.associations[received.association] = _later(self.associations.get(received.association), received)
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
            waits = after_received(waits, sender, quiet_at, self.began_at[sender], moment)
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
        due_at=bindparam("due"),
        attempts=0,
        error=None,
        # A series under conversion stays claimed; its outcome finds that `receptions` has grown and makes it due again.
        state=case((SeriesRow.state == "converting", "converting"), else_="receiving"),
    )
)

_HOLD = PreparedStatement(
    select(SeriesRow.id, SeriesRow.state)
    .where(looked_up_in(SeriesRow.id, bindparam("ids", type_=JSON)))
    .order_by(SeriesRow.id)
    .with_for_update(key_share=True)  # others insert images of the series meanwhile
)
_SERIES_ALIVE = PreparedStatement(
    update(SeriesRow).where(SeriesRow.id == bindparam("series")).values(due_at=bindparam("due"))
)


def record_growth(connection: Connection, seen: Sequence[Seen], host: str = "") -> None:
    """Let series wait for what follows the instances that they have seen; those that have grown are open again.

    `host`: the one that has received them, if several share the index.

    Raises Overtaken if another writer has deleted one of them meanwhile.
    """
    grown: dict[int, _Growth] = {}
    for one in seen:
        grown.setdefault(one.series_id, _Growth()).add(one)
    if not grown:
        return
    states = dict(_HOLD.execute(connection, {"ids": list(grown)}).fetchall())
    if len(states) < len(grown):
        raise Overtaken("another writer has deleted the series of an instance meanwhile")
    waits = waits_of(connection, grown)
    uids = {growth.last.attributes.series_instance_uid for growth in grown.values() if growth.last}
    listed = listed_series(connection, uids) if uids else set()
    alive, grew = [], []
    changes: dict[int, tuple[Waits, Waits]] = {}
    for series_id in sorted(grown):
        growth = grown[series_id]
        if growth.last is None and states[series_id] not in OPEN_STATES:
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
    note_open(
        connection,
        host,
        {
            (association, series_id): (last.file.calling_ae_title, last.file.received_at)
            for series_id, growth in grown.items()
            for association, last in growth.associations.items()
        },
    )
    for series_id, growth in grown.items():
        if growth.replaced:
            revoke_claim(connection, series_id)
