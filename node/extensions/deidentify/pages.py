"""Downloads without identities that the pages offer."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Response
from pydantic import BaseModel, Field

from node.extensions.deidentify.downloads import Content, deidentified_zip
from node.extensions.pages.actions import SelectedSeries, SelectedStudies
from node.web.access import ReaderCall, for_projects

router = APIRouter(include_in_schema=False)


class Deidentification(BaseModel):
    """How identities are removed, and what is downloaded."""

    profile: Annotated[str, Field(max_length=64)]
    content: Content = "dicom"


class StudiesToDeidentify(SelectedStudies, Deidentification):
    """The studies that are selected, and how their identities are removed."""


class SeriesToDeidentify(SelectedSeries, Deidentification):
    """The series that are selected, and how their identities are removed."""


@router.get("/studies/{study_instance_uid}/deidentified.zip")
@for_projects
def deidentified_study(call: ReaderCall, study_instance_uid: str, profile: str, content: Content = "dicom") -> Response:
    """A study without identities, as a ZIP file, or the page on which it is made."""
    return deidentified_zip(call, profile, content, [study_instance_uid], prepares=True)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/deidentified.zip")
@for_projects
def deidentified_series(
    call: ReaderCall, study_instance_uid: str, series_instance_uid: str, profile: str, content: Content = "dicom"
) -> Response:
    """A series without identities, as a ZIP file, or the page on which it is made."""
    return deidentified_zip(call, profile, content, [study_instance_uid], [series_instance_uid], prepares=True)


@router.post("/selected/deidentified.zip")
@for_projects
def deidentified(call: ReaderCall, selected: Annotated[StudiesToDeidentify, Form()]) -> Response:
    """The studies without identities, as a ZIP file, or the page on which it is made."""
    return deidentified_zip(call, selected.profile, selected.content, selected.uids, prepares=True)


@router.post("/studies/{study_instance_uid}/selected/deidentified.zip")
@for_projects
def deidentified_selected(
    call: ReaderCall, study_instance_uid: str, selected: Annotated[SeriesToDeidentify, Form()]
) -> Response:
    """The selected series of a study without identities, as a ZIP file, or the page on which it is made."""
    return deidentified_zip(
        call, selected.profile, selected.content, [study_instance_uid], selected.uids, prepares=True
    )
