"""Workitems of clients, for those who administer them: list, and end one whose performer has vanished.

Clients use UPS-RS (`node.extensions.workitems.workitems`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query

from node.dicom.json_model import entry_text
from node.extensions.workitems.created import ReadCreatedWorkitems
from node.index.database.reading import ReadIndex
from node.index.nouns.terms import Terms
from node.web.access import AdminCall
from node.web.api.changes import Change
from node.web.api.models import Resource
from node.web.api.paging import Page, RequestedPage, only_row
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.problem_types import CONFLICT, WRONG_CURSOR

router = api_router("workitems")

WorkitemUid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$", description="SOP Instance UID of the workitem")]


class WorkitemResource(Resource):
    """A workitem that a client created, which others than the node perform; UPS-RS has all its attributes."""

    sop_instance_uid: str
    state: Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]
    label: str | None
    patient_id: str | None
    created_by: str
    created_at: dt.datetime
    ended_at: dt.datetime | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the resource of a row, with a few of its attributes."""
        attributes = row["attributes"]
        label, patient_id = entry_text(attributes, "ProcedureStepLabel"), entry_text(attributes, "PatientID")
        return cls.model_validate({**row, "label": label, "patient_id": patient_id})


@router.get("/workitems", responses=problems(WRONG_CURSOR))
def list_workitems(
    page: RequestedPage,
    state: Annotated[
        Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"] | None, Query(description="state of the workitem")
    ] = None,
) -> Page[WorkitemResource]:
    """Workitems that clients created, newest first."""
    return page.read("workitems", WorkitemResource, lambda index: index.repository(ReadCreatedWorkitems), state=state)


@router.post("/workitems/{workitem}/end", responses=problems(*OF_CHANGES, CONFLICT))
def end_workitem(call: AdminCall, change: Change, workitem: WorkitemUid) -> WorkitemResource:
    """Cancel a workitem without its Transaction UID, because its performer has vanished.

    Make sure that nobody performs it any more: a performer that is still there learns of the end by its next request.
    """

    def end(_: Terms) -> WorkitemResource:
        call.act("end-workitem", workitem=workitem)
        with call.node.index.reading(wait=False) as index:
            return _workitem(index, workitem)

    return change.make(WorkitemResource, lambda index: _workitem(index, workitem), end)


def _workitem(index: ReadIndex, workitem: str) -> WorkitemResource:
    return WorkitemResource.of(only_row(index.repository(ReadCreatedWorkitems), "workitem", sop_instance_uid=workitem))
