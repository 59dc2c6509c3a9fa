"""The pages of routes and of work: what the node owes to others, what was given up, and what came of it."""

from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Response
from fastapi.responses import RedirectResponse

from node.index.look.views import unseen
from node.index.rows.states import Kind as WorkKind
from node.index.rules.work.ledger import WorkEnded
from node.registry import READ_RESULTS, part_of
from node.web import actions
from node.web.access import READERS, WRITERS, Call, CurrentCall, background_request
from node.web.api.models import MAX_ID
from node.web.pages.filters import WORK_CHIPS
from node.web.pages.rendering import OK, SEE_OTHER, PageNumber, fragment, page, part_of_page, rows_of_page
from node.web.services import Services

router = APIRouter(include_in_schema=False, dependencies=READERS)

SHOWN_MESSAGES = 50
SHOWN_DELIVERED = 20


@router.get("/routes")
def routes(call: CurrentCall) -> Response:
    """The routes, which update themselves."""
    shown = _shown(call.node)
    call.audit.queried("routes", len(shown["messages"]) + len(shown["delivered"]))
    return page(call, "routes.html", **shown, digest="")


@router.get("/routes/rows")
@background_request
def route_rows(call: CurrentCall) -> Response:
    """The tables of the page."""
    return fragment(call, "routes_rows.html", **_shown(call.node))


@router.post("/routes/{route}/{destination}", dependencies=WRITERS)
def change_route(
    call: CurrentCall, route: str, destination: str, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a destination of a route, let it go on, or try again."""
    actions.change_route(call, route, destination, action)
    return RedirectResponse("/routes", SEE_OTHER)


def _shown(node: Services) -> dict[str, Any]:
    with node.index.reading(wait=False) as index:
        rows = index.routes.destinations()
        messages = [
            row
            for state in ("given-up", "waiting", "skipped")
            for row in index.routes.messages(SHOWN_MESSAGES, state=state)
        ]
        messages += index.quiet_to_come("route", node.settings.series.study_quiet_seconds)[:SHOWN_MESSAGES]
        delivered = index.routes.delivered(SHOWN_DELIVERED)
    # What people may send by hand is shown once somebody did.
    rows = [row for row in rows if row["route"] or row["delivered"] or row["waiting"] or row["given_up"]]
    return {
        "destinations": [{**row, "unseen": unseen(row)} for row in rows],
        "messages": messages,
        "delivered": delivered,
        "by_hand": actions.BY_HAND,
    }


Kind = Annotated[WorkKind | None, Query()]


@router.get("/work")
def work(call: CurrentCall, number: PageNumber = 1, kind: Kind = None) -> Response:
    """Work, newest first, which updates itself while some of it has not ended."""
    shown = _work(call, number, kind)
    call.audit.queried(f"work, page {number}", len(shown["rows"]))
    return page(call, "work.html", **shown, digest="")


@router.get("/work/rows")
@background_request
def work_rows(call: CurrentCall, number: PageNumber = 1, kind: Kind = None) -> Response:
    """The table of the page."""
    shown = _work(call, number, kind)
    rows = fragment(call, "work_rows.html", **shown)
    if rows.status_code == OK:  # not 204, when nothing new is shown
        call.audit.queried(f"work, page {number}", len(shown["rows"]))
    return rows


def _work(call: Call, number: int, kind: WorkKind | None) -> dict[str, Any]:
    with call.node.index.searching() as index:
        found = index.work.newest(*part_of_page(number), kind=kind)
        read_results = part_of(call.node.settings, READ_RESULTS)
        results_of = index.repository(read_results).results if read_results is not None else lambda job: []
        rows = [{**row, "results": results_of(row["id"]) if row["kind"] == "job" else []} for row in found]
    return rows_of_page(rows, number) | {"kind": kind, "chips": WORK_CHIPS}


@router.post("/work/{work}", dependencies=WRITERS)
def change(
    call: CurrentCall,
    work: Annotated[int, Path(ge=0, le=MAX_ID)],
    action: Annotated[Literal["cancel", "retry"], Form()],
) -> Response:
    """Cancel work, or do it again; what ended before the button was pressed stays as it is."""
    with suppress(WorkEnded):
        call.act(f"{action}-work", work=work)
    return RedirectResponse("/work", SEE_OTHER)
