"""Paged lists: an opaque cursor marks the start of the next page."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from node.index.database.reading import ReadIndex
from node.index.engine.rows import PagedRepository, Row
from node.web.access import Call, CurrentCall
from node.web.api.models import MAX_ID, Resource
from node.web.errors import ResourceNotFound, WrongCursor

MAX_ROWS = 1000

Item = TypeVar("Item", bound=Resource)

OptionalStudyUid = Annotated[str | None, Query(max_length=64, description="Study Instance UID")]
OptionalSeriesUid = Annotated[str | None, Query(max_length=64, description="Series Instance UID")]


class Page(BaseModel, Generic[Item]):
    """A page of a list.

    `next` is the cursor of the next page, or null at the end; `total` is null unless the request asks for it.
    """

    items: list[Item]
    next: str | None = None
    total: int | None = None


def cursor(id: int, date: dt.date | None = None) -> str:
    """Return the cursor of a row: its id, and its date if the list is ordered by date."""
    key = [id] if date is None else [id, date.isoformat()]
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def parse_cursor(after: str | None) -> tuple[int, dt.date | None] | None:
    """Return the id and the date from a cursor, or raise WrongCursor."""
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
    """A request for a page of a list: at most `limit` items after the cursor `after`, and the `total` of all."""

    call: Call
    after: str | None
    limit: int
    total: bool

    def read(
        self, name: str, resource: type[Item], repository: Callable[[ReadIndex], PagedRepository], /, **wanted: Any
    ) -> Page[Item]:
        """Read the page from a list that is ordered by id; `wanted` are filters of the repository.

        The audit log records a query of the list `name`, its filters, and how many rows were sent.
        """
        position = parse_cursor(self.after)
        with self.call.node.index.searching() as index:
            rows = repository(index).page(position[0] if position else None, self.limit, **wanted)
            total = repository(index).count_matching(**wanted) if self.total else None
        self.call.audit.queried(query_detail(name, **wanted), len(rows))
        after = None if len(rows) < self.limit else cursor(rows[-1]["id"])
        return Page(items=[resource.of(row) for row in rows], next=after, total=total)


def query_detail(name: str, /, **wanted: Any) -> str:
    """Return the text of a query for the audit log: the list, and the filters that are set."""
    return " ".join([name, *(f"{filter_}={value}" for filter_, value in wanted.items() if value)])


After = Annotated[
    str | None, Query(max_length=200, description="`next` of the previous page; unset for the first page")
]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="maximum number of items")]
Total = Annotated[bool, Query(description="also count all items of the list, which reads every one")]


def _requested(call: CurrentCall, after: After = None, limit: Limit = 100, total: Total = False) -> PageRequest:
    return PageRequest(call, after, limit, total)


RequestedPage = Annotated[PageRequest, Depends(_requested)]
"""Parameter of a route: the part of its list that a caller with the role read wants."""


def only_row(repository: PagedRepository, noun: str, /, **wanted: Any) -> Row:
    """Return the row of a single resource, the newest if several match; `noun` names it in the answer 404."""
    rows = repository.page(None, 1, **wanted)
    if not rows:
        raise ResourceNotFound(noun)
    return rows[0]


def _uid_filters(
    study_instance_uid: OptionalStudyUid = None, series_instance_uid: OptionalSeriesUid = None
) -> dict[str, str | None]:
    return {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}


UidFilters = Annotated[dict[str, str | None], Depends(_uid_filters)]
"""Parameter of a route: the study, or the series, that its list is limited to."""
