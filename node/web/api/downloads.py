"""REST: downloads that are made before they are fetched. What is asked for where says the module that makes it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from fastapi import Path, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from node.web.access import Call, ReaderCall, for_projects
from node.web.api.changes import Change
from node.web.api.models import Moment, Resource
from node.web.api.routing import OF_CHANGES, api_router, downloads, problems
from node.web.files import OCTETS, ZIP
from node.web.prepared import Prepared, prepared_file, prepared_of
from node.web.problem_types import NOT_FOUND

router = api_router("downloads")

MAX_SELECTED = 1000

Number = Annotated[str, Path(max_length=64, description="`id` of the download")]
Uid = Annotated[str, Field(max_length=64)]


class DownloadResource(Resource):
    """A download of the caller: how far it is, and for how long its file is kept.

    `total` 0: nobody knows how much it is. `left_seconds`: an estimate, null while there is none. `file`: its address,
    once it is `ready`. `detail`: why it `failed`.
    """

    id: str
    name: str
    state: Literal["waiting", "making", "ready", "failed"]
    detail: str
    unit: str
    total: int
    done: int
    bytes: int
    left_seconds: int | None
    expires_at: Moment | None
    file: str | None


class Downloads(Resource):
    """The downloads of the caller, oldest first."""

    items: list[DownloadResource]


class RemovedDownload(Resource):
    """The number that a download had."""

    removed: str


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


@router.get("/downloads", responses=problems())
@for_projects
def list_downloads(call: ReaderCall) -> Downloads:
    """The downloads that the account of the request has asked for, here and on the pages."""
    return Downloads(items=[_resource(call, number, one) for number, one in prepared_of(call).all_of(call)])


@router.get("/downloads/{download}", responses=problems(NOT_FOUND))
@for_projects
def show_download(call: ReaderCall, download: Number) -> DownloadResource:
    """How far a download is."""
    return shown(call, download)


@router.head("/downloads/{download}/file", include_in_schema=False)
@router.get("/downloads/{download}/file", response_class=Response, responses=downloads("The ZIP file", ZIP, OCTETS))
@for_projects
def fetch_download(call: ReaderCall, download: Number) -> Response:
    """The file of a download that is ready, or a range of it.

    It is application/zip, or application/octet-stream if the request accepts only this.
    """
    return prepared_file(call, download)


@router.delete("/downloads/{download}", responses=problems(*OF_CHANGES))
@for_projects
def remove_download(call: ReaderCall, change: Change, download: Number) -> RemovedDownload:
    """End a download, and remove its file."""

    def act(_: object) -> RemovedDownload:
        prepared_of(call).of(call, download)
        prepared_of(call).remove(download)
        return RemovedDownload(removed=download)

    return change.make(RemovedDownload, lambda _: shown(call, download), act)


def begun(call: Call, response: Response, number: str) -> DownloadResource:
    """Return a download that was begun, with its address."""
    response.headers["Location"] = f"{router.prefix}/downloads/{number}"
    return shown(call, number)


def shown(call: Call, number: str) -> DownloadResource:
    """Return a download of the caller. Raises ResourceNotFound if there is none, or no longer."""
    return _resource(call, number, prepared_of(call).of(call, number))


def _resource(call: Call, number: str, prepared: Prepared) -> DownloadResource:
    kept = prepared.kept_seconds
    return DownloadResource(
        id=number,
        name=prepared.wanted.name,
        state=prepared.state,
        detail=prepared.detail,
        unit=prepared.wanted.unit,
        total=prepared.wanted.total,
        done=prepared.done,
        bytes=prepared.bytes,
        left_seconds=prepared.left_seconds,
        expires_at=None if kept is None else call.node.ingest.now() + dt.timedelta(seconds=kept),
        file=f"{router.prefix}/downloads/{number}/file" if prepared.state == "ready" else None,
    )
