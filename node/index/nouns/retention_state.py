"""What retention has seen of the clock and asks about receipts, as the index keeps it."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Uptime:
    """A start of the machine, and the seconds since then, with those in which it slept."""

    boot: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ClockLook:
    """A look at the clock: what it showed, the time since the start of the machine, and the newest instance then."""

    at: dt.datetime
    uptime: Uptime
    image: int


@dataclass(frozen=True, slots=True)
class RetentionState:
    """What retention has seen, and what it waits for.

    `last`: the last look at the clock that contradicted nothing. `held`: why nothing is deleted, since `held_at`: the
    clock is in doubt, or labels are lost. `asked`: how many studies a pass would delete. `approved`: how many a person
    has agreed to. `confirmation`: the last one that was followed. `differs`: what the hosts of the index do not agree
    about.
    """

    last: ClockLook | None = None
    held: str | None = None
    held_at: dt.datetime | None = None
    asked: int | None = None
    approved: int = 0
    confirmation: str = ""
    differs: str | None = None

    @property
    def is_free(self) -> bool:
        """Whether anything may be deleted by its age."""
        return self.held is None and self.differs is None

    @property
    def waits_for(self) -> str | None:
        """What a person is to decide, in words, or None."""
        if self.held is not None:
            return f"{self.held}: nothing is deleted until a person confirms by `voxelnode retention confirm`"
        if self.differs is not None:
            return f"{self.differs}: nothing is deleted until the hosts agree"
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


def look_of(fields: dict[str, Any]) -> ClockLook:
    """Return the look that fields of JSON hold."""
    return ClockLook(dt.datetime.fromisoformat(fields["at"]), Uptime(**fields["uptime"]), int(fields["image"]))
