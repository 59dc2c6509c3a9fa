"""Output of commands: JSON for programs, tables for people.

A listing declares its columns: each name with where its cell comes from.
"""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, TypeVar

import typer

from node.errors import UsageError, VoxelnodeError, counted

Cell = str | Callable[[Any], Any]
"""Where a cell comes from: a key of the row, or a function of it. A key that ends in ``_at`` is that of a time."""

Columns = dict[str, Cell]

Item = TypeVar("Item")

MAX_NAMED_FILES = 20
"""Maximum number of lines about skipped or refused files."""

MAX_OF_A_REASON = 5
"""Files with one reason that have a line each."""

_UNUSUAL = re.compile(r"[^\n -~]")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answers.

    `data`: what ``--json`` prints. People read its ``holders`` as well: who else has what was decided about.
    `text`: what people read, a function that prints it, or an error, which they read as that of any command.
    `failed`: whether the exit status is 1, or 2 for a usage error.
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
        for one in self.data.get("holders", ()) if isinstance(self.data, dict) and not as_json else ():
            named = f" as {one['patient_id']}" if one["patient_id"] else ""
            what = f"{one['how']}, last {one['last_at'][:19]}; {one['remedy']}"
            print(printable(f"  {one['who']} has it{named}: {what}"))
        self._exit_if_failed()

    def _exit_if_failed(self) -> None:
        if self.failed:
            raise typer.Exit(2 if isinstance(self.text, UsageError) else 1)


@dataclass(frozen=True, slots=True)
class Listing(Answer):
    """Rows: a table for people, and lines of fields for programs.

    `rows`: what ``--tsv`` prints: the names of the fields, and a line for each row; nothing without rows.
    `left_out`: how many of how many rows are there, if others are left out; programs find it on stderr.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    left_out: str = ""

    def show_tsv(self) -> None:
        """Print the rows with a tab between fields; a tab or the end of a line within a field becomes an escape."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        for fields in (names, *([_field(row.get(name)) for name in names] for row in self.rows)) if self.rows else ():
            print("\t".join(fields))
        self._exit_if_failed()


def listing(
    title: str,
    columns: Mapping[str, Cell],
    rows: Sequence[Mapping[str, Any]],
    *,
    none: str = "",
    data: Any = None,
    failed: bool = False,
    below: Iterable[str] = (),
    cut: Collection[str] = (),
) -> Listing:
    """Return rows as a table; without rows `none`, or the title, stands for it. `data` are the rows in JSON.

    `cut`: see `print_table`.
    """

    def show() -> None:
        if not rows:
            print(none or title)
        else:
            print_table(title, tuple(columns), [[_of(row, cell) for cell in columns.values()] for row in rows], cut)
        for line in below:
            print(line)

    return Listing(rows if data is None else data, show, failed, rows)


def newest(shown: int, total: int, one: str, many: str | None = None) -> str:
    """Return how many rows a list has, such as ``3 series``, or ``the newest 3 of 152 series`` if it has more."""
    return f"the newest {shown} of {counted(total, one, many)}" if shown < total else counted(total, one, many)


def bounded(shown: Listing, title: str, total: int) -> Listing:
    """Return a listing of the newest rows of a list, whose JSON has the `total`, and whose `title` says `newest`."""
    data = {"total": total, "items": shown.data}
    return replace(shown, data=data, left_out=title if len(shown.rows) < total else "")


def described(data: Mapping[str, Any], text: Callable[[], None], *, failed: bool = False) -> Listing:
    """Return what is known of one thing; ``--tsv`` has a line for each fact, named by the path to it in the JSON."""
    return Listing(data, text, failed, [{"name": name, "value": value} for name, value in _leaves("", data)])


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        inner = ((str(name), one) for name, one in value.items())
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        inner = ((str(number), one) for number, one in enumerate(value))
    else:
        yield path, value
        return
    for name, one in inner:
        yield from _leaves(f"{path}.{name}" if path else name, one)


def _of(row: Mapping[str, Any], cell: Cell) -> Any:
    return cell(row) if callable(cell) else _shown(cell, row[cell])


def _shown(name: str, value: Any) -> Any:
    return minute(value) if name.endswith("_at") else value


def stop_printing() -> None:
    """Discard all further output, because its reader is gone (after a `BrokenPipeError`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    """Print `value` as indented JSON, with times in ISO 8601 and paths as text.

    Characters that steer a terminal or turn the order of what stands beside them become escapes of JSON.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
    print(_UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text))


def problems_of(path: object, problems: Sequence[str], none: str) -> Listing:
    """Return the problems of a file, or the text `none`; the command fails if there are any."""
    data = {"path": str(path), "ok": not problems, "problems": problems}
    text = "\n".join(problems) or f"{path}: {none}"
    return Listing(data, text, bool(problems), [{"problem": problem} for problem in problems])


MAX_OF_A_KIND = 20
"""Differences of a kind that a table has: a folder that is missing would be a line for each of its files."""


def first_of_each_kind(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the first rows of each kind, and a line for each kind that has more."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    first = [row for of_kind in by_kind.values() for row in of_kind[:MAX_OF_A_KIND]]
    more = {kind: len(of_kind) - MAX_OF_A_KIND for kind, of_kind in by_kind.items()}
    return first, [f"and {count} more {kind}; --tsv lists all" for kind, count in more.items() if count > 0]


GAP = "  "

LEAST_WIDTH = 8
"""Columns that a text keeps, however narrow the terminal is."""

PROSE_WIDTH = 40
"""On a terminal, a longer text is cut unless it is in the last column; what has no spaces can be pasted, and is not."""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], cut: Collection[str] = ()) -> None:
    """Print `rows` under `columns`, in lines of plain text; numbers are right-aligned.

    `cut`: columns whose texts are cut, the longest first, until the lines fit the terminal.
    """
    cells = [list(row) for row in rows]
    last = len(columns) - 1
    for index in range(last) if sys.stdout.isatty() else ():
        for row in cells:
            if " " in _cell(row[index]):
                row[index] = _cut(row[index], PROSE_WIDTH)
    if title:
        print(title)
    table = [list(columns), *([_cell(cell) for cell in row] for row in cells)]
    widths = [max(_width(row[index]) for row in table) for index in range(len(columns))]
    elastic = [index for index, name in enumerate(columns) if name in cut]
    while elastic and sum(widths) + len(GAP) * last > terminal_width():
        longest = max(elastic, key=widths.__getitem__)
        if widths[longest] <= LEAST_WIDTH:
            break
        widths[longest] -= 1
    table = [[_cut(text, width) for text, width in zip(row, widths, strict=True)] for row in table]
    is_right = [bool(cells) and all(isinstance(row[index], int | float | None) for row in cells)
                for index in range(len(columns))]  # fmt: skip
    for row in table:
        print(GAP.join(map(_padded, row, widths, is_right)).rstrip())


def terminal_width() -> float:
    """Return the columns of the terminal, or those that ``COLUMNS`` says; what goes elsewhere has any width."""
    return get_terminal_size((0, 0)).columns or math.inf


def _cut(cell: Any, width: int) -> Any:
    text = _cell(cell)
    if _width(text) <= width:
        return cell
    while _width(text) > width - 1:
        text = text[:-1]
    return text + "\N{HORIZONTAL ELLIPSIS}"


def _padded(text: str, width: int, is_right: bool) -> str:
    padding = " " * (width - _width(text))
    return padding + text if is_right else text + padding


def _width(text: str) -> int:
    """Return the width of a text in columns of a terminal; Chinese and Japanese letters take two."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


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
    return series or row["series_instance_uid"] or ""


def optional(key: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what gives the value of a row under `key`, which not every row has."""
    return lambda row: _shown(key, row.get(key))


def minute(moment: str | datetime | None) -> str:
    """Return a time up to the minute, in the zone of this machine."""
    if not moment:
        return ""
    time = moment_of(moment) if isinstance(moment, str) else moment
    return f"{time.astimezone():%Y-%m-%d %H:%M %Z}"


def moment_of(text: str) -> datetime:
    """Return the moment that a text of the index says; those of the views have no offset, and are in UTC."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


@contextmanager
def progress_bar(task: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal; yield the function that advances it by one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        number = bar.add_task(task, total=total)
        yield lambda: bar.advance(number)


def each_shown(task: str, items: Sequence[Item]) -> Iterator[Item]:
    """Yield items, with a progress bar on a terminal that advances after each."""
    with progress_bar(task, len(items)) as advance:
        for item in items:
            yield item
            advance()


WIDTH = 80
"""Columns of a finding, on any terminal."""


def finding(head: str, *texts: str) -> Iterator[str]:
    """Yield lines of texts beside the head of the first line, each from a line of its own, within `WIDTH` columns."""
    width = WIDTH - len(head) - len(GAP)
    for text in texts:
        line = ""
        for word in printable(text).split():
            if line and _width(line) + 1 + _width(word) > width:
                yield f"{head}{GAP}{line}"
                head, line = " " * len(head), ""
            line = f"{line} {word}" if line else word
        if line:
            yield f"{head}{GAP}{line}"
            head = " " * len(head)


def print_finding(head: str, *texts: str) -> None:
    """Print what `finding` yields."""
    for line in finding(head, *texts):
        print(line)


def print_within(line: str, head: str, *texts: str) -> None:
    """Print a line if it fits the terminal, else the texts as a finding."""
    for part in (line,) if _width(line) <= terminal_width() else finding(head, *texts):
        print(part, flush=True)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print each name and its value on a line of its own."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name.ljust(width)}  {_cell(_shown(name, value))}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return printable(str(_plain(value)) if isinstance(value, datetime | Path) else str(value))


def _field(value: Any) -> str:
    if isinstance(value, bool | list | tuple | dict):
        return printable(json.dumps(value, ensure_ascii=False, default=_plain))
    return _cell(value)


def named_files(what: str, files: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield at most `MAX_NAMED_FILES` lines with names of files, and why they were skipped or refused (`what`).

    A reason that more than `MAX_OF_A_REASON` files share has one line, so that the others are seen.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in files:
        by_reason.setdefault(reason, []).append(name)
    lines: list[tuple[str, int]] = []
    for reason, names in by_reason.items():
        if len(names) > MAX_OF_A_REASON:
            first = ", ".join(names[:MAX_OF_A_REASON])
            lines.append((f"{what} {len(names)} files: {reason}: {first}, ...", len(names)))
        else:
            lines += [(f"{what} {name}: {reason}", 1) for name in names]
    for line, _ in lines[:MAX_NAMED_FILES]:
        yield printable(line)  # a name in a zip file is whatever its sender wrote
    if more := sum(count for _, count in lines[MAX_NAMED_FILES:]):
        yield f"{what} {counted(more, 'more file')}; --json lists all"


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
