"""Timers: the moments in rows at which something is due, and what a step of the system clock does to them.

A moment in a row means a wait that began when the row was written. If the clock is stepped, every such moment is moved
by the step, so that no wait changes its length: of series and studies, of messages to hooks and their jobs, of storage
commitments. Several hosts follow the clock of their database instead: none of them moves the timers of all.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection, Row, select, update

from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import OPEN_STATES, SeriesRow, StudyRow
from node.index.nouns.growth import last_sign, shifted
from node.index.work.ledger import correct_due, shift_due
from node.retries import MAX_WAIT_SECONDS


class TimerRepository(IndexRepository):
    """All timers of an index."""

    def shift(self, step: dt.timedelta) -> None:
        """Move all timers by a step of the system clock."""
        if self._turn.host is None:
            self._shift(step)

    def correct(self, now: dt.datetime) -> None:
        """Move timers that are too far in the future, because the clock was set back while no node was running.

        Series wait from `now` on. What is tried again is due at once if it would have to wait longer than it ever does.
        """
        if self._turn.host is None:
            self._correct(now)

    @on_writer
    def _shift(self, connection: Connection, step: dt.timedelta) -> None:
        for row in connection.execute(select(SeriesRow).where(SeriesRow.state.in_(OPEN_STATES))).all():
            _shift_series(connection, row, step)
        shift_due(connection, step)
        closed = select(StudyRow.id, StudyRow.closed_at).where(StudyRow.closed_at.is_not(None))
        for study in connection.execute(closed).all():
            connection.execute(update(StudyRow).where(StudyRow.id == study.id).values(closed_at=study.closed_at + step))

    @on_writer
    def _correct(self, connection: Connection, now: dt.datetime) -> None:
        waiting = select(SeriesRow).where(SeriesRow.state.in_(OPEN_STATES), SeriesRow.due_at > now)
        for row in connection.execute(waiting).all():
            # `shift` moves the waits, and not when an instance was received.
            begun = last_sign(row.waits or {}) or row.last_received_at
            if begun > now:
                _shift_series(connection, row, now - begun)
        longest = now + dt.timedelta(seconds=MAX_WAIT_SECONDS)
        correct_due(connection, longest, now)
        connection.execute(update(StudyRow).where(StudyRow.closed_at > now).values(closed_at=now))


def _shift_series(connection: Connection, row: Row[Any], step: dt.timedelta) -> None:
    moments = {name: getattr(row, name) for name in ("due_at", "open_since")}
    values: dict[str, Any] = {name: moment + step for name, moment in moments.items() if moment is not None}
    if row.waits:
        values["waits"] = shifted(row.waits, step)
    if values:
        connection.execute(update(SeriesRow).where(SeriesRow.id == row.id).values(values))
