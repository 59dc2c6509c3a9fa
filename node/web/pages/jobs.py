"""The page of jobs: what hooks were asked to do, and what came back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from node.web.access import Admin, Reader, RequestAudit, Writer
from node.web.api.models import WorkitemResource
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
        under_way = index.created_workitems.under_way(PAGE_ROWS) if number == 1 else []
    workitems = [WorkitemResource.of(row) for row in under_way]
    audit.queried(f"jobs, page {number}", len(rows) + len(workitems))
    more = len(found) > PAGE_ROWS
    shown: dict[str, Any] = {"rows": rows, "workitems": workitems, "number": number, "more": more}
    return page(request, node, account, "jobs.html", **shown, chips=CHIPS)


@router.post("/jobs/{job}/cancel")
def cancel(node: Node, account: Writer, job: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]) -> Response:
    """End a job without results, and what runs for it."""
    node.actions["cancel-job"](job=job, who=account.name)
    return RedirectResponse("/jobs", SEE_OTHER)


@router.post("/jobs/workitems/{workitem}/end")
def end_workitem(node: Node, account: Admin, workitem: Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]) -> Response:
    """Cancel a workitem whose performer has vanished."""
    node.actions["end-workitem"](workitem=workitem, who=account.name)
    return RedirectResponse("/jobs", SEE_OTHER)
