"""Tables of a data set: text separated by tabs, whose rows and columns that others added stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

MISSING = "n/a"

Rows = dict[str, dict[str, str]]
"""Rows by the value of their first column."""


def read_table(file: Path, key: str) -> tuple[list[str], Rows]:
    """Return columns and rows of a table; a missing file is a table with the column `key` and no rows."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        lines = []
    cells = [line.split("\t") for line in lines if line.strip()]
    if not cells or key not in cells[0]:
        return [key], {}
    columns, place = cells[0], cells[0].index(key)
    rows = [row + [MISSING] * (len(columns) - len(row)) for row in cells[1:]]
    return columns, {row[place]: dict(zip(columns, row, strict=False)) for row in rows}


def table_text(columns: Iterable[str], rows: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return a table with its rows in the order of their keys; cells without a value are ``n/a``."""
    columns = list(columns)
    lines = ["\t".join(columns)]
    lines += ["\t".join(rows[key].get(column) or MISSING for column in columns) for key in sorted(rows)]
    return ("\n".join(lines) + "\n").encode()


def with_columns(columns: list[str], added: Iterable[str]) -> list[str]:
    """Return columns with those of `added` that are not among them, at the end."""
    return [*columns, *(column for column in added if column not in columns)]
