"""The page of routes: the state of each destination, what waits, and what was given up."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from node.index.work.subscribers import outstanding
from node.web import actions
from node.web.access import Reader, RequestAudit, Writer
from node.web.background_requests import background_request
from node.web.pages.rendering import fragment, page
from node.web.services import Node, Services

router = APIRouter(include_in_schema=False)

SEE_OTHER = 303
SHOWN_MESSAGES = 50


@router.get("/routes")
def routes(request: Request, node: Node, account: Reader, audit: RequestAudit) -> Response:
    """The routes, which update themselves."""
    shown = _shown(node)
    audit.queried("routes", len(shown["messages"]))
    return page(request, node, account, "routes.html", **shown, digest="")


@router.get("/routes/rows")
@background_request
def route_rows(request: Request, node: Node, account: Reader) -> Response:
    """The tables of the page."""
    return fragment(request, account, "routes_rows.html", **_shown(node))


@router.post("/routes/{route}/{destination}")
def change_route(
    node: Node,
    account: Writer,
    audit: RequestAudit,
    route: str,
    destination: str,
    action: Annotated[Literal["pause", "resume", "retry"], Form()],
) -> Response:
    """Pause a destination of a route, let it go on, or try again."""
    actions.change_route(node, audit, route, destination, action)
    return RedirectResponse("/routes", SEE_OTHER)


def _shown(node: Services) -> dict[str, Any]:
    with node.index.reading(wait=False) as index:
        rows = index.routes.destinations()
        messages = [
            row
            for state in ("given-up", "waiting", "skipped")
            for row in index.routes.messages(SHOWN_MESSAGES, state=state)
        ]
    # What people may send by hand is shown once somebody did.
    rows = [row for row in rows if row["route"] or row["delivered"] or row["waiting"] or row["given_up"]]
    return {
        "destinations": [{**row, "outstanding": outstanding(row)} for row in rows],
        "messages": messages,
        "by_hand": actions.BY_HAND,
    }
