"""Pages for administrators about others: peers, routes and hooks, as the configuration has them, and how they fare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse

from node.audit.audit_log import Action, AuditEvent
from node.extensions.pages.rendering import SEE_OTHER, page
from node.index.database.reading import ReadIndex
from node.index.work.routes import outstanding
from node.settings.load import Configuration
from node.settings.model import Settings
from node.web import actions
from node.web.access import AdminCall
from node.web.errors import ResourceNotFound

router = APIRouter(include_in_schema=False)

PAGE = "/administration/connections"

HookName = Annotated[str, Path(max_length=64)]


@router.get(PAGE)
def connections(call: AdminCall) -> Response:
    """Peers with a test of each, routes with what waits for their destinations, and hooks."""
    settings = call.node.settings
    with call.node.index.reading(wait=False) as index:
        routes, hooks = list(_routes(settings, index)), _hooks(settings, index)
    values: dict[str, Any] = {"peers": settings.peers, "routes": routes, "hooks": hooks}
    return page(call, "connections.html", part="connections", **values, file=Configuration.of(settings).file)


@router.post("/administration/routes/{route}/{destination}")
def change_route(
    call: AdminCall, route: str, destination: str, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a destination of a route, let it go on, or try again."""
    actions.change_route(call, route, destination, action)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/hooks/{hook}/retry")
def retry_hook(call: AdminCall, hook: HookName) -> Response:
    """Deliver again what was given up, or waits for its next attempt."""
    if hook not in call.node.settings.hooks:
        raise ResourceNotFound("hook")
    waiting = call.node.actions["retry-deliveries"](hook=hook, message_id=None)["waiting"]
    detail = f"hook {hook}: retry of {waiting} messages"
    call.audit.changed(AuditEvent.APPLICATION_ACTIVITY, Action.UPDATE, (), detail)
    return RedirectResponse(PAGE, SEE_OTHER)


def _routes(settings: Settings, index: ReadIndex) -> Iterator[dict[str, Any]]:
    """Yield each destination of each route, with its row in ``v_routes`` once it has one."""
    rows = {(row["route"], row["destination"]): row for row in index.routes.destinations()}
    for name, route in settings.routes.items():
        for to in route.to:
            row: Mapping[str, Any] = rows.get((name, to), {})
            waiting = outstanding(row) if row else 0
            yield {**row, "name": name, "to": to, "rule": route, "where": _text(route.where), "outstanding": waiting}


def _hooks(settings: Settings, index: ReadIndex) -> list[dict[str, Any]]:
    progress = index.hooks.progress()
    return [
        {"name": name, "hook": hook, "by": hook.receiver, "where": _text(hook.where), "row": progress.get(name)}
        for name, hook in settings.hooks.items()
    ]


def _text(where: str | Mapping[str, Any] | None) -> str:
    """Return a selector as the configuration has it, on one line."""
    if where is None or isinstance(where, str):
        return where or ""
    return ", ".join(f"{name} = {value}" for name, value in where.items())
