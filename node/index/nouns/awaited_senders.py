"""The senders that open series await: the rows of what `node.quiet` says.

A series that awaits nobody is due for another reason than quiet, such as a count that is reached: no open association
keeps it waiting. A closed series awaits nobody.

Whoever changes these rows holds the row of the series, and reads them after that: a statement that waits for a row of
PostgreSQL sees the newest state of that row alone.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping

from sqlalchemy import JSON, ColumnElement, Connection, bindparam, delete, exists, select

from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.sql import insert, looked_up_in
from node.index.models.levels import SeriesRow
from node.index.models.work import AwaitedSenderRow
from node.quiet import Awaited, Waits

_KEY = "series_id", "calling_ae_title"
_ROWS = PreparedStatement(
    select(*(getattr(AwaitedSenderRow, name) for name in (*_KEY, *Awaited._fields))).where(
        looked_up_in(AwaitedSenderRow.series_id, bindparam("ids", type_=JSON))
    )
)
_NEW = insert(AwaitedSenderRow)
_AWAIT = PreparedStatement(
    _NEW.on_conflict_do_update(index_elements=_KEY, set_={name: _NEW.excluded[name] for name in Awaited._fields}),
    (*_KEY, *Awaited._fields),
)
_AWAIT_NO_MORE = PreparedStatement(
    delete(AwaitedSenderRow).where(
        AwaitedSenderRow.series_id == bindparam("series"), AwaitedSenderRow.calling_ae_title == bindparam("sender")
    )
)


def waits_of(connection: Connection, series: Collection[int]) -> Mapping[int, Waits]:
    """Return what each of some series awaits; nothing of those that await nobody."""
    waits: dict[int, dict[str, Awaited]] = defaultdict(dict)
    for series_id, sender, *moments in _ROWS.execute(connection, {"ids": list(series)}):
        waits[series_id][sender] = Awaited(*map(_moment, moments))
    return waits


def _moment(text: str | None) -> dt.datetime | None:
    return None if text is None else dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def replace_waits(connection: Connection, changes: Mapping[int, tuple[Waits, Waits]]) -> None:
    """Let series await something else: before and after, by series."""
    over = [
        {"series": series_id, "sender": sender}
        for series_id, (before, after) in changes.items()
        for sender in before.keys() - after.keys()
    ]
    now = [
        {"series_id": series_id, "calling_ae_title": sender, **its._asdict()}
        for series_id, (before, after) in changes.items()
        for sender, its in after.items()
        if before.get(sender) != its
    ]
    _AWAIT_NO_MORE.execute_each(connection, over)
    _AWAIT.execute_each(connection, now)


def await_nobody(connection: Connection, series_id: int) -> None:
    """Let a series await nobody any more."""
    connection.execute(delete(AwaitedSenderRow).where(AwaitedSenderRow.series_id == series_id))


def is_awaiting() -> ColumnElement[bool]:
    """Return the condition that a series awaits a sender."""
    return exists().where(AwaitedSenderRow.series_id == SeriesRow.id)
