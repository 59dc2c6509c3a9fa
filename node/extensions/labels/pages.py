"""Forms of the pages: give and take labels, write and remove comments."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, StringConstraints

from node.api import (
    SERIES,
    STUDY,
    WRITERS,
    WRITING_MEMBERS,
    Call,
    CurrentCall,
    ResourceNotFound,
    Role,
    RowId,
    SelectedSeries,
    SelectedStudies,
    Wanted,
    series_url,
    study_url,
)
from node.extensions.labels.marks import MAX_COMMENT_CHARACTERS, MAX_LABEL_CHARACTERS, ReadMarks

router = APIRouter(include_in_schema=False, dependencies=WRITERS)

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LABEL_CHARACTERS)]


class ChangedLabel(BaseModel):
    """A label that is given, or taken away."""

    label: Label
    remove: bool = False


class LabelOfSelected(SelectedStudies, ChangedLabel):
    """The studies that are selected, and a label."""


class LabelOfSeries(SelectedSeries, ChangedLabel):
    """The series of a study that are selected, and a label."""


@router.post(f"{STUDY}/labels", dependencies=WRITING_MEMBERS)
@router.post(f"{SERIES}/labels", dependencies=WRITING_MEMBERS)
def change_label(call: CurrentCall, wanted: Wanted, form: Annotated[ChangedLabel, Form()]) -> Response:
    """Give a label to a study or a series, or take it away."""
    _change(call, [(wanted.study, wanted.series or "")], form)
    return RedirectResponse(wanted.url, HTTPStatus.SEE_OTHER)


@router.post("/selected/labels", dependencies=WRITING_MEMBERS)
def change_label_of_selected(call: CurrentCall, form: Annotated[LabelOfSelected, Form()]) -> Response:
    """Give a label to the selected studies, or take it away."""
    _change(call, [(uid, "") for uid in form.uids], form)
    return RedirectResponse("/", HTTPStatus.SEE_OTHER)


@router.post(f"{STUDY}/selected/labels", dependencies=WRITING_MEMBERS)
def change_label_of_series(
    call: CurrentCall, study_instance_uid: str, form: Annotated[LabelOfSeries, Form()]
) -> Response:
    """Give a label to the selected series of a study, or take it away; series that are gone are left out."""
    with call.node.index.reading() as index:
        uids = form.there(index, study_instance_uid)
    _change(call, [(study_instance_uid, uid) for uid in uids], form)
    return RedirectResponse(study_url(study_instance_uid), HTTPStatus.SEE_OTHER)


def _change(call: Call, targets: Sequence[tuple[str, str]], form: ChangedLabel) -> None:
    with call.changing(*targets):
        call.act("change-labels", targets=targets, **{"remove" if form.remove else "add": [form.label]})


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
