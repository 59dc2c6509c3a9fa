"""Live events: server-sent events (HTML 9.2) from the table of events.

A client that reconnects sends the id of its last event (browsers send ``Last-Event-ID`` automatically) and misses
nothing, because the events are read from the table. A stream ends as soon as its credentials are no longer valid, and
sends no event after that.
"""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated, Any

from fastapi import Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from node.runtime.budget import Budget, Claim, Limits, Standing
from node.runtime.metrics import Metrics
from node.web.access import MEMBERS, CurrentCall, background_request
from node.web.api import models
from node.web.api.models import MAX_ID
from node.web.api.routing import api_router, problems
from node.web.errors import NoPlace, WrongCursor
from node.web.principal import address_of
from node.web.problem_types import WRONG_CURSOR
from node.web.services import Node, Services

POLL_SECONDS = 0.5
"""Interval at which a stream looks for news."""

STREAM_SECONDS = 900.0
"""Lifetime of a stream. The client then reconnects."""

MAX_STREAMS, MAX_STREAMS_OF_ACCOUNT, MAX_STREAMS_OF_ADDRESS = 50, 10, 20
"""Open streams: of all, of one account, and of one address."""

RESERVED_STREAMS = 10
"""Streams for administrators only."""


class _Stream:
    """An open stream: it waits for events, so nothing it does shows whether it is needed, and it never gives way."""

    is_served = is_under_way = True

    def hang_up(self) -> None:
        """Never called."""


def streams_budget(metrics: Metrics) -> Budget:
    """Return the budget of event streams, of which some are reserved for administrators."""
    limits = Limits(
        MAX_STREAMS,
        MAX_STREAMS_OF_ADDRESS,
        MAX_STREAMS_OF_ACCOUNT,
        pending=MAX_STREAMS,
        reserved=RESERVED_STREAMS,
        reserved_for=Standing.ADMINISTRATOR,
    )
    return Budget("events", limits, metrics)


router = api_router(MEMBERS, "events")

MAX_EVENTS_PER_READ = 200

EventId = Annotated[int | None, Query(ge=0, le=MAX_ID, description="send the events after this id")]


async def _room(call: CurrentCall) -> AsyncIterator[None]:
    """Count a stream until its response ends for any reason."""
    budget: Budget = call.request.app.state.streams
    claim = Claim(_Stream(), address_of(call.request), call.account.standing, call.account.name)
    if (rule := budget.enter(claim)) is not None:
        raise NoPlace(rule, "event streams")
    try:
        yield
    finally:
        budget.remove(claim)


def _last_event(
    node: Node,
    after: EventId = None,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=MAX_ID, description="`id` of the last event; it precedes `after`")
    ] = None,
) -> int:
    """Return the id of the last event that the client has received; by default, that of the newest event.

    Raises WrongCursor: no event has this id yet. Nothing would be sent until one has.
    """
    last = after if last_event_id is None else last_event_id
    with node.index.reading(wait=False, following=last is None) as index:
        newest = index.events.newest()
    if last is not None and last > newest:
        raise WrongCursor(f"the newest event is {newest}, and {last} is of another index: /history has what was missed")
    return newest if last is None else last


@router.get(
    "/events", response_class=EventSourceResponse, dependencies=[Depends(_room)], responses=problems(WRONG_CURSOR)
)
@background_request
async def stream_events(
    call: CurrentCall, last: Annotated[int, Depends(_last_event)]
) -> AsyncIterator[ServerSentEvent]:
    """Stream events as they happen, with the fields of `/history`; without `after`, only new ones."""
    await run_in_threadpool(call.audit.queried, "events as they happen")
    yield ServerSentEvent(comment="stream starts", retry=2000)
    began = monotonic()
    while not call.request.app.state.stopping.is_set() and monotonic() - began < STREAM_SECONDS:
        rows = await run_in_threadpool(_since, call.node, last)
        if not await run_in_threadpool(call.is_still_allowed):  # after the rows were read: nothing follows a removal
            return
        for row in rows:
            yield ServerSentEvent(data=models.EventResource.of(row), event=row["kind"], id=str(row["id"]))
            last = row["id"]
        if len(rows) < MAX_EVENTS_PER_READ:
            await asyncio.sleep(POLL_SECONDS)


def _since(node: Services, last: int) -> list[dict[str, Any]]:
    with node.index.reading(wait=False, following=True) as index:
        return index.events.since(last, MAX_EVENTS_PER_READ)
