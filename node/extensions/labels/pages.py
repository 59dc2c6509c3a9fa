"""Forms of the pages: give and take labels, write and remove comments."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse
from pydantic import StringConstraints

from node.api import (
    SERIES,
    STUDY,
    WRITERS,
    WRITING_MEMBERS,
    CurrentCall,
    ResourceNotFound,
    Role,
    RowId,
    Selected,
    Wanted,
    series_url,
    study_url,
)
from node.extensions.labels.marks import MAX_COMMENT_CHARACTERS, MAX_LABEL_CHARACTERS, ReadMarks

router = APIRouter(include_in_schema=False, dependencies=WRITERS)

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LABEL_CHARACTERS)]


@router.post("/selected/labels", dependencies=WRITING_MEMBERS)
@router.post(f"{STUDY}/selected/labels", dependencies=WRITING_MEMBERS)
@router.post(f"{STUDY}/labels", dependencies=WRITING_MEMBERS)
@router.post(f"{SERIES}/labels", dependencies=WRITING_MEMBERS)
def change_label(
    call: CurrentCall, selected: Selected, label: Annotated[Label, Form()], remove: Annotated[bool, Form()] = False
) -> Response:
    """Give a label to studies or series, or take it away; series that are gone are left out."""
    targets = [(study, "") for study in selected.studies]
    if selected.series:
        with call.node.index.reading() as index:
            targets = [(study, uid) for study, series in selected.there(index).items() for uid in series]
    with call.changing(*targets):
        call.act("change-labels", targets=targets, **{"remove" if remove else "add": [label]})
    return RedirectResponse(selected.url, HTTPStatus.SEE_OTHER)


@router.post(f"{STUDY}/comments", dependencies=WRITING_MEMBERS)
@router.post(f"{SERIES}/comments", dependencies=WRITING_MEMBERS)
def write_comment(
    call: CurrentCall, wanted: Wanted, comment: Annotated[str, Form(min_length=1, max_length=MAX_COMMENT_CHARACTERS)]
) -> Response:
    """Write a comment on a study or a series."""
    with call.changing(wanted):
        call.act("comment", study=wanted.study, series=wanted.series or "", comment=comment)
    return RedirectResponse(wanted.url, HTTPStatus.SEE_OTHER)


@router.post("/comments/{comment}/remove", dependencies=WRITING_MEMBERS)
def remove_comment(call: CurrentCall, comment: RowId) -> Response:
    """Remove a comment of one's own; administrators remove any."""
    with call.node.index.reading() as index:
        row = index.repository(ReadMarks).comment(comment)
    if row is None:
        raise ResourceNotFound("comment")
    study, series = row["study_instance_uid"], row["series_instance_uid"]
    with call.changing((study, series)):
        call.act("remove-comment", number=comment, any_account=call.account.role == Role.ADMIN)
    return RedirectResponse(series_url(study, series) if series else study_url(study), HTTPStatus.SEE_OTHER)
