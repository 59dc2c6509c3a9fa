"""Rows of the documented views of an index, as a person with SQLite reads them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from node.index.engine import FILE_NAME


def view_rows(root: Path, query: str, **values: Any) -> list[dict[str, Any]]:
    """The rows that a query gives, in a transaction of its own; `values` fill its ``:names``."""
    connection = sqlite3.connect(f"file:{root / FILE_NAME}?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(query, values)]
    finally:
        connection.close()
