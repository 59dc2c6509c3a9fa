"""Tables of a conformance statement (PS3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StatementTable:
    """Rows of cells below the names of their columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> StatementTable:
    """Return a table whose cells are text; each row must be as long as `columns`."""
    cells = tuple(tuple(str(cell) for cell in row) for row in rows)
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells below {len(columns)} columns: {row}")
    return StatementTable(tuple(columns), cells)


def merged(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return rows with those joined that differ in their first cell only."""
    found: dict[tuple[str, ...], list[str]] = {}
    for first, *others in rows:
        found.setdefault(tuple(others), []).append(first)
    return [(", ".join(dict.fromkeys(firsts)), *others) for others, firsts in found.items()]
