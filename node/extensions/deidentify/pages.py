"""Downloads without identities that the pages offer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.extensions.deidentify.downloads import Content, ordered
from node.web.access import MEMBERS, Call, CurrentCall
from node.web.downloads import downloads_of
from node.web.pages.selected import SERIES, STUDY, SelectedSeries, SelectedStudies, Wanted

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)


class DeidentificationPage(BaseModel):
    """How identities are removed, and what is downloaded."""

    profile: Annotated[str, Field(max_length=64)]
    content: Content = "dicom"


class StudiesToDeidentify(SelectedStudies, DeidentificationPage):
    """The studies that are selected, and how their identities are removed."""


class SeriesToDeidentify(SelectedSeries, DeidentificationPage):
    """The series that are selected, and how their identities are removed."""


@router.get(f"{STUDY}/deidentified.zip")
@router.get(f"{SERIES}/deidentified.zip")
def deidentified_study(call: CurrentCall, wanted: Wanted, profile: str, content: Content = "dicom") -> Response:
    """A study or a series without identities, as a ZIP file: the page on which it is made."""
    return _begun(call, profile, content, [wanted.study], [wanted.series] if wanted.series else [])


@router.post("/selected/deidentified.zip", dependencies=MEMBERS)
def deidentified(call: CurrentCall, selected: Annotated[StudiesToDeidentify, Form()]) -> Response:
    """The studies without identities, as a ZIP file: the page on which it is made."""
    return _begun(call, selected.profile, selected.content, selected.uids)


@router.post(f"{STUDY}/selected/deidentified.zip", dependencies=MEMBERS)
def deidentified_selected(
    call: CurrentCall, study_instance_uid: str, selected: Annotated[SeriesToDeidentify, Form()]
) -> Response:
    """The selected series of a study without identities, as a ZIP file: the page on which it is made."""
    return _begun(call, selected.profile, selected.content, [study_instance_uid], selected.uids)


def _begun(
    call: Call,
    profile: str,
    content: Content,
    study_instance_uids: Sequence[str],
    series_instance_uids: Collection[str] = (),
) -> Response:
    download = ordered(call, profile, content, study_instance_uids, series_instance_uids)
    return RedirectResponse(f"/downloads/{downloads_of(call).begin(call, download)}", 303)
