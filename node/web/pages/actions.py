"""Actions of the pages: convert again, send, delete, on a study, a series, or the studies that are selected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.index.database.reading import ReadIndex
from node.index.nouns.records import Level
from node.index.search.selection import StoredInstance
from node.web import actions
from node.web.access import AdminCall, Call, ReaderCall, WriterCall
from node.web.audit_trail import of_study
from node.web.dicomweb.resources import Instances, by_series, file_length, stored_file
from node.web.errors import ResourceNotFound
from node.web.files import MEDIA_TYPE, Member, zip_stream
from node.web.pages.files import volumes_zip
from node.web.pages.rendering import SEE_OTHER, page, series_url, study_url
from node.web.pages.series import series_row
from node.web.pages.studies import audit_study_access, study_row
from node.web.services import Services

router = APIRouter(include_in_schema=False)


@router.post("/studies/{study_instance_uid}/reconvert")
def reconvert_study(call: WriterCall, study_instance_uid: str) -> Response:
    """Convert every series of a study again."""
    with call.node.index.reading() as index:
        study = study_row(index, study_instance_uid)
        rows = index.series.of_study(study_instance_uid)
    series = [row["series_instance_uid"] for row in rows]
    actions.reconvert(call, study_instance_uid, study["patient_id"] or "", series)
    return RedirectResponse(study_url(study_instance_uid), SEE_OTHER)


@router.post("/studies/{study_instance_uid}/series/{series_instance_uid}/reconvert")
def reconvert_series(call: WriterCall, study_instance_uid: str, series_instance_uid: str) -> Response:
    """Convert a series again."""
    with call.node.index.reading() as index:
        study = study_row(index, study_instance_uid)
        series_row(index, study_instance_uid, series_instance_uid)
    actions.reconvert(call, study_instance_uid, study["patient_id"] or "", [series_instance_uid])
    return RedirectResponse(series_url(study_instance_uid, series_instance_uid), SEE_OTHER)


@router.post("/studies/{study_instance_uid}/send")
def send_study(call: WriterCall, study_instance_uid: str, to: Annotated[str, Form(max_length=64)]) -> Response:
    """Send a study to a destination."""
    actions.send(call, to, study_instance_uid)
    return RedirectResponse("/routes", SEE_OTHER)


@router.post("/studies/{study_instance_uid}/series/{series_instance_uid}/send")
def send_series(
    call: WriterCall, study_instance_uid: str, series_instance_uid: str, to: Annotated[str, Form(max_length=64)]
) -> Response:
    """Send a series to a destination."""
    actions.send(call, to, study_instance_uid, series_instance_uid)
    return RedirectResponse("/routes", SEE_OTHER)


@router.get("/studies/{study_instance_uid}/delete")
def ask_to_delete_study(call: AdminCall, study_instance_uid: str) -> Response:
    """Ask before a study is deleted."""
    with call.node.index.reading() as index:
        audit_study_access(call.audit, study_row(index, study_instance_uid))
    return _confirmation(call, "study", study_instance_uid, study_instance_uid)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/delete")
def ask_to_delete_series(call: AdminCall, study_instance_uid: str, series_instance_uid: str) -> Response:
    """Ask before a series is deleted."""
    with call.node.index.reading() as index:
        audit_study_access(call.audit, study_row(index, study_instance_uid))
        series_row(index, study_instance_uid, series_instance_uid)
    return _confirmation(call, "series", series_instance_uid, study_instance_uid)


def _confirmation(call: Call, level: Level, uid: str, study_instance_uid: str) -> Response:
    with call.node.index.reading() as index:
        plan = index.deletions.plan(level, uid, study_instance_uid)
        study = study_row(index, study_instance_uid)
        series = series_row(index, study_instance_uid, uid) if level == "series" else None
        files = index.volumes.totals(study_instance_uid, uid if level == "series" else None)
    return page(call, "delete.html", plan=plan, study=study, series=series, volumes=files)


@router.post("/studies/{study_instance_uid}/delete")
def delete_study(call: AdminCall, study_instance_uid: str) -> Response:
    """Delete a study permanently."""
    with call.node.index.reading() as index:
        study_row(index, study_instance_uid)
    actions.delete(call, "study", study_instance_uid, study_instance_uid)
    return RedirectResponse("/", SEE_OTHER)


@router.post("/studies/{study_instance_uid}/series/{series_instance_uid}/delete")
def delete_series(call: AdminCall, study_instance_uid: str, series_instance_uid: str) -> Response:
    """Delete a series permanently."""
    with call.node.index.reading() as index:
        series_row(index, study_instance_uid, series_instance_uid)
        last = len(index.series.of_study(study_instance_uid)) < 2
    actions.delete(call, "series", series_instance_uid, study_instance_uid)
    return RedirectResponse("/" if last else study_url(study_instance_uid), SEE_OTHER)


MAX_SELECTED = 1000


class SelectedStudies(BaseModel):
    """The studies that are selected, by Study Instance UID."""

    study: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MAX_SELECTED)]

    @property
    def uids(self) -> list[str]:
        """Each of them once."""
        return list(dict.fromkeys(self.study))


class StudiesToSend(SelectedStudies):
    """The studies that are selected, and where to send them."""

    to: Annotated[str, Field(max_length=64)]


Selected = Annotated[SelectedStudies, Form()]


@router.post("/selected/reconvert")
def reconvert(call: WriterCall, selected: Selected) -> Response:
    """Convert every series of the studies again; those that were deleted meanwhile are left out."""
    for uid in selected.uids:
        with call.node.index.reading() as index:
            patient_id = index.studies.patient_id(uid)
            series = [row["series_instance_uid"] for row in index.series.of_study(uid)]
        if series:
            actions.reconvert(call, uid, patient_id or "", series)
    return RedirectResponse("/", SEE_OTHER)


@router.post("/selected/send")
def send(call: WriterCall, selected: Annotated[StudiesToSend, Form()]) -> Response:
    """Send the studies to a destination; those that were deleted meanwhile are left out."""
    sent = 0
    for uid in selected.uids:
        with suppress(ResourceNotFound):
            actions.send(call, selected.to, uid)
            sent += 1
    if not sent:
        raise ResourceNotFound("study")
    return RedirectResponse("/routes", SEE_OTHER)


@router.post("/selected/delete")
def ask_to_delete(call: AdminCall, selected: Selected) -> Response:
    """Ask before the studies are deleted."""
    with call.node.index.reading() as index:
        rows = [row for uid in selected.uids if (row := index.studies.row(uid)) is not None]
    if not rows:
        raise ResourceNotFound("study")
    call.audit.accessed([of_study(row["study_instance_uid"], row["patient_id"]) for row in rows], "pages")
    return page(call, "delete_selected.html", studies=rows)


@router.post("/selected/delete/confirmed")
def delete(call: AdminCall, selected: Selected) -> Response:
    """Delete the studies permanently, one after the other; those that were deleted meanwhile are left out."""
    for uid in selected.uids:
        with call.node.index.reading() as index:
            is_there = index.studies.row(uid) is not None
        if is_there:
            actions.delete(call, "study", uid, uid)
    return RedirectResponse("/", SEE_OTHER)


@router.post("/selected/volumes.zip")
def volumes(call: ReaderCall, selected: Selected) -> Response:
    """The files of the newest revision of every series of the studies, as a ZIP file."""
    return volumes_zip(call, selected.uids)


@router.post("/selected/dicom.zip")
def dicom(call: ReaderCall, selected: Selected) -> Response:
    """The instances of the studies as stored, as a ZIP file; a study is read when its turn comes."""
    with call.node.index.reading() as index:
        objects = [of_study(uid, index.studies.patient_id(uid)) for uid in selected.uids]
    call.audit.transferred(objects, f"DICOM of {len(objects)} studies as a ZIP file")
    return Instances(
        zip_stream(_members(call.node, selected.uids)),
        200,
        {"Content-Type": MEDIA_TYPE, "Content-Disposition": 'attachment; filename="studies.zip"'},
    )


def _members(node: Services, study_instance_uids: list[str]) -> Iterator[Member]:
    """Yield the instances; names are numbers, since nothing from a sender becomes a path."""
    for at, uid in enumerate(study_instance_uids, start=1):
        with node.index.reading(wait=False) as index:
            instances = _instances(index, uid)
        for number, of_series in enumerate(by_series(instances).values(), start=1):
            for position, instance in enumerate(node.archive.ahead(of_series), start=1):
                name = f"{at:03d}/{number:03d}/{position:06d}.dcm"
                yield Member(name, file_length(instance), stored_file(node, instance))


def _instances(index: ReadIndex, study_instance_uid: str) -> list[StoredInstance]:
    return list(index.instances.stored(study_instance_uid))
