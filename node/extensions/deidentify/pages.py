"""Downloads without identities that the pages offer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from node.extensions.deidentify.downloads import Content, ordered
from node.web.access import MEMBERS, Call, CurrentCall
from node.web.downloads import downloads_of
from node.web.pages.selected import SERIES, STUDY, Selected, Selection

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)


@router.get(f"{STUDY}/deidentified.zip")
@router.get(f"{SERIES}/deidentified.zip")
def deidentified_of_one(call: CurrentCall, selected: Selected, profile: str, content: Content = "dicom") -> Response:
    """A study or a series without identities, as a ZIP file: the page on which it is made."""
    return _begun(call, profile, content, selected)


@router.post("/selected/deidentified.zip", dependencies=MEMBERS)
@router.post(f"{STUDY}/selected/deidentified.zip", dependencies=MEMBERS)
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
