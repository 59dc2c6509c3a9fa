"""Downloads without identities."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import Field

from node.extensions.deidentify.downloads import Content, deidentified_zip, ordered
from node.web.access import ReaderCall, for_projects
from node.web.api.changes import Change
from node.web.api.downloads import DownloadResource, Downloads, OfStudies, begun
from node.web.api.models import BINARY
from node.web.api.resources import SeriesUid, StudyUid
from node.web.api.routing import OF_CHANGES, api_router, problems
from node.web.files import OCTETS, ZIP
from node.web.prepared import prepared_of
from node.web.problem_types import INVALID_REQUEST, NOT_FOUND

router = api_router()

Profile = Annotated[
    str,
    Query(max_length=64, description="name of a table [deidentify.NAME] of the configuration, with key and options"),
]
Wanted = Annotated[
    Content, Query(description="dicom: the instances; volumes: files that are converted from these, with sidecars")
]

DOWNLOAD: dict[int | str, dict[str, Any]] = {
    **problems(NOT_FOUND, INVALID_REQUEST),
    200: {
        "description": "A ZIP file; its last member, deidentification.json, says what was left out, and why",
        "content": {media_type: {"schema": BINARY} for media_type in (ZIP, OCTETS)},
    },
}


@router.get("/studies/{study_instance_uid}/deidentified", response_class=Response, responses=DOWNLOAD, tags=["studies"])
def download_deidentified_study(
    call: ReaderCall, study_instance_uid: StudyUid, profile: Profile, content: Wanted = "dicom"
) -> Response:
    """A study without identities, as a ZIP file; what cannot be called clean is left out.

    It is application/zip, or application/octet-stream if the request accepts only this.
    """
    return deidentified_zip(call, profile, content, [study_instance_uid])


@router.get(
    "/studies/{study_instance_uid}/series/{series_instance_uid}/deidentified",
    response_class=Response,
    responses=DOWNLOAD,
    tags=["series"],
)
def download_deidentified_series(
    call: ReaderCall,
    study_instance_uid: StudyUid,
    series_instance_uid: SeriesUid,
    profile: Profile,
    content: Wanted = "dicom",
) -> Response:
    """A series without identities, as a ZIP file; what cannot be called clean is left out.

    It is application/zip, or application/octet-stream if the request accepts only this.
    """
    return deidentified_zip(call, profile, content, [study_instance_uid], [series_instance_uid])


class NewDeidentified(OfStudies):
    """Studies or series without identities: `profile` is the name of a table [deidentify.NAME] of the configuration."""

    profile: Annotated[str, Field(max_length=64)]
    content: Content = "dicom"


@router.post("/downloads/deidentified", status_code=202, responses=problems(*OF_CHANGES), tags=["downloads"])
@for_projects
def prepare_deidentified(call: ReaderCall, change: Change, wanted: NewDeidentified) -> DownloadResource:
    """Begin to make a ZIP file of studies or series without identities, which is fetched when it is ready."""
    studies, series = wanted.chosen

    def act(_: object) -> DownloadResource:
        order = ordered(call, wanted.profile, wanted.content, studies, series)
        return begun(call, change.response, prepared_of(call).begin(call, *order))

    return change.make(DownloadResource, lambda _: Downloads(items=[]), act)
