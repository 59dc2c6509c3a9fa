"""Lists in pages: an opaque cursor marks where the next page begins."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from node.errors import UsageError

MAX_ROWS = 1000
MAX_ID = 2**53 - 1
"""Largest integer that JSON clients represent exactly; SQLite's are larger."""

Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="maximum number of items")]
After = Annotated[
    str | None,
    Query(max_length=200, description="`next` of the previous page; unset for the first page"),
]
RowId = Annotated[int, Field(ge=0, le=MAX_ID)]


class Page(BaseModel, Generic[Row]):
    """A part of a list; `next` is the cursor of the following part, or null at the end."""

    items: list[Row]
    next: str | None = None


class WrongCursor(UsageError):
    """`after` is not a cursor of this list; start without it."""


def cursor(id: int, date: dt.date | None = None) -> str:
    """Return the cursor of a row: its id, and its date if the list is ordered by date."""
    key = [id] if date is None else [id, date.isoformat()]
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def parse_cursor(after: str | None) -> tuple[int, dt.date | None] | None:
    """Return the id and the date in a cursor.

    Raises
    ------
    WrongCursor
    """
    if after is None:
        return None
    try:
        id_, *dates = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        if type(id_) is int and 0 <= id_ <= MAX_ID and len(dates) <= 1:
            return id_, dt.date.fromisoformat(dates[0]) if dates else None
    except (ValueError, TypeError, binascii.Error):
        pass
    raise WrongCursor


def after_row(after: str | None) -> int | None:
    """Return the id in a cursor of a list that is ordered by id."""
    position = parse_cursor(after)
    return None if position is None else position[0]


def page_of(rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Return a `Page` of rows, each with its `id`; the next one begins after the last."""
    return {"items": rows, "next": cursor(rows[-1]["id"]) if len(rows) == limit else None}
