"""Workitems of clients, for those who administer them: list, and end one whose performer has vanished.

Clients use UPS-RS (`node.extensions.workitems.workitems`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query

from node.index.database.reading import ReadIndex
from node.index.nouns.terms import Terms
from node.web.access import AdminCall
from node.web.api import models
from node.web.api.changes import Change
from node.web.api.paging import Page, RequestedPage, only_row
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.problem_types import CONFLICT, WRONG_CURSOR

router = api_router("workitems")

WorkitemUid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$", description="SOP Instance UID of the workitem")]


@router.get("/workitems", responses=problems(WRONG_CURSOR))
def list_workitems(
    page: RequestedPage,
    state: Annotated[
        Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"] | None, Query(description="state of the workitem")
    ] = None,
) -> Page[models.WorkitemResource]:
    """Workitems that clients created, newest first."""
    return page.read("workitems", models.WorkitemResource, lambda index: index.created_workitems, state=state)


@router.post("/workitems/{workitem}/end", responses=problems(*OF_CHANGES, CONFLICT))
def end_workitem(call: AdminCall, change: Change, workitem: WorkitemUid) -> models.WorkitemResource:
    """Cancel a workitem without its Transaction UID, because its performer has vanished.

    Make sure that nobody performs it any more: a performer that is still there learns of the end by its next request.
    """

    def end(_: Terms) -> models.WorkitemResource:
        call.act("end-workitem", workitem=workitem)
        with call.node.index.reading(wait=False) as index:
            return _workitem(index, workitem)

    return change.make(models.WorkitemResource, lambda index: _workitem(index, workitem), end)


def _workitem(index: ReadIndex, workitem: str) -> models.WorkitemResource:
    return models.WorkitemResource.of(only_row(index.created_workitems, "workitem", sop_instance_uid=workitem))
