"""Lists by pages: an opaque cursor says where the next page begins."""

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
"""As JSON knows integers; SQLite's are larger."""

Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="how many at most")]
After = Annotated[
    str | None, Query(max_length=200, description="`next` of the page before; without it the list begins")
]
RowId = Annotated[int, Field(ge=0, le=MAX_ID)]


class Page(BaseModel, Generic[Row]):
    """A part of a list; `next` is the cursor of the following part, or null at the end."""

    items: list[Row]
    next: str | None = None


class WrongCursor(UsageError):
    """`after` is no cursor that this list gave: begin without it."""


def cursor(id: int, date: dt.date | None = None) -> str:
    """Where a page ended: the row, and its date where the list is by date."""
    place = [id] if date is None else [id, date.isoformat()]
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def place(after: str | None) -> tuple[int, dt.date | None] | None:
    """What `cursor` was made of.

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


def row_place(after: str | None) -> int | None:
    """The row where a page ended, of lists that are by row alone."""
    found = place(after)
    return None if found is None else found[0]


def page_of(rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A `Page` of rows that have an `id`, the last of which is where the next one begins."""
    return {"items": rows, "next": cursor(rows[-1]["id"]) if len(rows) == limit else None}
