"""The pages of routes and of work: what the node owes to others, what was given up, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from node.index.work.ledger import WorkEnded
from node.index.work.subscribers import outstanding
from node.web import actions
from node.web.access import Admin, Reader, RequestAudit, Writer
from node.web.api.models import WorkitemResource, WorkKind
from node.web.background_requests import background_request
from node.web.pages.operation import PAGE_ROWS, SEE_OTHER, Page
from node.web.pages.rendering import fragment, page
from node.web.pages.status_chips import StatusChip
from node.web.services import Node, Services

router = APIRouter(include_in_schema=False)

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


KINDS: Mapping[WorkKind, str] = {
    "hook": "message to hook",
    "route": "sent to",
    "job": "job of hook",
    "retrieval": "retrieved from",
    "commitment": "commitment to",
}

CHIPS: Mapping[str, StatusChip] = {
    "waiting": StatusChip("plain", "waiting"),
    "running": StatusChip("busy", "running"),
    "succeeded": StatusChip("good", "succeeded"),
    "incomplete": StatusChip("warning", "incomplete"),
    "failed": StatusChip("bad", "failed"),
    "cancelled": StatusChip("plain", "cancelled"),
    "expired": StatusChip("bad", "expired"),
    "dropped": StatusChip("plain", "dropped"),
    "skipped": StatusChip("warning", "skipped"),
}

Kind = Annotated[WorkKind | None, Query()]


@router.get("/work")
def work(
    request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1, kind: Kind = None
) -> Response:
    """Work, newest first."""
    with node.index.searching() as index:
        found = index.work.newest(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS, kind=kind)
        rows = [
            {**row, "results": index.jobs.results(row["id"]) if row["kind"] == "job" else []}
            for row in found[:PAGE_ROWS]
        ]
        under_way = index.created_workitems.under_way(PAGE_ROWS) if number == 1 else []
    workitems = [WorkitemResource.of(row) for row in under_way]
    audit.queried(f"work, page {number}", len(rows) + len(workitems))
    more = len(found) > PAGE_ROWS
    shown: dict[str, Any] = {"rows": rows, "workitems": workitems, "number": number, "more": more, "kind": kind}
    return page(request, node, account, "work.html", **shown, chips=CHIPS, kinds=KINDS)


@router.post("/work/{work}")
def change(
    node: Node,
    account: Writer,
    work: Annotated[int, Path(ge=0)],
    action: Annotated[Literal["cancel", "retry"], Form()],
) -> Response:
    """Cancel work, or do it again; what ended before the button was pressed stays as it is."""
    with suppress(WorkEnded):
        node.actions[f"{action}-work"](work=work, who=account.name)
    return RedirectResponse("/work", SEE_OTHER)


@router.post("/work/workitems/{workitem}/end")
def end_workitem(node: Node, account: Admin, workitem: Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]) -> Response:
    """Cancel a workitem whose performer has vanished."""
    node.actions["end-workitem"](workitem=workitem, who=account.name)
    return RedirectResponse("/work", SEE_OTHER)
