"""The section of the problems page on identity conflicts."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import RedirectResponse

from node.receive.conflicts import compared
from node.web import actions
from node.web.access import Admin, Reader, RequestAudit
from node.web.pages.operation import SEE_OTHER, Page, problems
from node.web.pages.rendering import page
from node.web.services import Node

router = APIRouter(include_in_schema=False)

Number = Annotated[int, Path(ge=1, le=1 << 53)]
"""Larger than any, and smaller than what SQLite takes."""


@router.get("/problems/conflicts")
def conflicts(request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1) -> Response:
    """Identity conflicts that are not decided; those of one kind, study and sender share a row."""
    return problems(request, node, account, audit, "conflicts", lambda index: index.conflicts.undecided, number)


@router.get("/problems/conflicts/{conflict}")
def compare_versions(request: Request, node: Node, account: Admin, audit: RequestAudit, conflict: Number) -> Response:
    """The version in a conflict beside the current one."""
    audit.queried(f"conflict {conflict}")
    with node.index.reading() as index:
        found = compared(node.archive.root, index, conflict, node.archive.local)
    return page(request, node, account, "conflict.html", found=found)


@router.post("/problems/conflicts/{conflict}")
def decide(
    node: Node, account: Admin, conflict: Number, decision: Annotated[Literal["accept", "keep"], Form()]
) -> Response:
    """Decide all conflicts of a row."""
    if decision == "accept":
        actions.accept(node, account, conflict, alike=True)
    else:
        actions.keep(node, account, conflict, alike=True)
    return RedirectResponse("/problems/conflicts", SEE_OTHER)
