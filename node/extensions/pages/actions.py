"""Actions of the pages: convert again, send, delete, on a study, a series, or the studies that are selected."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import Field

from node.web import actions
from node.web.access import ADMINS, MEMBERS, WRITERS, WRITING_MEMBERS, Call, CurrentCall
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.headers import path_of
from node.web.pages.downloads import Format, dicom_zip, volumes_zip
from node.web.pages.rendering import SEE_OTHER, page, study_url
from node.web.pages.selected import SERIES, STUDY, SelectedSeries, SelectedStudies, Wanted

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)


@router.post(f"{STUDY}/reconvert", dependencies=WRITING_MEMBERS)
@router.post(f"{SERIES}/reconvert", dependencies=WRITING_MEMBERS)
def reconvert(call: CurrentCall, wanted: Wanted) -> Response:
    """Convert every series of a study again, or one series."""
    with call.node.index.reading() as index:
        _, series = wanted.rows(index)
        rows = [series] if series is not None else index.series.of_study(wanted.study)
    uids = [row["series_instance_uid"] for row in rows]
    actions.reconvert(call, wanted.study, uids)
    return RedirectResponse(wanted.url, SEE_OTHER)


@router.post(f"{STUDY}/send", dependencies=WRITERS)
@router.post(f"{SERIES}/send", dependencies=WRITERS)
def send(call: CurrentCall, wanted: Wanted, to: Annotated[str, Form(max_length=64)]) -> Response:
    """Send a study or a series to a destination."""
    actions.send(call, to, *wanted)
    return RedirectResponse("/routes", SEE_OTHER)


@router.get(f"{STUDY}/delete", dependencies=ADMINS)
@router.get(f"{SERIES}/delete", dependencies=ADMINS)
def ask_to_delete(call: CurrentCall, wanted: Wanted) -> Response:
    """Ask before a study or a series is deleted."""
    with call.node.index.reading() as index:
        study, series = wanted.rows(index)
        plan = index.deletions.plan(
            "study" if series is None else "series", wanted.series or wanted.study, wanted.study
        )
        files = index.volumes.totals(*wanted)
    call.audit.accessed([of_study(wanted.study, study["patient_id"])], "pages")
    return page(call, "delete.html", plan=plan, study=study, series=series, volumes=files)


@router.post(f"{STUDY}/delete", dependencies=ADMINS)
@router.post(f"{SERIES}/delete", dependencies=ADMINS)
def delete(call: CurrentCall, wanted: Wanted) -> Response:
    """Delete a study or a series; its files stay in the trash, if there is one."""
    with call.node.index.reading() as index:
        _, series = wanted.rows(index)
        is_last = series is None or len(index.series.of_study(wanted.study)) < 2
    actions.delete(call, "study" if series is None else "series", wanted.series or wanted.study, wanted.study)
    return _after_deletion("/" if is_last else study_url(wanted.study))


@router.get(f"{STUDY}/volumes.zip")
@router.get(f"{SERIES}/volumes.zip")
def volumes_of_one(call: CurrentCall, wanted: Wanted, format: Format | None = None) -> Response:
    """The volumes of a study or a series as a ZIP file; see `volumes_zip`."""
    return volumes_zip(call, [wanted.study], wanted.some, wanted=format)


@router.get(f"{STUDY}/dicom.zip")
@router.get(f"{SERIES}/dicom.zip")
def dicom_of_one(call: CurrentCall, wanted: Wanted) -> Response:
    """The instances of a study or a series as stored, as a ZIP file."""
    return dicom_zip(call, [wanted.study], wanted.some)


def _after_deletion(url: str) -> Response:
    """Return to a page, which says that it is done, and where it can be undone."""
    return RedirectResponse(f"{url}?deleted", SEE_OTHER)


MAX_QUERY = 6000
"""Longest query of an address that a proxy passes on: about 90 studies."""


class StudiesToSend(SelectedStudies):
    """The studies that are selected, and where to send them."""

    to: Annotated[str, Field(max_length=64)]


class SeriesToSend(SelectedSeries):
    """The series that are selected, and where to send them."""

    to: Annotated[str, Field(max_length=64)]


Selected = Annotated[SelectedStudies, Form()]
SelectedOfStudy = Annotated[SelectedSeries, Form()]


@router.post("/selected/reconvert", dependencies=WRITING_MEMBERS)
def reconvert_selected(call: CurrentCall, selected: Selected) -> Response:
    """Convert every series of the studies again; those that were deleted meanwhile are left out."""
    for uid in selected.uids:
        with call.node.index.reading() as index:
            series = [row["series_instance_uid"] for row in index.series.of_study(uid)]
        if series:
            actions.reconvert(call, uid, series)
    return RedirectResponse("/", SEE_OTHER)


@router.post("/selected/send", dependencies=WRITERS)
def send_selected(call: CurrentCall, selected: Annotated[StudiesToSend, Form()]) -> Response:
    """Send the studies to a destination; those that were deleted meanwhile are left out."""
    sent = 0
    for uid in selected.uids:
        with suppress(ResourceNotFound):
            actions.send(call, selected.to, uid)
            sent += 1
    if not sent:
        raise ResourceNotFound("study")
    return RedirectResponse("/routes", SEE_OTHER)


@router.post("/selected/delete", dependencies=ADMINS)
def ask_to_delete_selected(call: CurrentCall, selected: Selected) -> Response:
    """Ask before the studies are deleted."""
    with call.node.index.reading() as index:
        rows = [row for uid in selected.uids if (row := index.studies.row(uid)) is not None]
    if not rows:
        raise ResourceNotFound("study")
    call.audit.accessed([of_study(row["study_instance_uid"], row["patient_id"]) for row in rows], "pages")
    return page(call, "delete_selected.html", studies=rows)


@router.post("/selected/delete/confirmed", dependencies=ADMINS)
def delete_selected(call: CurrentCall, selected: Selected) -> Response:
    """Delete the studies, as one study, one after the other; those that were deleted meanwhile are left out."""
    for uid in selected.uids:
        with call.node.index.reading() as index:
            is_there = index.studies.row(uid) is not None
        if is_there:
            actions.delete(call, "study", uid, uid)
    return _after_deletion("/")


@router.get("/selected/volumes.zip")
@router.get("/selected/dicom.zip")
def zip_of_studies(call: CurrentCall, selected: Annotated[SelectedStudies, Query()]) -> Response:
    """The volumes of the studies, or their instances as stored, as a ZIP file."""
    return _zip(call, selected.uids)


@router.post("/selected/volumes.zip", dependencies=MEMBERS)
@router.post("/selected/dicom.zip", dependencies=MEMBERS)
def lead_to_zip_of_studies(call: CurrentCall, selected: Selected) -> Response:
    """The same ZIP file, which a browser fetches in a way that it can go on with."""
    return _address(call, study=selected.uids) or _zip(call, selected.uids)


@router.post(f"{STUDY}/selected/reconvert", dependencies=WRITING_MEMBERS)
def reconvert_selected_series(call: CurrentCall, study_instance_uid: str, selected: SelectedOfStudy) -> Response:
    """Convert the selected series of a study again; those that were deleted meanwhile are left out."""
    with call.node.index.reading() as index:
        uids = selected.there(index, study_instance_uid)
    actions.reconvert(call, study_instance_uid, uids)
    return RedirectResponse(study_url(study_instance_uid), SEE_OTHER)


@router.post(f"{STUDY}/selected/send", dependencies=WRITERS)
def send_selected_series(
    call: CurrentCall, study_instance_uid: str, selected: Annotated[SeriesToSend, Form()]
) -> Response:
    """Send the selected series of a study to a destination; those that were deleted meanwhile are left out."""
    with call.node.index.reading() as index:
        uids = selected.there(index, study_instance_uid)
    for uid in uids:
        with suppress(ResourceNotFound):
            actions.send(call, selected.to, study_instance_uid, uid)
    return RedirectResponse("/routes", SEE_OTHER)


@router.get(f"{STUDY}/selected/volumes.zip")
@router.get(f"{STUDY}/selected/dicom.zip")
def zip_of_series(call: CurrentCall, study_instance_uid: str, selected: Annotated[SelectedSeries, Query()]) -> Response:
    """The volumes of the selected series of a study, or their instances as stored, as a ZIP file."""
    return _zip(call, [study_instance_uid], selected.uids)


@router.post(f"{STUDY}/selected/volumes.zip", dependencies=MEMBERS)
@router.post(f"{STUDY}/selected/dicom.zip", dependencies=MEMBERS)
def lead_to_zip_of_series(call: CurrentCall, study_instance_uid: str, selected: SelectedOfStudy) -> Response:
    """The same ZIP file, which a browser fetches in a way that it can go on with."""
    return _address(call, series=selected.uids) or _zip(call, [study_instance_uid], selected.uids)


def _zip(call: Call, studies: Sequence[str], series: Sequence[str] = ()) -> Response:
    """Return the ZIP file that the path of a request names."""
    is_dicom = call.request.url.path.endswith("/dicom.zip")
    return dicom_zip(call, studies, series) if is_dicom else volumes_zip(call, studies, series)


def _address(call: Call, **selected: list[str]) -> Response | None:
    """Lead from a POST to the address of the same ZIP file; None if it is too long for an address.

    No browser sends a POST again by itself, so that a download that broke off would be lost.
    """
    query = urlencode(selected, doseq=True)
    return None if len(query) > MAX_QUERY else RedirectResponse(f"{path_of(call.request)}?{query}", SEE_OTHER)
