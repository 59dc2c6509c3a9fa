"""Claims of the conformance statement: the rows of its tables, and what a check finds about one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from node.errors import VoxelnodeError

Outcome = Literal["held", "broken", "not checked"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One row: its cells by column, in the table of this name."""

    table: str
    row: Mapping[str, str]

    @property
    def text(self) -> str:
        """Return the cells that tell it from the other rows."""
        cells = [cell for cell in self.row.values() if cell]
        return " | ".join(cell if len(cell) <= 70 else f"{cell[:69]}…" for cell in cells[:4])


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and why if the claim is not held; a detail of a held one says what was seen."""

    outcome: Outcome
    detail: str = ""


HELD = Finding("held")


@dataclass(frozen=True, slots=True)
class NotChecked:
    """In place of a check: why there is none."""

    reason: str


class Unchecked(VoxelnodeError):
    """A check cannot be made here; the message says why."""


def held_if(holds: bool, otherwise: str) -> Finding:
    """Return whether a claim holds, and what was seen instead if it does not."""
    return HELD if holds else Finding("broken", otherwise)
