"""Lists in pages: an opaque cursor marks where the next page begins."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from node.errors import UsageError
from node.index.read import ReadIndex
from node.index.read.rows import PagedRepository, Row
from node.web.services import Node, Services

MAX_ROWS = 1000
MAX_ID = 2**53 - 1
"""Largest integer that JSON clients represent exactly; SQLite's are larger."""

Item = TypeVar("Item")

RowId = Annotated[int, Field(ge=0, le=MAX_ID)]


class Page(BaseModel, Generic[Item]):
    """A part of a list; `next` is the cursor of the following part, or null at the end."""

    items: list[Item]
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


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for a part of a list: at most `limit` items behind the cursor `after`."""

    node: Services
    after: str | None
    limit: int

    def read(
        self, item: Callable[[Row], Item], repository: Callable[[ReadIndex], PagedRepository], **wanted: Any
    ) -> Page[Item]:
        """Search the index for the page, in a list that is ordered by id.

        Parameters
        ----------
        item : callable
            Makes an item of a row.
        repository : callable
            Returns the listed repository of the index.
        wanted : any
            Filters of the repository.
        """
        position = parse_cursor(self.after)
        with self.node.index.searching() as index:
            rows = repository(index).page(position[0] if position else None, self.limit, **wanted)
        is_last = len(rows) < self.limit
        return Page(items=[item(row) for row in rows], next=None if is_last else cursor(rows[-1]["id"]))


def _requested(
    node: Node,
    after: Annotated[
        str | None, Query(max_length=200, description="`next` of the previous page; unset for the first page")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="maximum number of items")] = 100,
) -> PageRequest:
    return PageRequest(node, after, limit)


RequestedPage = Annotated[PageRequest, Depends(_requested)]
"""Parameter of a route: the part of its list that is wanted."""
