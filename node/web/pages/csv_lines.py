"""Lines of CSV files (RFC 4180) for spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_line(cells: Iterable[object]) -> bytes:
    """Return a line in UTF-8; None is an empty cell.

    Text that a spreadsheet would take for a formula begins with an apostrophe: names come from the network.
    """
    line = StringIO()
    csv.writer(line).writerow(_harmless(cell) for cell in cells)
    return line.getvalue().encode()


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
