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


def status_table(*rows: tuple[str, int, str]) -> StatementTable:
    """Return a table of the statuses of services: service, status and meaning."""
    return table(
        ("Services", "Status", "Meaning"), [(name, f"0x{value:04X}", meaning) for name, value, meaning in rows]
    )


def parameters(values: Iterable[tuple[str, object]]) -> StatementTable:
    """Return a table of keys of the configuration and their values."""
    return table(("Parameter", "Value"), [(key, _shown(value)) for key, value in values])


def _shown(value: object) -> str:
    if value in (None, (), ""):
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
