"""The page of jobs: what hooks were asked to do, and what came back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from node.web.access import Reader, RequestAudit, Writer
from node.web.pages.operation import PAGE_ROWS, SEE_OTHER, Page
from node.web.pages.rendering import page
from node.web.pages.status_chips import StatusChip
from node.web.services import Node

router = APIRouter(include_in_schema=False)

CHIPS: Mapping[str, StatusChip] = {
    "waiting": StatusChip("plain", "waiting"),
    "running": StatusChip("busy", "running"),
    "succeeded": StatusChip("good", "succeeded"),
    "failed": StatusChip("bad", "failed"),
    "cancelled": StatusChip("plain", "cancelled"),
    "expired": StatusChip("bad", "expired"),
}


@router.get("/jobs")
def jobs(request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1) -> Response:
    """Jobs of hooks with results, newest first."""
    with node.index.searching() as index:
        found = index.jobs.newest(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS)
        rows = [{**row, "results": index.jobs.results(row["id"])} for row in found[:PAGE_ROWS]]
    audit.queried(f"jobs, page {number}", len(rows))
    more = len(found) > PAGE_ROWS
    return page(request, node, account, "jobs.html", rows=rows, number=number, more=more, chips=CHIPS)


@router.post("/jobs/{job}/cancel")
def cancel(node: Node, account: Writer, job: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]) -> Response:
    """End a job without results."""
    node.actions["cancel-job"](job=job, who=account.name)
    return RedirectResponse("/jobs", SEE_OTHER)
