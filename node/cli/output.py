"""Output of commands: JSON for programs, tables for people.

A listing declares its columns: each name with where its cell comes from, and its width in lines of one length.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from node.errors import UsageError, VoxelnodeError

if TYPE_CHECKING:
    from rich.console import Console


Cell = str | Callable[[Any], Any]
"""Where a cell comes from: a key of the row, or a function of it."""

Columns = dict[str, Cell]
Fitted = dict[str, tuple[int, Cell]]
"""Columns, of lines of one length with their widths."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answers.

    Attributes
    ----------
    data
        What ``--json`` prints.
    text
        What people read, a function that prints it, or an error, which they read as that of any command.
    failed
        Whether the exit status is 1, or 2 for a usage error.
    """

    data: Any
    text: str | Callable[[], None] | VoxelnodeError
    failed: bool = False

    def show(self, as_json: bool = False) -> None:
        """Print the answer, and exit if the command failed."""
        if as_json:
            print_json(self.data)
        elif isinstance(self.text, VoxelnodeError):
            raise self.text
        elif callable(self.text):
            self.text()
        else:
            print(self.text)
        if self.failed:
            raise typer.Exit(2 if isinstance(self.text, UsageError) else 1)


def listing(
    title: str,
    columns: Mapping[str, Cell],
    rows: Sequence[Any],
    *,
    none: str = "",
    data: Any = None,
    failed: bool = False,
) -> Answer:
    """Return rows as a table; `none` stands for a table without rows, and `data` for the rows in JSON."""
    return Answer(
        rows if data is None else data,
        none if none and not rows else lambda: print_table(title, tuple(columns), _cells(columns.values(), rows)),
        failed,
    )


def fitted(
    title: str,
    columns: Mapping[str, tuple[int, Cell]],
    rows: Sequence[Any],
    *,
    data: Any = None,
    below: Iterable[str] = (),
) -> Answer:
    """Return rows as lines of one length, with the width of each column, and lines below them."""

    def show() -> None:
        widths = {name: width for name, (width, _) in columns.items()}
        print_fitted(title, widths, _cells([cell for _, cell in columns.values()], rows))
        for line in below:
            print(line)

    return Answer(rows if data is None else data, show)


def _cells(columns: Iterable[Cell], rows: Iterable[Any]) -> list[list[Any]]:
    return [[cell(row) if callable(cell) else row[cell] for cell in columns] for row in rows]


def stop_printing() -> None:
    """Discard all further output, because its reader is gone (after a `BrokenPipeError`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    """Print `value` as indented JSON, with times in ISO 8601 and paths as text."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=_plain)
    print()


def problems_of(path: object, problems: Sequence[str], none: str) -> Answer:
    """Return the problems of a file, or the text `none`; the command fails if there are any."""
    data = {"path": str(path), "ok": not problems, "problems": problems}
    return Answer(data, "\n".join(problems) or f"{path}: {none}", failed=bool(problems))


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

    `columns`: widths in characters of a terminal, of which letters of Chinese and Japanese take two.
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


def patient(row: Mapping[str, Any]) -> str:
    """Return the name of the patient of a row, else the Patient ID."""
    return person(row["patient_name"]) or row["patient_id"]


def series_name(row: Mapping[str, Any]) -> str:
    """Return the series of a row as people name it, if it is still there, else the end of its UID."""
    named = (row["series_number"], row["series_description"] or row["modality"])
    series = " ".join(str(part) for part in named if part is not None)
    return series or short_uid(row["series_instance_uid"] or "")


def optional(key: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what gives the value of a row under `key`, which not every row has."""
    return lambda row: row.get(key)


def minute_of(key: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what gives the time of a row under `key`, up to the minute."""
    return lambda row: minute(row[key])


def minute(moment: str | datetime | None) -> str:
    """Return a time in ISO 8601 up to the minute."""
    text = moment.isoformat() if isinstance(moment, datetime) else moment or ""
    return text[:16].replace("T", " ")


def console() -> Console:
    """Return a console on the current standard output; without a terminal, lines are not wrapped."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160)


@contextmanager
def progress_bar(task: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal; yield the function that advances it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        number = bar.add_task(task, total=total)
        yield lambda: bar.advance(number)


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
