"""The section of the problems page on quarantine."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from node.receive.quarantine import quarantined
from node.web import actions
from node.web.access import Admin, RequestAudit
from node.web.pages.operation import PAGE_ROWS, SEE_OTHER, Page, problem_counts
from node.web.pages.rendering import page
from node.web.services import Node

router = APIRouter(include_in_schema=False)


@router.get("/problems/quarantine")
def quarantine(request: Request, node: Node, account: Admin, audit: RequestAudit, number: Page = 1) -> Response:
    """Files that were set aside."""
    with node.index.reading() as index:
        files = quarantined(node.archive.root, index)
        counts = problem_counts(index)
    begin = (number - 1) * PAGE_ROWS
    audit.queried(f"problems: quarantine, page {number}", len(files[begin : begin + PAGE_ROWS]))
    return page(
        request,
        node,
        account,
        "quarantine.html",
        problem="quarantine",
        counts=counts,
        rows=files[begin : begin + PAGE_ROWS],
        number=number,
        more=len(files) > begin + PAGE_ROWS,
    )


@router.post("/problems/quarantine/{name}")
def decide(
    node: Node, account: Admin, name: str, decision: Annotated[Literal["release", "replace", "purge"], Form()]
) -> Response:
    """Release a file, make it current, or delete it."""
    if decision == "purge":
        actions.purge(node, account, name)
    else:
        actions.release(node, account, name, replace=decision == "replace")
    return RedirectResponse("/problems/quarantine", SEE_OTHER)
