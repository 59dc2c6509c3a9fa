"""What open series wait for: the rows of what `node.quiet` says, when a series is due, and the clock behind it.

A series awaits senders (``awaited_senders``). One that awaits nobody is due for another reason than quiet, such as a
count that is reached: no open association keeps it waiting. A closed series awaits nobody. Whoever changes these rows
holds the row of the series, and reads them after that: a statement that waits for a row of PostgreSQL sees the newest
state of that row alone.

While an association is open, more of the series that it has brought last is to be expected: the series is not quiet
until the association ends, brings another series, or is idle for `OPEN_SECONDS`. A row of ``open_associations`` stands
for a series of which an open association has brought an instance. It is written with the instance, and removed by the
record of the end (`node.index.nouns.association_ends`), which is in the journal before the release is answered. A row
that is left when a start has applied the journal is therefore of an association that the end of the process cut off.

A moment in a row means a wait that began when the row was written. If the clock is stepped, every such moment is moved
by the step, so that no wait changes its length: of series and studies, and of what the ledger owes. Several hosts
follow the clock of their database instead: none of them moves the timers of all.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import JSON, ColumnElement, Connection, Row, and_, bindparam, delete, exists, or_, select, update
from sqlalchemy.orm import aliased

from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.rows import IndexRepository, on_writer
from node.index.engine.sql import insert, looked_up_in
from node.index.models.levels import OPEN_STATES, SeriesRow, StudyRow
from node.index.models.work import AwaitedSenderRow, OpenAssociationRow, WorkRow
from node.quiet import Awaited, Waits, last_sign, shifted
from node.runtime.background import MAX_WAIT_SECONDS

OPEN_SECONDS = 60.0
"""How long an open association that sends nothing keeps its last series waiting."""

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


def note_open(connection: Connection, host: str, brought: Mapping[tuple[str, int], tuple[str, dt.datetime]]) -> None:
    """Note what open associations have just brought.

    `brought`: the calling AE title, and when the last instance came, by association and series.
    """
    if not brought:
        return
    rows = [
        {
            "host": host,
            "association": association,
            "series_id": series_id,
            "calling_ae_title": title,
            "open_until": received_at + dt.timedelta(seconds=OPEN_SECONDS),
        }
        for (association, series_id), (title, received_at) in brought.items()
    ]
    new = insert(OpenAssociationRow)
    known = new.on_conflict_do_update(
        index_elements=["host", "association", "series_id"], set_={"open_until": new.excluded.open_until}
    )
    connection.execute(known, rows)


def is_being_brought(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition that an open association is bringing instances of a series."""
    row, later = OpenAssociationRow, aliased(OpenAssociationRow)
    others = select(later.id).where(
        later.host == row.host, later.association == row.association, later.open_until > row.open_until
    )
    return select(row.id).where(row.series_id == SeriesRow.id, row.open_until > now, ~others.exists()).exists()


def is_due(now: dt.datetime, longest_wait: dt.timedelta | None) -> ColumnElement[bool]:
    """Return the condition that a series is due: it is quiet, or for another reason, such as a count that is reached.

    A series that an open association is bringing is not quiet.
    """
    due = and_(SeriesRow.due_at <= now, or_(~is_awaiting(), ~is_being_brought(now)))
    if longest_wait is not None:
        due = or_(due, and_(SeriesRow.open_since <= now - longest_wait, SeriesRow.attempts == 0))
    return and_(SeriesRow.state == "receiving", due)


class TimerRepository(IndexRepository):
    """All timers of an index."""

    def shift(self, step: dt.timedelta) -> None:
        """Move all timers by a step of the system clock."""
        if self._sharing.host is None:
            self._shift(step)

    def correct(self, now: dt.datetime) -> None:
        """Move timers that are too far in the future, because the clock was set back while no node was running.

        Series wait from `now` on. What is tried again is due at once if it would have to wait longer than it ever does.
        """
        if self._sharing.host is None:
            self._correct(now)

    @on_writer
    def _shift(self, connection: Connection, step: dt.timedelta) -> None:
        open_series = connection.execute(select(SeriesRow).where(SeriesRow.state.in_(OPEN_STATES))).all()
        waits = waits_of(connection, [row.id for row in open_series])
        for row in open_series:
            _shift_series(connection, row, waits.get(row.id, {}), step)
        waiting = select(WorkRow.id, WorkRow.due_at).where(WorkRow.outcome.is_(None), WorkRow.due_at.is_not(None))
        for id, due_at in connection.execute(waiting).all():
            if due_at is not None:  # as the condition says, which the type checker cannot read
                connection.execute(update(WorkRow).where(WorkRow.id == id).values(due_at=due_at + step))
        closed = select(StudyRow.id, StudyRow.closed_at).where(StudyRow.closed_at.is_not(None))
        for study in connection.execute(closed).all():
            connection.execute(update(StudyRow).where(StudyRow.id == study.id).values(closed_at=study.closed_at + step))
        for one in connection.execute(select(OpenAssociationRow.id, OpenAssociationRow.open_until)).all():
            moved = update(OpenAssociationRow).where(OpenAssociationRow.id == one.id)
            connection.execute(moved.values(open_until=one.open_until + step))

    @on_writer
    def _correct(self, connection: Connection, now: dt.datetime) -> None:
        is_waiting = SeriesRow.state.in_(OPEN_STATES), SeriesRow.due_at > now
        waiting = connection.execute(select(SeriesRow).where(*is_waiting)).all()
        waits = waits_of(connection, [row.id for row in waiting])
        for row in waiting:
            its = waits.get(row.id, {})
            begun = last_sign(its) or row.last_received_at  # which `shift` does not move
            if begun > now:
                _shift_series(connection, row, its, now - begun)
        # No work ever waits longer; a job waits for others, as long as it takes.
        longest = now + dt.timedelta(seconds=MAX_WAIT_SECONDS)
        late = WorkRow.state == "waiting", WorkRow.kind != "job", WorkRow.due_at > longest
        connection.execute(update(WorkRow).where(*late).values(due_at=now))
        connection.execute(update(StudyRow).where(StudyRow.closed_at > now).values(closed_at=now))


def _shift_series(connection: Connection, row: Row[Any], waits: Waits, step: dt.timedelta) -> None:
    moments = {name: getattr(row, name) for name in ("due_at", "open_since")}
    values: dict[str, Any] = {name: moment + step for name, moment in moments.items() if moment is not None}
    replace_waits(connection, {row.id: (waits, shifted(waits, step))})
    if values:
        connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(values))
