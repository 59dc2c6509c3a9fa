"""The ledger of work: routes and their destinations, and each piece of work; pause, cancel, retry; files of downloads.

What is asked for where says the module that makes a download.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from node.index.database.reading import ReadIndex
from node.index.engine.rows import Terms
from node.index.work.states import Kind
from node.web import actions
from node.web.access import MEMBERS, READERS, WRITERS, Call, CurrentCall
from node.web.api import models
from node.web.api.changes import Change, tagged
from node.web.api.paging import OptionalSeriesUid, OptionalStudyUid, Page, RequestedPage, only_row
from node.web.api.routing import OF_CHANGES, api_router, downloads, problems, single
from node.web.downloads import downloads_of, file_of_download
from node.web.files import OCTETS, ZIP
from node.web.problem_types import CONFLICT, WRONG_CURSOR

router = api_router(READERS)

WorkId = Annotated[int, Path(ge=0, le=models.MAX_ID, description="id of the work")]
RouteName = Annotated[str, Path(max_length=64, description="name of the route; - for what is sent by hand")]
DestinationName = Annotated[str, Path(max_length=64, description="name of the destination")]


@router.get("/routes", tags=["routes"])
def list_routes(call: CurrentCall) -> Page[models.RouteResource]:
    """The destinations of every route, with what waits for each."""
    with call.node.index.reading(wait=False) as index:
        return Page(items=[models.RouteResource.of(row) for row in index.routes.destinations()])


@router.post(
    "/routes/{route}/{destination}/{action}", responses=problems(*OF_CHANGES), tags=["routes"], dependencies=WRITERS
)
def change_route(
    call: CurrentCall,
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
    return change.make(models.RouteChange, current, lambda _: actions.change_route(call, route, destination, action))


@router.get("/work", responses=problems(WRONG_CURSOR), tags=["work"])
def list_work(
    page: RequestedPage,
    kind: Annotated[Kind | None, Query(description="kind of work")] = None,
    name: Annotated[
        str | None, Query(max_length=64, description="name of the hook, the route or the peer; empty: sent by hand")
    ] = None,
    destination: Annotated[str | None, Query(max_length=64, description="name of the destination of a route")] = None,
    state: Annotated[models.WorkState | None, Query(description="state, or outcome of what has ended")] = None,
    study_instance_uid: OptionalStudyUid = None,
    series_instance_uid: OptionalSeriesUid = None,
) -> Page[models.WorkResource]:
    """Pending and ended work, newest first: messages to hooks and routes, jobs, retrievals, commitments, downloads."""
    wanted = {"kind": kind, "name": name, "destination": destination, "state": state}
    uids = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    return page.read("work", models.WorkResource, lambda index: index.work, **wanted, **uids)


@router.get("/work/{work}", responses=single(), tags=["work"], dependencies=MEMBERS)
def show_work(call: CurrentCall, response: Response, work: WorkId) -> models.WorkResource:
    """One piece of work, and what became of it; members of projects see their downloads."""
    with call.node.index.reading(wait=False) as index:
        resource = work_resource(index, id=work)
    call.audit.queried(f"work {work}", 1)
    return tagged(response, resource)


@router.post("/work/{work}/{action}", responses=problems(*OF_CHANGES, CONFLICT), tags=["work"], dependencies=WRITERS)
def change_work(
    call: CurrentCall,
    change: Change,
    work: WorkId,
    action: Annotated[Literal["cancel", "retry"], Path(description="what to do")],
) -> models.WorkResource:
    """End work; or do at once what waits, or once more what has ended: a message, a retrieval, or a download.

    What is under way ends within seconds; what was sent or received stays where it is. The command or plugin of a job
    is killed; the receiver of a webhook gets 409 at its next report.
    """

    def act(_: Terms) -> models.WorkResource:
        call.act(f"{action}-work", work=work)
        with call.node.index.reading(wait=False) as index:
            return work_resource(index, id=work)

    return change.make(models.WorkResource, lambda index: work_resource(index, id=work), act)


@router.head("/work/{work}/file", include_in_schema=False, dependencies=MEMBERS)
@router.get(
    "/work/{work}/file",
    response_class=Response,
    responses=downloads("The ZIP file", ZIP, OCTETS),
    tags=["downloads"],
    dependencies=MEMBERS,
)
def fetch_download(call: CurrentCall, work: WorkId) -> Response:
    """The file of a download of the caller that is made, or a range of it.

    It is application/zip, or application/octet-stream if the request accepts only this.
    """
    return file_of_download(call, work)


class RemovedDownload(models.Resource):
    """The `id` that a download had."""

    removed: int


@router.delete("/work/{work}/file", responses=problems(*OF_CHANGES), tags=["downloads"], dependencies=MEMBERS)
def remove_download(call: CurrentCall, change: Change, work: WorkId) -> RemovedDownload:
    """End a download of the caller, and remove its file."""

    def act(_: Terms) -> RemovedDownload:
        downloads_of(call).remove(call, work)
        return RemovedDownload(removed=work)

    return change.make(RemovedDownload, lambda index: work_resource(index, id=work), act)


MAX_SELECTED = 1000

Uid = Annotated[str, Field(max_length=64)]


class OfStudies(BaseModel):
    """Which studies, or which series of one study."""

    model_config = ConfigDict(extra="forbid")

    study_instance_uids: Annotated[list[Uid], Field(min_length=1, max_length=MAX_SELECTED)]
    series_instance_uids: Annotated[list[Uid], Field(max_length=MAX_SELECTED)] = []

    @model_validator(mode="after")
    def _has_one_study_of_series(self) -> OfStudies:
        if self.series_instance_uids and len(self.study_instance_uids) > 1:
            raise ValueError("series_instance_uids: of one study only; ask for each study by itself")
        return self

    @property
    def chosen(self) -> tuple[list[str], list[str]]:
        """The studies and the series, each once."""
        return list(dict.fromkeys(self.study_instance_uids)), list(dict.fromkeys(self.series_instance_uids))


def begun(call: Call, change: Change, begin: Callable[[], int]) -> models.WorkResource:
    """Begin a download, and return it with its address."""

    def shown(id: int) -> models.WorkResource:
        with call.node.index.reading(wait=False) as index:
            return work_resource(index, id=id)

    download = change.make(models.WorkResource, lambda _: models.Resource(), lambda _: shown(begin()))
    change.response.headers["Location"] = f"{router.prefix}/work/{download.id}"
    return download


def work_resource(index: ReadIndex, **wanted: object) -> models.WorkResource:
    """Return the resource of one piece of work, or raise ResourceNotFound."""
    return models.WorkResource.of(only_row(index.work, "work", **wanted))
