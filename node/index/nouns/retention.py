"""What retention has seen of the clock and asks about receipts, and how a person confirms that the clock is right."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, func, or_, select, update

from node.index.engine.about import RETENTION, RETENTION_CONFIRMED, about, set_about
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import ImageRow, SeriesRow


@dataclass(frozen=True, slots=True)
class Uptime:
    """A start of the machine, and the seconds since then, with those in which it slept."""

    boot: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the clock: what it showed, the time since the start of the machine, and the newest instance then."""

    at: dt.datetime
    uptime: Uptime
    image: int


@dataclass(frozen=True, slots=True)
class RetentionState:
    """What retention has seen, and what it waits for.

    `last`: the last look at the clock that contradicted nothing. `held`: why nothing is deleted, since `held_at` by the
    clock in doubt. `asked`: how many studies a pass would delete. `approved`: how many a person has agreed to.
    `confirmation`: the last one that was followed.
    """

    last: Look | None = None
    held: str | None = None
    held_at: dt.datetime | None = None
    asked: int | None = None
    approved: int = 0
    confirmation: str = ""

    @property
    def waits_for(self) -> str | None:
        """What a person is to decide, in words, or None."""
        if self.held is not None:
            return f"{self.held}: nothing is deleted until `voxelnode retention confirm` says that the clock is right"
        if self.asked is not None:
            return (
                f"{self.asked} studies are due at once, an unusual number: `voxelnode retention confirm` deletes them"
            )
        return None

    def encoded(self) -> str:
        """Return the state as text for the index."""
        return json.dumps(asdict(self), default=dt.datetime.isoformat)


def retention_state(text: str | None) -> RetentionState:
    """Return the state that a text of the index holds."""
    content = json.loads(text or "{}")
    if not content:
        return RetentionState()
    held_at = content["held_at"] and dt.datetime.fromisoformat(content["held_at"])
    last = content["last"] and look_of(content["last"])
    return RetentionState(**{**content, "held_at": held_at, "last": last})


def look_of(fields: dict[str, Any]) -> Look:
    """Return the look that fields of JSON hold."""
    return Look(dt.datetime.fromisoformat(fields["at"]), Uptime(**fields["uptime"]), int(fields["image"]))


@dataclass(frozen=True, slots=True)
class Receipts:
    """Of the instances behind one: the number of the newest, and the first and the last time of reception.

    What was found as a file, and not received, does not count: its time is that of the file.
    """

    image: int
    oldest: dt.datetime | None
    newest: dt.datetime | None


class RetentionRepository(IndexRepository):
    """Receipts, and confirmations of a person."""

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
    def confirm(self, connection: Connection, after: int | None, now: dt.datetime, confirmation: str) -> int:
        """Store a confirmation that the clock is right; return how many series count as received at `now`.

        These are the series that were received behind the instance with the number `after`, while the clock was in
        doubt, and those with a receipt in the future: nobody knows when they came, only that it was before `now`.
        """
        doubtful = SeriesRow.last_received_at > now
        if after is not None:
            doubtful = or_(doubtful, SeriesRow.id.in_(select(ImageRow.series_id).where(ImageRow.id > after)))
        changed = connection.execute(update(SeriesRow).where(doubtful).values(last_received_at=now))
        set_about(connection, RETENTION_CONFIRMED, confirmation)
        return changed.rowcount
