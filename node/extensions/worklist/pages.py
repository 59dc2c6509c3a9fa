"""The page of the modality worklist."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from node.web.access import Reader, RequestAudit
from node.web.pages.operation import PAGE_ROWS, Page
from node.web.pages.rendering import page
from node.web.services import Node

router = APIRouter(include_in_schema=False)


@router.get("/worklist")
def worklist(request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1) -> Response:
    """Scheduled procedure steps, with what was performed and received for each."""
    with node.index.searching() as index:
        rows = index.scheduled_steps.with_studies(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS)
    audit.queried(f"worklist, page {number}", len(rows[:PAGE_ROWS]))
    more = len(rows) > PAGE_ROWS
    return page(request, node, account, "worklist.html", rows=rows[:PAGE_ROWS], number=number, more=more)
