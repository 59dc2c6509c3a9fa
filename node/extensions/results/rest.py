"""Jobs of hooks, as their receivers use them: show, progress, files of results, outcome; others: `node.web.api.work`.

A receiver uses the token in its message, which is valid for its job alone; people use their accounts.
"""

from contextlib import suppress
from hashlib import sha256
from typing import Annotated, Literal

import structlog
from fastapi import HTTPException, Path, Response
from fastapi.concurrency import contextmanager_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from node.audit.audit_log import AuditAction, AuditEvent
from node.errors import ResultRefused, counted
from node.extensions.results.listed import JobViews
from node.extensions.results.manifest import FILE_NAME, Algorithm, ManifestResult
from node.extensions.results.rows import ResultRepository
from node.index.look.views import ReadIndex
from node.index.rows.models.work import JobState
from node.index.rows.repositories import Terms
from node.index.rules.work.messages import JobEnded
from node.web.access import CurrentCall, allow
from node.web.api.models import BINARY, Moment, Resource
from node.web.api.routing import OF_CHANGES, Change, api_router, problems, single, tagged
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.problem_types import CONFLICT, RESULT_REFUSED
from node.web.services import Services

MAX_DETAIL = 1000
"""Characters of what a job says of itself."""


class JobProgress(BaseModel):
    """How far a job is; what is left out stays as it was."""

    model_config = ConfigDict(extra="forbid")

    percent: Annotated[int | None, Field(ge=0, le=100)] = None
    detail: Annotated[str | None, Field(max_length=MAX_DETAIL)] = None


class JobOutcome(BaseModel):
    """The end of a job.

    `results` say what its files are; unset: a file results.json does or, without it, their names do.
    """

    model_config = ConfigDict(extra="forbid")

    state: Literal["succeeded", "failed"]
    detail: Annotated[str | None, Field(max_length=MAX_DETAIL)] = None
    results: Annotated[list[ManifestResult] | None, Field(max_length=64)] = None
    algorithm: Algorithm | None = None


log = structlog.get_logger()


class JobResource(Resource):
    """What a hook with results was asked to do.

    `revision` is that of the series that the job is about, `newest_revision` that of the series now. `detail` is what
    the hook says; it may name patients.
    """

    job_id: str
    hook: str
    event: str
    study_instance_uid: str
    series_instance_uid: str | None
    revision: int | None
    newest_revision: int | None
    state: JobState
    percent: int | None
    detail: str | None
    location: str | None
    results_stored: int
    created_at: Moment
    changed_at: Moment
    due_at: Moment | None
    ended_at: Moment | None


class ResultResource(Resource):
    """An instance that was made of a file of a job; `segments` are the numbers of the labels of a mask."""

    file: str
    kind: Literal["segmentation", "report", "document", "instance"]
    source_series_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    segments: dict[str, int] | None
    stored_at: Moment


class JobWithResults(JobResource):
    """A job and its results."""

    results: list[ResultResource]


class JobFile(Resource):
    """A file of a job, which becomes a result when the job succeeds."""

    file: str
    bytes: int
    sha256: str


router = api_router([allow("read", job=True)], "jobs")

WORKERS = (allow("write", job=True),)
"""The receiver of a job by its token, or an account with the role write."""

JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="id of the job")]
FileName = Annotated[str, Path(pattern=f"^{FILE_NAME.pattern}$", description="name of the file")]

PIECE_BYTES = 1 << 20
"""Bytes of a body that are collected before they are written."""

_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": BINARY}}}}


@router.get("/jobs/{job}", responses=single())
def show_job(call: CurrentCall, response: Response, job: JobId) -> JobWithResults:
    """A job, and its results."""
    with call.node.index.reading(wait=False) as index:
        resource = _job(index, job)
    call.audit.queried(f"job {job}", 1)
    return tagged(response, resource)


@router.post("/jobs/{job}/progress", responses=problems(*OF_CHANGES, CONFLICT), dependencies=WORKERS)
def report_progress(call: CurrentCall, change: Change, job: JobId, progress: JobProgress) -> JobWithResults:
    """Say how far a job is. 409: it has ended, and work on it can end as well."""

    def report(_: Terms) -> JobWithResults:
        now, jobs = call.node.ingest.now(), call.node.index.repository(ResultRepository)
        jobs.report(job, progress.percent, progress.detail, now)
        return _now(call.node, job)

    return change.make(JobWithResults, lambda index: _job(index, job), report)


@router.put(
    "/jobs/{job}/files/{file}",
    openapi_extra=_BODY,
    responses=problems(*OF_CHANGES, CONFLICT, RESULT_REFUSED),
    dependencies=WORKERS,
)
async def put_job_file(call: CurrentCall, job: JobId, file: FileName) -> JobFile:
    """Keep a file of a job until its outcome, durably, in place of an earlier one of this name."""
    node = call.node
    found = await run_in_threadpool(node.index.jobs.with_id, job)
    if not found.is_open:
        raise JobEnded
    digest, count = sha256(), 0
    try:
        async with contextmanager_in_threadpool(node.results.new_file(found, file)) as stream:
            gathered = bytearray()
            async for data in call.request.stream():
                gathered += data
                if len(gathered) >= PIECE_BYTES:
                    await run_in_threadpool(stream.write, bytes(gathered))
                    digest.update(gathered)
                    count += len(gathered)
                    gathered.clear()
            await run_in_threadpool(stream.write, bytes(gathered))
            digest.update(gathered)
            count += len(gathered)
    except ResultRefused as error:
        await run_in_threadpool(_note_refusal, node, job, error)
        raise
    except ClientDisconnect:
        log.warning("result_interrupted", bytes=count)
        raise HTTPException(400, "the client closed the connection within the body") from None
    return JobFile(file=file, bytes=count, sha256=digest.hexdigest())


@router.post("/jobs/{job}/outcome", responses=problems(*OF_CHANGES, CONFLICT, RESULT_REFUSED), dependencies=WORKERS)
def report_outcome(call: CurrentCall, change: Change, job: JobId, outcome: JobOutcome) -> JobWithResults:
    """End a job. If it has succeeded, its files become instances, which are stored and indexed with the answer.

    If one of the files cannot become a result, the others are stored and the job goes on: send the file again and
    report again, or report that the job has failed.
    """

    def end(_: Terms) -> JobWithResults:
        if outcome.state == "failed":
            call.node.results.end(job, "failed", outcome.detail)
        else:
            manifest = outcome.model_dump(include={"results", "algorithm"})
            try:
                call.node.results.finish(job, manifest if outcome.results is not None else None, outcome.detail)
            except ResultRefused as error:
                _note_refusal(call.node, job, error)
                raise
        resource = _now(call.node, job)
        detail = f"job {job}: {counted(len(resource.results), 'result')}"
        objects = [of_study(resource.study_instance_uid, None)]
        call.audit.changed(AuditEvent.INSTANCES_ACCESSED, AuditAction.EXECUTE, objects, detail)
        return resource

    return change.make(JobWithResults, lambda index: _job(index, job), end)


def _note_refusal(node: Services, job: str, error: ResultRefused) -> None:
    """Let the job show the refusal, which its receiver alone would know."""
    with suppress(JobEnded):
        detail, jobs = f"refused: {error}"[:MAX_DETAIL], node.index.repository(ResultRepository)
        jobs.report(job, None, detail, node.ingest.now(), is_refused=True)


def _now(node: Services, job: str) -> JobWithResults:
    with node.index.reading(wait=False) as index:
        return _job(index, job)


def _job(index: ReadIndex, job: str) -> JobWithResults:
    jobs = index.views(JobViews)
    row = next(iter(jobs.newest(1, job_id=job)), None)
    if row is None:
        raise ResourceNotFound("job")
    return JobWithResults.of({**row, "results": jobs.results(row["id"])})
