"""Rectangles on slices, read from a table: CSV, or the first sheet of an XLSX file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from node.registry import require_extra

COLUMNS = ("slice", "left", "top", "width", "height")
"""Columns that a table must have; ``label`` may be another, and others are not read."""

MAX_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle on a slice, which counts from 1; in pixels of the slice as it is viewed, from the top left corner.

    `place`: where it stands in the table, for messages.
    """

    slice: int
    left: float
    top: float
    width: float
    height: float
    label: str = ""
    place: str = "a rectangle"


def read_rectangles(table: str | PathLike[str]) -> list[Rectangle]:
    """Return the rectangles of a table whose first row names the columns.

    Raises ValueError: a column is missing, or a value is no number; OSError; and UsageError, with the extra to install,
    if XLSX cannot be read here.
    """
    path = Path(table)
    rows = _sheet(path) if path.suffix.lower() == ".xlsx" else _csv(path)
    names = [str(name or "").strip().lower() for name in next(rows, ())]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(f"{path}: the first row has no column {', '.join(missing)}; it names {', '.join(COLUMNS)}")
    found = []
    for number, row in enumerate(rows, 2):
        if number > MAX_ROWS:
            raise ValueError(f"{path}: there are more than {MAX_ROWS} rows")
        values = dict(zip(names, row, strict=False))
        if any(value not in (None, "") for value in row):
            found.append(_rectangle(values, f"{path}: row {number}"))
    return found


def _rectangle(values: dict[str, Any], place: str) -> Rectangle:
    numbers = {name: _number(values.get(name), name, place) for name in COLUMNS}
    slice_ = numbers.pop("slice")
    if slice_ != int(slice_):
        raise ValueError(f"{place}: slice is not a whole number")
    if numbers["width"] <= 0 or numbers["height"] <= 0:
        raise ValueError(f"{place}: width and height are more than 0")
    return Rectangle(int(slice_), **numbers, label=str(values.get("label") or "").strip(), place=place)


def _number(value: Any, name: str, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: {name} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{place}: {name} is not a number")
    return number


def _csv(path: Path) -> Iterator[Sequence[Any]]:
    """Yield rows; commas, semicolons or tabs are between the values, by which of them the first row has."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            yield from csv.reader(file, delimiter=max(",;\t", key=first.count))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not CSV in UTF-8") from error


def _sheet(path: Path) -> Iterator[Sequence[Any]]:
    require_extra("a table in XLSX", "excel")

    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not an XLSX file") from error
    try:
        yield from book.worksheets[0].iter_rows(values_only=True)
    finally:
        book.close()
