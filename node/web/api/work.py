"""The ledger of work: routes and their destinations, and each piece of work; pause, cancel, retry."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query, Response

from node.index.database.reading import ReadIndex
from node.index.nouns.terms import Terms
from node.web import actions
from node.web.access import Call, ReaderCall, WriterCall
from node.web.api import models
from node.web.api.changes import Change, tagged
from node.web.api.paging import OptionalSeriesUid, OptionalStudyUid, Page, RequestedPage, only_row
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.problem_types import CONFLICT, WRONG_CURSOR

router = api_router()

WorkId = Annotated[int, Path(ge=0, le=models.MAX_ID, description="id of the work")]
RouteName = Annotated[str, Path(max_length=64, description="name of the route; - for what is sent by hand")]
DestinationName = Annotated[str, Path(max_length=64, description="name of the destination")]


@router.get("/routes", tags=["routes"])
def list_routes(call: ReaderCall) -> Page[models.RouteResource]:
    """The destinations of every route, with what waits for each."""
    with call.node.index.reading(wait=False) as index:
        return Page(items=[models.RouteResource.of(row) for row in index.routes.destinations()])


@router.post("/routes/{route}/{destination}/{action}", responses=problems(*OF_CHANGES), tags=["routes"])
def change_route(
    call: WriterCall,
    change: Change,
    route: RouteName,
    destination: DestinationName,
    action: Annotated[Literal["pause", "resume", "retry"], Path(description="what to do")],
) -> models.RouteChange:
    """Pause a destination of a route, let it go on, or try again what waits, was given up or skipped."""

    def current(index: ReadIndex) -> models.RouteResource:
        found = (models.RouteResource.of(row) for row in index.routes.destinations())
        return next(row for row in found if (row.route or actions.BY_HAND, row.destination) == (route, destination))

    actions.require_destination(call.node, route, destination)
    return change.make(
        models.RouteChange,
        current,
        lambda _: actions.change_route(call, route, destination, action),
    )


@router.get("/work", responses=problems(WRONG_CURSOR), tags=["work"])
def list_work(
    page: RequestedPage,
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


@router.get("/work/{work}", responses=single(), tags=["work"])
def show_work(call: ReaderCall, response: Response, work: WorkId) -> models.WorkResource:
    """One piece of work, and what became of it."""
    with call.node.index.reading(wait=False) as index:
        resource = work_resource(index, id=work)
    call.audit.queried(f"work {work}", 1)
    return tagged(response, resource)


@router.post("/work/{work}/cancel", responses=problems(*OF_CHANGES, CONFLICT), tags=["work"])
def cancel_work(call: WriterCall, change: Change, work: WorkId) -> models.WorkResource:
    """End work. What is under way ends within seconds; what was sent or received stays where it is.

    The command or plugin of a job is killed; the receiver of a webhook gets 409 at its next report.
    """
    return _change(call, change, work, "cancel-work")


@router.post("/work/{work}/retry", responses=problems(*OF_CHANGES, CONFLICT), tags=["work"])
def retry_work(call: WriterCall, change: Change, work: WorkId) -> models.WorkResource:
    """Do work at once that waits, or once more that has ended: a message, or a retrieval."""
    return _change(call, change, work, "retry-work")


def _change(call: Call, change: Change, work: int, action: Literal["cancel-work", "retry-work"]) -> models.WorkResource:
    def act(_: Terms) -> models.WorkResource:
        call.act(action, work=work)
        with call.node.index.reading(wait=False) as index:
            return work_resource(index, id=work)

    return change.make(models.WorkResource, lambda index: work_resource(index, id=work), act)


def work_resource(index: ReadIndex, **wanted: object) -> models.WorkResource:
    """Return the resource of one piece of work, or raise ResourceNotFound."""
    return models.WorkResource.of(only_row(index.work, "work", **wanted))
