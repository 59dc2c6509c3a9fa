"""Labels and comments of studies and series: REST, and the forms of the pages."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from node.api import (
    MEMBERS,
    OF_CHANGES,
    SERIES,
    STUDY,
    WRITERS,
    WRITING_MEMBERS,
    Change,
    CurrentCall,
    Moment,
    ReadIndex,
    Resource,
    ResourceNotFound,
    Role,
    RowId,
    Selected,
    StudyOrSeries,
    StudyUid,
    Wanted,
    api_router,
    of_study,
    problems,
    series_url,
    single,
    study_url,
    tagged,
)
from node.extensions.labels.known import LabelViews
from node.extensions.labels.marks import MAX_COMMENT_CHARACTERS, MAX_LABEL_CHARACTERS, MAX_LABELS, Target

router = api_router(MEMBERS, "labels")


class LabelResource(Resource):
    """A label, and how many studies and series have it."""

    label: str
    studies: int
    series: int


class LabelsInUse(Resource):
    """All labels."""

    items: list[LabelResource]


class Labels(Resource):
    """The labels of a study or a series."""

    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=MAX_LABELS)]


class CommentResource(Resource):
    """A comment on a study, or on a series of it."""

    id: RowId
    study_instance_uid: str
    series_instance_uid: str | None
    comment: str
    written_by: str
    written_at: Moment


class Comments(Resource):
    """Comments, newest first."""

    items: list[CommentResource]


class NewComment(BaseModel):
    """A comment to write."""

    model_config = ConfigDict(extra="forbid")

    comment: Annotated[str, Field(min_length=1, max_length=MAX_COMMENT_CHARACTERS)]
    series_instance_uid: Annotated[str, Field(max_length=64)] = ""


class WrittenComment(Resource):
    """The number of a comment."""

    id: RowId


class RemovedComment(Resource):
    """The number that a comment had."""

    removed: RowId


CommentNumber = Annotated[RowId, Path(description="number of the comment")]


@router.get("/labels")
def list_labels(call: CurrentCall) -> LabelsInUse:
    """The labels in use."""
    with call.node.index.searching() as index:
        rows = index.views(LabelViews).known()
    call.audit.queried("labels", len(rows))
    return LabelsInUse(items=[LabelResource.of(row) for row in rows])


@router.get(f"{STUDY}/labels", responses=single())
def show_labels(call: CurrentCall, response: Response, key: StudyOrSeries) -> Labels:
    """The labels of a study without those of its series, or of one of these."""
    target = Target(key[0], key[1] or "")
    with call.node.index.reading() as index:
        found = _labels_in(index, target)
        call.audit.accessed([of_study(target.study, index.studies.patient_id(target.study))])
    return tagged(response, found)


@router.put(f"{STUDY}/labels", responses=problems(*OF_CHANGES), dependencies=WRITING_MEMBERS)
def set_labels(call: CurrentCall, change: Change, key: StudyOrSeries, labels: Labels) -> Labels:
    """Give a study, or a series of it, these labels, and no others."""
    target = Target(key[0], key[1] or "")

    def act(_: object) -> Mapping[str, Any]:
        with call.changing(target):
            return call.act("set-labels", study=target.study, series=target.series, labels=labels.labels)

    return change.make(Labels, lambda index: _labels_in(index, target), act)


@router.get(f"{STUDY}/comments", responses=single())
def list_comments(call: CurrentCall, study_instance_uid: StudyUid) -> Comments:
    """The comments on a study and on its series."""
    with call.node.index.reading() as index:
        _require(index, target := Target(study_instance_uid))
        rows = index.views(LabelViews).comments(*target)
        call.audit.accessed([of_study(study_instance_uid, index.studies.patient_id(study_instance_uid))])
    return Comments(items=[CommentResource.of(row) for row in rows])


@router.post(f"{STUDY}/comments", status_code=201, responses=problems(*OF_CHANGES), dependencies=WRITING_MEMBERS)
def write_comment(
    call: CurrentCall, change: Change, study_instance_uid: StudyUid, written: NewComment
) -> WrittenComment:
    """Write a comment on a study, or on one of its series."""
    target = Target(study_instance_uid, written.series_instance_uid)

    def act(_: object) -> Mapping[str, Any]:
        with call.changing(target):
            return call.act("comment", study=target.study, series=target.series, comment=written.comment)

    return change.make(WrittenComment, lambda index: _labels_in(index, target), act)


@router.delete("/comments/{comment}", responses=problems(*OF_CHANGES), dependencies=WRITING_MEMBERS)
def remove_comment(call: CurrentCall, change: Change, comment: CommentNumber) -> RemovedComment:
    """Remove a comment of one's own; administrators remove any."""

    def current(index: ReadIndex) -> CommentResource:
        row = index.views(LabelViews).comment(comment)
        if row is None:
            raise ResourceNotFound("comment")
        return CommentResource.of(row)

    def act(_: object) -> Mapping[str, Any]:
        with call.node.index.reading() as index:
            written = current(index)
        with call.changing((written.study_instance_uid, written.series_instance_uid)):
            return call.act("remove-comment", number=comment, any_account=call.account.role == Role.ADMIN)

    return change.make(RemovedComment, current, act)


def _labels_in(index: ReadIndex, target: Target) -> Labels:
    _require(index, target)
    return Labels(labels=index.views(LabelViews).labels(*target))


def _require(index: ReadIndex, target: Target) -> None:
    if target.series and index.series.row(*target) is None:
        raise ResourceNotFound("series")
    if index.studies.row(target.study) is None:
        raise ResourceNotFound("study")


pages_router = APIRouter(include_in_schema=False, dependencies=WRITERS)

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LABEL_CHARACTERS)]


@pages_router.post("/selected/labels", dependencies=WRITING_MEMBERS)
@pages_router.post(f"{STUDY}/selected/labels", dependencies=WRITING_MEMBERS)
@pages_router.post(f"{STUDY}/labels", dependencies=WRITING_MEMBERS)
@pages_router.post(f"{SERIES}/labels", dependencies=WRITING_MEMBERS)
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


@pages_router.post(f"{STUDY}/comments", dependencies=WRITING_MEMBERS)
@pages_router.post(f"{SERIES}/comments", dependencies=WRITING_MEMBERS)
def submit_comment(
    call: CurrentCall, wanted: Wanted, comment: Annotated[str, Form(min_length=1, max_length=MAX_COMMENT_CHARACTERS)]
) -> Response:
    """Write a comment on a study or a series."""
    with call.changing(wanted):
        call.act("comment", study=wanted.study, series=wanted.series or "", comment=comment)
    return RedirectResponse(wanted.url, HTTPStatus.SEE_OTHER)


@pages_router.post("/comments/{comment}/remove", dependencies=WRITING_MEMBERS)
def submit_removal(call: CurrentCall, comment: RowId) -> Response:
    """Remove a comment of one's own; administrators remove any."""
    with call.node.index.reading() as index:
        row = index.views(LabelViews).comment(comment)
    if row is None:
        raise ResourceNotFound("comment")
    study, series = row["study_instance_uid"], row["series_instance_uid"]
    with call.changing((study, series)):
        call.act("remove-comment", number=comment, any_account=call.account.role == Role.ADMIN)
    return RedirectResponse(series_url(study, series) if series else study_url(study), HTTPStatus.SEE_OTHER)
