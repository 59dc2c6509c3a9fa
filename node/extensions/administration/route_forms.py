"""The forms of routes that administrators add, and what a route would take, which is tried before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.errors import UsageError, VoxelnodeError
from node.extensions.administration.additions import NONE_YET
from node.extensions.administration.own import require_session
from node.extensions.administration.routes import MAX_TRIED_SERIES
from node.extensions.pages.rendering import SEE_OTHER, fragment
from node.settings.model import Route, RouteEvent, Settings
from node.web.access import AdminCall, Call

router = APIRouter(include_in_schema=False)

PAGE = "/administration/connections#routes-title"

TRIED_SERIES = 100
"""Newest series with which a route is tried unless somebody says another number."""

RouteName = Annotated[str, Path(max_length=64)]
Text = Annotated[str, Field(max_length=4000)]
Messages = Annotated[int, Field(ge=0)]
SeriesCount = Annotated[int, Field(ge=1, le=MAX_TRIED_SERIES)]


class RouteForm(BaseModel):
    """The form of a route, with the keys of ``[routes.NAME]`` but `delete_confirmed`."""

    to: tuple[str, ...] = ()
    when: str
    where: Text = ""
    otherwise: tuple[str, ...] = ()
    priority: str = "medium"
    connections: int = 1
    between: Annotated[str, Field(max_length=64)] = ""
    transfer_syntax: str = "keep"
    set: Text = ""
    replace: Text = ""
    remove: Text = ""
    deidentify: Annotated[str, Field(max_length=64)] = ""
    confirm: bool = False
    return_to_sender: bool = False
    attempts: int = 12
    drops: Messages = 0
    seen: Annotated[str | None, Field(max_length=64)] = None
    series: SeriesCount = TRIED_SERIES

    def route(self) -> dict[str, Any]:
        """Return the table of the route, with the keys that have no default value. Raises UsageError."""
        if not self.to:
            raise UsageError("to: choose at least one destination")
        values = {
            "to": self.to, "when": self.when, "where": self.where.strip() or None, "otherwise": self.otherwise,
            "priority": self.priority, "connections": self.connections, "between": self.between.strip() or None,
            "transfer_syntax": self.transfer_syntax, "set": dict(_pairs("set", self.set)),
            "replace": dict(_pairs("replace", self.replace)), "remove": tuple(_lines(self.remove)),
            "deidentify": self.deidentify.strip() or None, "confirm": self.confirm,
            "return_to_sender": self.return_to_sender, "attempts": self.attempts,
        }  # fmt: skip
        return {key: value for key, value in values.items() if value != Route.model_fields[key].default}


class NewRoute(RouteForm):
    """The form that adds a route."""

    name: Annotated[str, Field(max_length=64)] = ""


@router.post("/administration/added-routes")
def add_route(call: AdminCall, form: Annotated[NewRoute, Form()]) -> Response:
    """Add a route, which sends what comes from now on."""
    require_session(call)
    call.act("set-route", name=form.name, route=form.route(), seen=NONE_YET)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/added-routes/{name}")
def change_rules(call: AdminCall, name: RouteName, form: Annotated[RouteForm, Form()]) -> Response:
    """Change a route that was added."""
    require_session(call)
    call.act("set-route", name=name, route=form.route(), drops=form.drops, seen=form.seen)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/added-routes/{name}/remove")
def remove_route(
    call: AdminCall,
    name: RouteName,
    drops: Annotated[Messages, Form()] = 0,
    seen: Annotated[str | None, Form(max_length=64)] = None,
) -> Response:
    """Remove a route that was added, and drop as many messages as the page has told."""
    require_session(call)
    call.act("remove-route", name=name, drops=drops, seen=seen)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/try-route")
def try_new(call: AdminCall, form: Annotated[NewRoute, Form()]) -> Response:
    """Tell which of the newest series a route would take as its form has it."""
    return _tried(call, form.name or "new", form)


@router.post("/administration/added-routes/{name}/try")
def try_changed(call: AdminCall, name: RouteName, form: Annotated[RouteForm, Form()]) -> Response:
    """Tell which of the newest series a route would take if it were changed as its form has it."""
    return _tried(call, name, form)


@router.post("/administration/try-route/{name}")
def try_route(call: AdminCall, name: RouteName) -> Response:
    """Tell which of the newest series a route would take as it is."""
    return _tried(call, name, None)


def _tried(call: Call, name: str, form: RouteForm | None) -> Response:
    series = form.series if form is not None else TRIED_SERIES
    try:
        route = form.route() if form is not None else None
        done = call.node.actions["try-route"](name=name, series=series, route=route)
    except VoxelnodeError as error:
        return fragment(call, "route_tried.html", problem=str(error))
    with call.node.index.reading(wait=False) as index:
        found = [(index.series.row(*key), index.studies.row(key[0])) for key in done["taken"]]
    rows = [(one, study) for one, study in found if one is not None and study is not None]
    call.audit.queried(f"series that the route {name} would take", len(rows))
    return fragment(
        call, "route_tried.html", problem="", name=name, rows=rows, looked_at=done["series"], returns=done["returns"]
    )


def choices(settings: Settings) -> dict[str, Any]:
    """Return what the form of a route offers."""
    fields = {key: get_args(Route.model_fields[key].annotation) for key in ("priority", "transfer_syntax")}
    targets, others = [*settings.receivers, *settings.datasets], list(settings.routes)
    return {"targets": targets, "events": get_args(RouteEvent), "others": others, **fields}


def _pairs(key: str, text: str) -> Iterator[tuple[str, str]]:
    for line in _lines(text):
        keyword, equals, value = line.partition("=")
        if not equals:
            raise UsageError(f"{key}: {line!r}: write a line as Keyword = value")
        yield keyword.strip(), value.strip()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
