"""REST: the rules of routes, which administrators add, change, try and remove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Response
from pydantic import ConfigDict, Field

from node.extensions.administration.additions import Listed, listed
from node.extensions.administration.routes import MAX_TRIED_SERIES
from node.extensions.administration.rules import Rules, changed, one_of, require_account
from node.index.database.reading import ReadIndex
from node.settings.model import RouteEvent
from node.web.access import AdminCall, Call
from node.web.api.changes import Change, tagged
from node.web.api.models import Resource
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.problem_types import FOREIGN_PAGE, INVALID_REQUEST, NOT_FOUND

router = api_router("routes")

RULES = "/route-rules/{route}"

RouteName = Annotated[str, Path(min_length=1, max_length=64, description="name of the route")]
Dropped = Annotated[int, Query(ge=0, description="how many messages that wait may be dropped")]
Text = Annotated[str, Field(max_length=4000)]


class RouteFields(Resource):
    """The keys of `[routes.NAME]` (config.example.toml) but `delete_confirmed`; what is not given has its default."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    to: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=100)]
    when: RouteEvent = "series-complete"
    where: Text | None = None
    otherwise: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=100, default_factory=list)]
    priority: Literal["high", "medium", "low"] = "medium"
    connections: Annotated[int, Field(ge=1, le=16)] = 1
    between: Annotated[str | None, Field(max_length=11)] = None
    transfer_syntax: Literal["keep", "uncompressed", "jpeg2000-lossless"] = "keep"
    set: Annotated[dict[str, Text], Field(max_length=100, default_factory=dict)]
    replace: Annotated[dict[str, Text], Field(max_length=100, default_factory=dict)]
    remove: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=100, default_factory=list)]
    deidentify: Annotated[str | None, Field(max_length=64)] = None
    confirm: bool = False
    return_to_sender: bool = False
    attempts: Annotated[int, Field(ge=1, le=1000)] = 12

    def route(self) -> dict[str, Any]:
        """Return the table of the route."""
        return self.model_dump(mode="json", exclude_unset=True)


class RouteRules(Rules):
    """A route: its rules with the defaults, and who added it; null: it is of the configuration, and changed there.

    `unusable`: why a route that was added sends nothing, such as because its peer is gone.
    """

    route: str


class AllRouteRules(Resource):
    """All routes."""

    items: list[RouteRules]


class SetRoute(Resource):
    """A route that was added or changed, and how many messages were dropped."""

    route: str
    dropped: int


class RemovedRoute(Resource):
    """The name that a route had, and how many messages were dropped."""

    removed: str
    dropped: int


class TakenSeries(Resource):
    """A series that a route would take."""

    study_instance_uid: str
    series_instance_uid: str


class TriedRoute(Resource):
    """How many of the newest series a route was tried with, and those that it would take.

    `returns`: how many more it would take if they had not come from its only destination (`return_to_sender`).
    """

    series: int
    taken: list[TakenSeries]
    returns: int


@router.get("/route-rules")
def list_route_rules(call: AdminCall) -> AllRouteRules:
    """The rules of all routes, with where each comes from."""
    return AllRouteRules(items=[_rules(one) for one in listed(call.node.settings, call.node.index, "routes")])


@router.get(RULES, responses=single())
def show_route_rules(call: AdminCall, response: Response, route: RouteName) -> RouteRules:
    """The rules of a route, with where it comes from."""
    return tagged(response, _rules_of(call, route))


@router.put(RULES, responses=problems(*OF_CHANGES))
def set_route_rules(
    call: AdminCall, change: Change, route: RouteName, fields: RouteFields, drops: Dropped = 0
) -> SetRoute:
    """Add a route, or change one that was added. It takes effect at once."""
    require_account(call)

    def current(_: ReadIndex) -> RouteRules:
        return _rules_of(call, route)

    return change.make(
        SetRoute, current, lambda _: call.act("set-route", name=route, route=fields.route(), drops=drops)
    )


@router.delete(RULES, responses=problems(*OF_CHANGES))
def remove_route(call: AdminCall, change: Change, route: RouteName, drops: Dropped = 0) -> RemovedRoute:
    """Remove a route that was added."""
    require_account(call)

    def current(_: ReadIndex) -> RouteRules:
        return _rules_of(call, route)

    def act(_: object) -> Mapping[str, Any]:
        _rules_of(call, route)
        return call.act("remove-route", name=route, drops=drops)

    return change.make(RemovedRoute, current, act)


@router.post(f"{RULES}/try", responses=problems(INVALID_REQUEST, FOREIGN_PAGE, NOT_FOUND))
def try_route_rules(
    call: AdminCall,
    route: RouteName,
    fields: RouteFields | None = None,
    series: Annotated[int, Query(ge=1, le=MAX_TRIED_SERIES, description="how many of the newest series")] = 100,
) -> TriedRoute:
    """Which of the newest series a route would take now, as it is or as the request has it; nothing is sent."""
    rules = fields.route() if fields is not None else None
    if rules is None:
        _rules_of(call, route)
    done = call.node.actions["try-route"](name=route, series=series, route=rules)
    taken = [TakenSeries(study_instance_uid=study, series_instance_uid=one) for study, one in done["taken"]]
    call.audit.queried(f"series that the route {route} would take", len(taken))
    return TriedRoute(series=done["series"], taken=taken, returns=done["returns"])


def _rules_of(call: Call, name: str) -> RouteRules:
    return _rules(one_of(call, "routes", name))


def _rules(one: Listed) -> RouteRules:
    return RouteRules(route=one.name, rules=dict(one.keys), **changed(one))
