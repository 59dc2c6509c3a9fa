"""Routes: list, pause, resume, retry."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path

from node.index.database.reading import ReadIndex
from node.web import actions
from node.web.access import Reader, RequestAudit, Writer
from node.web.api import models
from node.web.api.changes import Change
from node.web.api.paging import Page
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.services import Node

router = api_router("routes")

RouteName = Annotated[str, Path(max_length=64, description="name of the route; - for what is sent by hand")]
DestinationName = Annotated[str, Path(max_length=64, description="name of the destination")]


@router.get("/routes")
def list_routes(account: Reader, node: Node) -> Page[models.RouteResource]:
    """The destinations of every route, with what waits for each."""
    with node.index.reading(wait=False) as index:
        return Page(items=[models.RouteResource.of(row) for row in index.routes.destinations()])


@router.post("/routes/{route}/{destination}/{action}", responses=problems(*OF_CHANGES))
def change_route(
    account: Writer,
    node: Node,
    audit: RequestAudit,
    change: Change,
    route: RouteName,
    destination: DestinationName,
    action: Annotated[Literal["pause", "resume", "retry"], Path(description="what to do")],
) -> models.RouteChange:
    """Pause a destination of a route, let it go on, or try again what waits, was given up or skipped."""

    def current(index: ReadIndex) -> models.RouteResource:
        found = (models.RouteResource.of(row) for row in index.routes.destinations())
        return next(row for row in found if (row.route or actions.BY_HAND, row.destination) == (route, destination))

    actions.require_destination(node, route, destination)
    return change.make(
        models.RouteChange,
        current,
        lambda _: models.RouteChange.of(actions.change_route(node, audit, route, destination, action)),
    )
