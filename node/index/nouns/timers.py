"""The timers of an index: what follows a step of the system clock.

A moment in a row means a wait that began when the row was written. If the clock is stepped, every such moment is moved
by the step, so that no wait changes its length: of series and studies, and of what the ledger owes. Several hosts
follow the clock of their database instead: none of them moves the timers of all.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection, Row, select, update

from node.index.engine.writer import IndexRepository, on_writer
from node.index.models.levels import OPEN_STATES, SeriesRow, StudyRow
from node.index.models.work import OpenAssociationRow, WorkRow
from node.index.nouns.awaited_senders import replace_waits, waits_of
from node.quiet import Waits, last_sign, shifted
from node.runtime.background import MAX_WAIT_SECONDS


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
