"""The ledger of work: routes and their destinations, and each piece of work; pause, cancel, retry; files of downloads.

What is asked for where says the module that makes a download.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from node.index.look.views import ReadIndex
from node.index.rows.models.history import EventKind
from node.index.rows.repositories import Terms
from node.index.rows.states import Kind, Outcome
from node.version import __version__
from node.web import actions
from node.web.access import MEMBERS, READERS, WRITERS, Call, CurrentCall
from node.web.api.models import MAX_ID, EventResource, Moment, Resource, ResourceOfSeries, RowId
from node.web.api.routing import (
    OF_CHANGES,
    Change,
    OptionalSeriesUid,
    OptionalStudyUid,
    Page,
    RequestedPage,
    UidFilters,
    api_router,
    downloads,
    only_row,
    problems,
    single,
    tagged,
)
from node.web.downloads import downloads_of, file_of_download
from node.web.files import OCTETS, ZIP
from node.web.problem_types import CONFLICT, WRONG_CURSOR


class FailureResource(ResourceOfSeries):
    """The reason why a series, or one of its stacks, has no volume."""

    revision: int
    stack: int | None
    reason: str
    detail: str
    failed_at: Moment


class ExclusionResource(ResourceOfSeries):
    """An instance, or some of its frames, that is in no volume."""

    revision: int
    superseded: bool
    sop_instance_uid: str
    frames: int
    reason: str
    detail: str


class RejectionResource(Resource):
    """A kind of refusal, its count, and the remedy."""

    what: str
    rule: str
    peer: str
    calling_ae_title: str
    called_ae_title: str
    offered: str
    reason: str
    remedy: str
    count: int
    first_at: Moment
    last_at: Moment


class LostInstanceResource(Resource):
    """An instance that was acknowledged and is not here; `received_at` is when it was."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sha256: str
    source: str
    calling_ae_title: str
    peer: str
    received_at: Moment
    noticed_at: Moment


class RouteResource(Resource):
    """A destination of a route, and what waits for it; `route` is empty for what is sent by hand."""

    route: str
    destination: str
    paused: bool
    trouble: str | None
    trouble_since: Moment | None
    retry_at: Moment | None
    instances_behind: int | None
    series_behind: int | None
    waiting: int
    waiting_since: Moment | None
    given_up: int
    unconfirmed: int
    delivered: int
    delivered_at: Moment | None
    study_quiet_at: Moment | None = Field(description="when the first message is due that waits for a quiet study")
    due_at: Moment | None = Field(description="when something happens there next by itself")


class RouteChange(Resource):
    """What an action on a route changed: destinations paused or let go on, or messages that are tried again."""

    action: Literal["pause", "resume", "retry"]
    changed: int


WorkState = Literal["waiting", "running", Outcome]
"""The state of work, or how it ended."""


class WorkResource(Resource):
    """Work that is pending or has ended.

    `name` is that of the hook, the route or the peer, the AE title of the requestor, or the account that downloads;
    `key` the id of the message, the job or the retrieval, or the Transaction UID. `reason` says why it ended or waits;
    it may name patients. The numbers of instances are those of retrievals, commitments, copies and downloads. `file` is
    the address of a download that has succeeded, for its account and an hour.
    """

    id: RowId
    kind: Kind
    name: str
    destination: str
    key: str
    event: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    revision: int | None
    happened_at: Moment
    requested_by: str
    state: WorkState
    attempts: int
    due_at: Moment | None
    tried_at: Moment | None
    percent: int | None
    reason: str | None
    cancelled_by: str | None
    announced: int | None = None
    instances: int | None = None
    stored: int | None = None
    copied: int | None = None
    refused: int | None = None
    failed: int | None = None
    location: str | None = None
    certificate: dict[str, Any] | None = Field(None, description="of an erasure: what was erased, and who may have it")
    created_at: Moment
    changed_at: Moment
    ended_at: Moment | None

    @computed_field
    def file(self) -> str | None:
        is_there = self.kind == "download" and self.state == "succeeded"
        return f"/api/v1/work/{self.id}/file" if is_there else None


class SenderResource(Resource):
    """The quiet time learnt from a sender, null while too little is known, and from how many series and what gap."""

    calling_ae_title: str
    quiet_seconds: float | None
    series: int
    longest_gap_seconds: float | None
    learnt_at: Moment


class HostResource(Resource):
    """A host of an index that several share.

    `not_ready` says why it is not, by role; `leases` is what it does alone; `spooled_instances` are those whose files
    it alone has, because they are still to be moved to the object store. `left_behind` are those that only its disk had
    when it stopped. `clock_ahead_seconds`: its own clock before that of PostgreSQL. `problems` says by name what of it
    differs from the other hosts.
    """

    name: str
    state: Literal["alive", "draining", "stopped", "lost"]
    roles: list[str]
    version: str
    started_at: Moment
    seen_at: Moment
    is_behind: bool
    not_ready: dict[str, str]
    leases: list[str]
    spooled_instances: int
    left_behind: int | None
    clock_ahead_seconds: float
    problems: dict[str, str]


class NodeStatus(Resource):
    """The state of the node.

    Queued instances are acknowledged and not in the index yet; `journal_lag_seconds` is for how long.
    """

    version: str
    ae_title: str
    intake: str
    free_bytes: int
    queued_instances: int
    journal_bytes: int
    journal_lag_seconds: float
    series: dict[str, int]
    failures: dict[str, int]
    oldest_unconverted_at: Moment | None
    senders: list[SenderResource]
    hosts: list[HostResource]
    last_event: int


router = api_router(READERS)

WorkId = Annotated[int, Path(ge=0, le=MAX_ID, description="id of the work")]
RouteName = Annotated[str, Path(max_length=64, description="name of the route; - for what is sent by hand")]
DestinationName = Annotated[str, Path(max_length=64, description="name of the destination")]


@router.get("/routes", tags=["routes"])
def list_routes(call: CurrentCall) -> Page[RouteResource]:
    """The destinations of every route, with what waits for each."""
    with call.node.index.reading(wait=False) as index:
        return Page(items=_destinations(call, index))


@router.post(
    "/routes/{route}/{destination}/{action}", responses=problems(*OF_CHANGES), tags=["routes"], dependencies=WRITERS
)
def change_route(
    call: CurrentCall,
    change: Change,
    route: RouteName,
    destination: DestinationName,
    action: Annotated[Literal["pause", "resume", "retry"], Path(description="what to do")],
) -> RouteChange:
    """Pause a destination of a route, let it go on, or try again what waits, was given up or skipped."""

    def current(index: ReadIndex) -> RouteResource:
        found = _destinations(call, index)
        return next(row for row in found if (row.route or actions.BY_HAND, row.destination) == (route, destination))

    actions.require_destination(call.node, route, destination)
    return change.make(RouteChange, current, lambda _: actions.change_route(call, route, destination, action))


def _destinations(call: Call, index: ReadIndex) -> list[RouteResource]:
    rows = index.lanes("route", index.routes.destinations(), call.node.settings)
    return [RouteResource.of(row) for row in rows]


@router.get("/work", responses=problems(WRONG_CURSOR), tags=["work"])
def list_work(
    page: RequestedPage,
    kind: Annotated[Kind | None, Query(description="kind of work")] = None,
    name: Annotated[
        str | None, Query(max_length=64, description="name of the hook, the route or the peer; empty: sent by hand")
    ] = None,
    destination: Annotated[str | None, Query(max_length=64, description="name of the destination of a route")] = None,
    state: Annotated[WorkState | None, Query(description="state, or outcome of what has ended")] = None,
    study_instance_uid: OptionalStudyUid = None,
    series_instance_uid: OptionalSeriesUid = None,
) -> Page[WorkResource]:
    """Pending and ended work, newest first: messages to hooks and routes, jobs, retrievals, commitments, downloads."""
    wanted = {"kind": kind, "name": name, "destination": destination, "state": state}
    uids = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    return page.read("work", WorkResource, lambda index: index.work, **wanted, **uids)


@router.get("/work/{work}", responses=single(), tags=["work"], dependencies=MEMBERS)
def show_work(call: CurrentCall, response: Response, work: WorkId) -> WorkResource:
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
) -> WorkResource:
    """End work; or do at once what waits, or once more what has ended: a message, a retrieval, or a download.

    What is under way ends within seconds; what was sent or received stays where it is. The command or plugin of a job
    is killed; the receiver of a webhook gets 409 at its next report.
    """

    def act(_: Terms) -> WorkResource:
        call.act(f"{action}-work", work=work)
        with call.node.index.reading(wait=False) as index:
            return work_resource(index, id=work)

    return change.make(WorkResource, lambda index: work_resource(index, id=work), act)


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


class RemovedDownload(Resource):
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
    def _has_one_study_of_series(self) -> Self:
        if self.series_instance_uids and len(self.study_instance_uids) > 1:
            raise ValueError("series_instance_uids: of one study only; ask for each study by itself")
        return self

    @property
    def chosen(self) -> tuple[list[str], list[str]]:
        """The studies and the series, each once."""
        return list(dict.fromkeys(self.study_instance_uids)), list(dict.fromkeys(self.series_instance_uids))


def begun(call: Call, change: Change, begin: Callable[[], int]) -> WorkResource:
    """Begin a download, and return it with its address."""

    def shown(id: int) -> WorkResource:
        with call.node.index.reading(wait=False) as index:
            return work_resource(index, id=id)

    download = change.make(WorkResource, lambda _: Resource(), lambda _: shown(begin()))
    change.response.headers["Location"] = f"{router.prefix}/work/{download.id}"
    return download


def work_resource(index: ReadIndex, **wanted: object) -> WorkResource:
    """Return the resource of one piece of work, or raise ResourceNotFound."""
    return WorkResource.of(only_row(index.work, "work", **wanted))


ledger_router = api_router(READERS, "ledger")


@ledger_router.get("/failures", responses=problems(WRONG_CURSOR), dependencies=MEMBERS)
def list_failures(
    page: RequestedPage,
    uids: UidFilters,
    reason: Annotated[str | None, Query(max_length=64, description="keyword of docs/conversion.md")] = None,
) -> Page[FailureResource]:
    """The reasons why series, or some of their stacks, have no volume (docs/conversion.md), newest first."""
    return page.read("failures", FailureResource, lambda index: index.failures, **uids, reason=reason)


@ledger_router.get("/exclusions", responses=problems(WRONG_CURSOR), dependencies=MEMBERS)
def list_exclusions(page: RequestedPage, uids: UidFilters) -> Page[ExclusionResource]:
    """Instances, or some of their frames, that conversions excluded from their volumes, newest first."""
    return page.read("exclusions", ExclusionResource, lambda index: index.exclusions, **uids)


@ledger_router.get("/rejections", responses=problems(WRONG_CURSOR))
def list_rejections(
    page: RequestedPage, rule: Annotated[str | None, Query(max_length=64, description="the rule that refused")] = None
) -> Page[RejectionResource]:
    """Refused connections, associations and instances, with sender and remedy, newest first."""
    return page.read("rejections", RejectionResource, lambda index: index.rejections, rule=rule)


@ledger_router.get("/lost", responses=problems(WRONG_CURSOR))
def list_lost(
    page: RequestedPage, study_instance_uid: OptionalStudyUid = None, series_instance_uid: OptionalSeriesUid = None
) -> Page[LostInstanceResource]:
    """Instances that were acknowledged and are not here, until they come again, are deleted or are written off."""
    wanted = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    return page.read("lost", LostInstanceResource, lambda index: index.lost, **wanted)


@ledger_router.get("/history", responses=problems(WRONG_CURSOR), dependencies=MEMBERS)
def list_history(
    page: RequestedPage,
    kind: Annotated[EventKind | None, Query(description="kind of event")] = None,
    series_instance_uid: OptionalSeriesUid = None,
) -> Page[EventResource]:
    """Events (docs/lifecycle.md), newest first; `/events` streams them as they happen."""
    return page.read(
        "history", EventResource, lambda index: index.events, kind=kind, series_instance_uid=series_instance_uid
    )


@ledger_router.get("/status")
def show_status(call: CurrentCall) -> NodeStatus:
    """The state of the node: queues, failures, and whether instances are accepted."""
    applier = call.node.ingest.applier
    with call.node.index.reading(wait=False, following=True) as index:
        return NodeStatus(
            version=__version__,
            ae_title=call.node.settings.dicom.ae_title,
            intake=call.node.ingest.refusal() or "open",
            free_bytes=call.node.archive.intake.free_bytes(),
            queued_instances=applier.waiting,
            journal_bytes=call.node.ingest.journal.size,
            journal_lag_seconds=round(applier.lag_seconds, 3),
            series=index.series.count_by_state(),
            failures=index.failures.count_by_reason(),
            oldest_unconverted_at=index.series.oldest_unconverted(),
            senders=[SenderResource.of(row) for row in index.senders.all()],
            hosts=[HostResource.of(row) for row in index.hosts.all(call.node.index.now())],
            last_event=index.events.newest(),
        )
