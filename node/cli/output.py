"""Output of commands: JSON for programs, tables for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def stop_printing() -> None:
    """Discard all further output, because its reader is gone (after a `BrokenPipeError`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    """Print `value` as indented JSON, with times in ISO 8601 and paths as text."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=_plain)
    print()


def host_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return name, state, last sign of life, roles and version of a host, and how many instances it alone has."""
    return (
        row["name"],
        "not ready" if row["state"] == "alive" and row["not_ready"] else row["state"],
        minute(row["seen_at"]),
        ", ".join(row["roles"]),
        row["version"],
        str(row["spooled_instances"] or ""),
    )


def report_problems(path: object, problems: Sequence[str], none: str, as_json: bool) -> None:
    """Print the problems of a file, or the text `none`.

    Raises
    ------
    Exit
        With status 1 if there are problems.
    """
    if as_json:
        print_json({"path": str(path), "ok": not problems, "problems": problems})
    else:
        print("\n".join(problems) or f"{path}: {none}")
    if problems:
        raise typer.Exit(1)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print `rows` under `columns`; numbers are right-aligned, and cells are plain text, not markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    cells = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numbers = bool(cells) and all(isinstance(row[index], int | float | None) for row in cells)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    console().print(table)


GAP = "  "

UID_END = 10
"""Characters at the end of a UID that are shown: its beginning is that of the manufacturer."""


def print_fitted(title: str, columns: Mapping[str, int], rows: Iterable[Sequence[Any]]) -> None:
    """Print `rows` in lines of one length; a cell that is longer than its column ends in an ellipsis.

    Parameters
    ----------
    columns : mapping of name to width
        Widths in characters of a terminal, of which letters of Chinese and Japanese take two.
    """
    print(title)
    print(GAP.join(_fitted(name, width) for name, width in columns.items()).rstrip())
    for row in rows:
        cells = zip(row, columns.values(), strict=True)
        print(GAP.join(_fitted(_cell(cell), width, isinstance(cell, int)) for cell, width in cells).rstrip())


def _fitted(text: str, width: int, right: bool = False) -> str:
    if _width(text) > width:
        while _width(text) > width - 1:
            text = text[:-1]
        text += "\N{HORIZONTAL ELLIPSIS}"
    padding = " " * (width - _width(text))
    return padding + text if right else text + padding


def _width(text: str) -> int:
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def short_uid(uid: str) -> str:
    """Return the end of a UID, by which `voxelnode info` finds it."""
    return uid if len(uid) <= UID_END else f"..{uid[-UID_END + 2 :]}"


def person(name: str | None) -> str:
    """Return the first way in which a person's name is written, without carets: ``DOE JANE``."""
    return " ".join((name or "").split("=")[0].replace("^", " ").split())


def minute(moment: str | datetime | None) -> str:
    """Return a time in ISO 8601 up to the minute."""
    text = moment.isoformat() if isinstance(moment, datetime) else moment or ""
    return text[:16].replace("T", " ")


def console() -> Console:
    """Return a console on the current standard output; without a terminal, lines are not wrapped."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print each name and its value on a line of its own."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name.ljust(width)}  {_cell(value)}")


def sized(count: float) -> str:
    """Return a number of bytes in readable form, such as ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return printable(str(_plain(value)) if isinstance(value, datetime | Path) else str(value))


def printable(text: str) -> str:
    r"""Return untrusted text for a terminal: control characters become escapes such as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
