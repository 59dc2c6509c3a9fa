"""What retention has seen of the clock and asks about receipts, and how a person confirms that the clock is right."""

import datetime as dt
import json
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, or_, select, update

from node.index.engine.about_keys import RETENTION, RETENTION_CONFIRMED, RetentionState, look_of, retention_state
from node.index.engine.rows import IndexRepository, about, on_reader, on_writer, reads, set_about
from node.index.models.history import TombstoneRow
from node.index.models.levels import ImageRow, SeriesRow

MAX_STALENESS = dt.timedelta(hours=1)
"""How far the clock may be from the newest look at it: somebody looks every few seconds while a node runs."""


@dataclass(frozen=True, slots=True)
class Receipts:
    """Of the instances behind one: the number of the newest, and the first and the last time of reception.

    What was found as a file, and not received, does not count: its time is that of the file.
    """

    image: int
    oldest: dt.datetime | None
    newest: dt.datetime | None


def newest_look(connection: Connection) -> dt.datetime | None:
    """Return the newest time that the clock showed and that nothing contradicted; None: nobody has looked."""
    last = retention_state(about(connection, RETENTION)).last
    return last.at if last is not None else None


def old_before(connection: Connection, now: dt.datetime, keep_time: dt.timedelta) -> dt.datetime | None:
    """Return when what is kept for a time, and may go now, is from; None: nothing goes while the clock is in doubt.

    For its time after a person has confirmed the clock, nothing goes either: nobody knows how old it is.
    """
    state, before = retention_state(about(connection, RETENTION)), now - keep_time
    if not state.is_free or (state.last is not None and abs(now - state.last.at) > MAX_STALENESS):
        return None
    confirmed = json.loads(about(connection, RETENTION_CONFIRMED) or "null")
    return None if confirmed and look_of(confirmed["look"]).at > before else before


class RetentionRepository(IndexRepository):
    """Receipts, and confirmations of a person."""

    old_before = reads(old_before)

    @on_reader
    def state(self, connection: Connection) -> RetentionState:
        """Return what retention has seen, and what it waits for."""
        return retention_state(about(connection, RETENTION))

    @on_reader
    def receipts(self, connection: Connection, after: int) -> Receipts:
        """Return what was received behind the instance with the number `after`."""
        times = select(func.min(ImageRow.received_at), func.max(ImageRow.received_at)).where(
            ImageRow.id > after, ImageRow.source != "recovered"
        )
        oldest, newest = connection.execute(times).one()
        image = connection.scalar(select(func.max(ImageRow.id)).where(ImageRow.id >= after))
        return Receipts(image or after, oldest, newest)

    @on_writer
    def hold(self, connection: Connection, reason: str, now: dt.datetime) -> None:
        """Let nothing be deleted by its age until a person has confirmed, for another reason than the clock."""
        state = retention_state(about(connection, RETENTION))
        reasons = dict.fromkeys([*([state.held] if state.held else []), reason])
        held = replace(state, held="; ".join(reasons), held_at=now, asked=None, approved=0)
        set_about(connection, RETENTION, held.encoded())

    @on_writer
    def confirm(
        self,
        connection: Connection,
        after: int | None,
        now: dt.datetime,
        confirmation: str,
        trash_until: dt.datetime | None = None,
    ) -> int:
        """Store a confirmation that the clock is right; return how many series count as received at `now`.

        These are the series that were received behind the instance with the number `after`, while the clock was in
        doubt, and those with a receipt in the future: nobody knows when they came, only that it was before `now`. Nor
        does anybody know for how long a deletion has been in the trash: each stays until `trash_until`, if that is
        given.
        """
        doubtful = SeriesRow.last_received_at > now
        if after is not None:
            doubtful = or_(doubtful, SeriesRow.id.in_(select(ImageRow.series_id).where(ImageRow.id > after)))
        changed = connection.execute(update(SeriesRow).where(doubtful).values(last_received_at=now))
        if trash_until is not None:
            in_trash = TombstoneRow.content.is_not(None)
            connection.execute(update(TombstoneRow).where(in_trash).values(trash_until=trash_until))
        set_about(connection, RETENTION_CONFIRMED, confirmation)
        return changed.rowcount
