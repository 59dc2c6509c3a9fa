"""Copies without identities as downloads, which are made in the background: REST, and the forms of the pages."""

from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse
from pydantic import Field

from node.extensions.deidentify.downloads import Content, ordered
from node.web.access import MEMBERS, Call, CurrentCall
from node.web.api.routing import OF_CHANGES, Change, api_router, problems
from node.web.api.work import OfStudies, WorkResource, begun
from node.web.downloads import downloads_of
from node.web.pages.selected import SERIES, STUDY, Selected, Selection

router = api_router(MEMBERS, "downloads")


class NewDeidentified(OfStudies):
    """Studies or series without identities: `profile` is the name of a table [deidentify.NAME] of the configuration."""

    profile: Annotated[str, Field(max_length=64)]
    content: Content = "dicom"


@router.post("/downloads/deidentified", status_code=202, responses=problems(*OF_CHANGES), dependencies=MEMBERS)
def prepare_deidentified(call: CurrentCall, change: Change, wanted: NewDeidentified) -> WorkResource:
    """Begin to make a ZIP file of studies or series without identities, which is fetched when it is made."""
    order = wanted.profile, wanted.content, *wanted.chosen
    return begun(call, change, lambda: downloads_of(call).begin(call, ordered(call, *order)))


pages_router = APIRouter(include_in_schema=False, dependencies=MEMBERS)


@pages_router.get(f"{STUDY}/deidentified.zip")
@pages_router.get(f"{SERIES}/deidentified.zip")
def deidentified_of_one(call: CurrentCall, selected: Selected, profile: str, content: Content = "dicom") -> Response:
    """A study or a series without identities, as a ZIP file: the page on which it is made."""
    return _begun(call, profile, content, selected)


@pages_router.post("/selected/deidentified.zip", dependencies=MEMBERS)
@pages_router.post(f"{STUDY}/selected/deidentified.zip", dependencies=MEMBERS)
def deidentified(
    call: CurrentCall,
    selected: Selected,
    profile: Annotated[str, Form(max_length=64)],
    content: Annotated[Content, Form()] = "dicom",
) -> Response:
    """The selected studies or series without identities, as a ZIP file: the page on which it is made."""
    return _begun(call, profile, content, selected)


def _begun(call: Call, profile: str, content: Content, selected: Selection) -> Response:
    download = ordered(call, profile, content, selected.studies, selected.series)
    return RedirectResponse(f"/downloads/{downloads_of(call).begin(call, download)}", 303)
