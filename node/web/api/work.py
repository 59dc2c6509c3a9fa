"""The ledger of work: what the node owes to hooks, destinations of routes, peers and requestors; cancel, retry."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from node.index.database.reading import ReadIndex
from node.index.nouns.terms import Terms
from node.web.access import Reader, RequestAudit, Writer
from node.web.api import models
from node.web.api.changes import Change, tagged
from node.web.api.paging import AuditedPage, OptionalSeriesUid, OptionalStudyUid, Page, only_row
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.problem_types import CONFLICT, WRONG_CURSOR
from node.web.services import Node

router = api_router("work")

WorkId = Annotated[int, Path(ge=0, le=models.MAX_ID, description="id of the work")]


@router.get("/work", responses=problems(WRONG_CURSOR))
def list_work(
    account: Reader,
    page: AuditedPage,
    kind: Annotated[models.WorkKind | None, Query(description="kind of work")] = None,
    name: Annotated[
        str | None, Query(max_length=64, description="name of the hook, the route or the peer; empty: sent by hand")
    ] = None,
    destination: Annotated[str | None, Query(max_length=64, description="name of the destination of a route")] = None,
    state: Annotated[models.WorkState | None, Query(description="state, or outcome of what has ended")] = None,
    study_instance_uid: OptionalStudyUid = None,
    series_instance_uid: OptionalSeriesUid = None,
) -> Page[models.WorkResource]:
    """What the node owes, newest first: messages to hooks and routes, jobs, retrievals, commitments."""
    wanted = {"kind": kind, "name": name, "destination": destination, "state": state}
    uids = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    return page.read("work", models.WorkResource, lambda index: index.work, **wanted, **uids)


@router.get("/work/{work}", responses=single())
def show_work(
    account: Reader, node: Node, audit: RequestAudit, response: Response, work: WorkId
) -> models.WorkResource:
    """One piece of work, and what became of it."""
    with node.index.reading(wait=False) as index:
        resource = work_resource(index, id=work)
    audit.queried(f"work {work}", 1)
    return tagged(response, resource)


@router.post("/work/{work}/cancel", responses=problems(*OF_CHANGES, CONFLICT))
def cancel_work(account: Writer, node: Node, change: Change, work: WorkId) -> models.WorkResource:
    """End work. What is under way ends within seconds; what was sent or received stays where it is.

    The command or plugin of a job is killed; the receiver of a webhook gets 409 at its next report.
    """

    def cancel(_: Terms) -> models.WorkResource:
        node.actions["cancel-work"](work=work, who=account.name)
        return _now(node, work)

    return change.make(models.WorkResource, lambda index: work_resource(index, id=work), cancel)


@router.post("/work/{work}/retry", responses=problems(*OF_CHANGES, CONFLICT))
def retry_work(account: Writer, node: Node, change: Change, work: WorkId) -> models.WorkResource:
    """Do work at once that waits, or once more that has ended: a message, or a retrieval."""

    def retry(_: Terms) -> models.WorkResource:
        node.actions["retry-work"](work=work, who=account.name)
        return _now(node, work)

    return change.make(models.WorkResource, lambda index: work_resource(index, id=work), retry)


def _now(node: Node, work: int) -> models.WorkResource:
    with node.index.reading(wait=False) as index:
        return work_resource(index, id=work)


def work_resource(index: ReadIndex, **wanted: object) -> models.WorkResource:
    """Return the resource of one piece of work.

    Raises
    ------
    ResourceNotFound
    """
    return models.WorkResource.of(only_row(index.work, "work", **wanted))
