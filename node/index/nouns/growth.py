"""What series have seen of the instances that were received: they grow, and wait until they are quiet again."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import JSON, Connection, bindparam, case, select, update

from node.index.engine.backend import Overtaken
from node.index.engine.hot_statements import Prepared
from node.index.engine.sql import looked_up_in
from node.index.models import OPEN_STATES, SeriesRow
from node.index.nouns.performed_series import is_all_here, listed_series
from node.index.nouns.reopening import revoke_claim
from node.index.nouns.waits import Waits, after_received, due_at
from node.index.records import Received


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
_SERIES_GREW = Prepared(
    update(SeriesRow)
    .where(SeriesRow.id == bindparam("series"))
    .values(
        receptions=SeriesRow.receptions + bindparam("count"),
        open_since=case((SeriesRow.open_since < _FIRST, SeriesRow.open_since), else_=_FIRST),
        last_received_at=case((SeriesRow.last_received_at > _LAST, SeriesRow.last_received_at), else_=_LAST),
        due_at=bindparam("due"),
        waits=bindparam("waits", type_=SeriesRow.waits.type),
        attempts=0,
        # A series under conversion stays claimed; its outcome finds that `receptions` has grown and makes it due again.
        state=case((SeriesRow.state == "converting", "converting"), else_="receiving"),
    )
)

_HOLD_WAITS = Prepared(
    select(SeriesRow.id, SeriesRow.state, SeriesRow.waits)
    .where(looked_up_in(SeriesRow.id, bindparam("ids", type_=JSON)))
    .order_by(SeriesRow.id)
    .with_for_update(key_share=True)  # others insert images of the series meanwhile
)
_SERIES_ALIVE = Prepared(
    update(SeriesRow)
    .where(SeriesRow.id == bindparam("series"))
    .values(due_at=bindparam("due"), waits=bindparam("waits", type_=SeriesRow.waits.type))
)


def record_growth(connection: Connection, seen: Sequence[Seen]) -> None:
    """Let series wait for what follows the instances that they have seen; those that have grown are open again.

    Raises
    ------
    Overtaken
        Another writer has deleted one of them meanwhile.
    """
    grown: dict[int, _Growth] = {}
    for one in seen:
        grown.setdefault(one.series_id, _Growth()).add(one)
    if not grown:
        return
    rows = {id: (state, waits) for id, state, waits in _HOLD_WAITS.execute(connection, {"ids": list(grown)})}
    if len(rows) < len(grown):
        raise Overtaken("another writer has deleted the series of an instance meanwhile")
    uids = {growth.last.attributes.series_instance_uid for growth in grown.values() if growth.last}
    listed = listed_series(connection, uids) if uids else set()
    alive, grew = [], []
    for series_id in sorted(grown):
        growth = grown[series_id]
        state, stored = rows[series_id]
        if growth.last is None and state not in OPEN_STATES:
            continue
        waits = growth.waits_after(json.loads(stored) if stored else {})
        values = {"series": series_id, "due": due_at(waits), "waits": waits}
        if growth.first is None or growth.last is None:
            alive.append(values)
            continue
        attributes, last = growth.last.attributes, growth.last.file.received_at
        study, series = attributes.study_instance_uid, attributes.series_instance_uid
        if series in listed and is_all_here(connection, series_id, study, series):
            values |= {"due": last, "waits": None}
        grew.append(values | {"count": growth.count, "first": growth.first.file.received_at, "last": last})
    _SERIES_ALIVE.execute_each(connection, alive)
    _SERIES_GREW.execute_each(connection, grew)
    for series_id, growth in grown.items():
        if growth.replaced:
            revoke_claim(connection, series_id)
