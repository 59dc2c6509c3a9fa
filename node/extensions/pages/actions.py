"""Actions of the pages: convert again, send, delete, download, on a study, a series, or what is selected."""

import datetime as dt
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from node.archive.filesystem import DOWNLOAD_KEPT_SECONDS
from node.index.rules.custody.deletions import plan_deletion
from node.lifecycle.erasure import holders
from node.web import actions
from node.web.access import ADMINS, MEMBERS, WRITERS, WRITING_MEMBERS, Call, CurrentCall, background_request
from node.web.api.models import RowId
from node.web.api.routing import only_row
from node.web.audit_trail import of_study
from node.web.downloads import downloads_of, file_of_download
from node.web.errors import ResourceNotFound
from node.web.headers import path_of
from node.web.pages.rendering import SEE_OTHER, fragment, page, study_url
from node.web.pages.selected import SERIES, STUDY, Format, Selected, Wanted, dicom_zip, volumes_zip

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)


@router.post("/selected/reconvert", dependencies=WRITING_MEMBERS)
@router.post(f"{STUDY}/selected/reconvert", dependencies=WRITING_MEMBERS)
@router.post(f"{STUDY}/reconvert", dependencies=WRITING_MEMBERS)
@router.post(f"{SERIES}/reconvert", dependencies=WRITING_MEMBERS)
def reconvert(call: CurrentCall, selected: Selected) -> Response:
    """Convert series, or every series of studies, again; those that were deleted meanwhile are left out."""
    with call.node.index.reading() as index:
        found = selected.there(index)
    for study, series in found.items():
        actions.reconvert(call, study, series)
    return RedirectResponse(selected.url, SEE_OTHER)


@router.post("/selected/send", dependencies=WRITERS)
@router.post(f"{STUDY}/selected/send", dependencies=WRITERS)
@router.post(f"{STUDY}/send", dependencies=WRITERS)
@router.post(f"{SERIES}/send", dependencies=WRITERS)
def send(call: CurrentCall, selected: Selected, to: Annotated[str, Form(max_length=64)]) -> Response:
    """Send studies or series to a destination; those that were deleted meanwhile are left out."""
    sent = 0
    for study in selected.studies:
        for series in selected.series or (None,):
            with suppress(ResourceNotFound):
                actions.send(call, to, study, series)
                sent += 1
    if not sent:
        raise ResourceNotFound(selected.kind)
    return RedirectResponse("/routes", SEE_OTHER)


@router.get(f"{STUDY}/delete", dependencies=ADMINS)
@router.get(f"{SERIES}/delete", dependencies=ADMINS)
def ask_to_delete(call: CurrentCall, wanted: Wanted) -> Response:
    """Ask before a study or a series is deleted."""
    with call.node.index.reading() as index:
        study, series = wanted.rows(index)
        plan = plan_deletion(
            index.connection, "study" if series is None else "series", wanted.series or wanted.study, wanted.study
        )
        files = index.volumes.totals(*wanted)
        found = holders(index, call.node.settings, [wanted.study], is_gone=True)
    call.audit.accessed([of_study(wanted.study, study["patient_id"])], "pages")
    return page(call, "delete.html", plan=plan, study=study, series=series, volumes=files, holders=found)


@router.get(f"{STUDY}/holders", dependencies=ADMINS)
def who_has_it(call: CurrentCall, wanted: Wanted) -> Response:
    """Who else has a study, each with the identity that it was sent with, and what mends it there."""
    with call.node.index.reading() as index:
        study, _ = wanted.rows(index)
        found = holders(index, call.node.settings, [wanted.study])
    call.audit.accessed([of_study(wanted.study, study["patient_id"])], "pages")
    return fragment(call, "holders.html", holders=found)


@router.post(f"{STUDY}/delete", dependencies=ADMINS)
@router.post(f"{SERIES}/delete", dependencies=ADMINS)
def delete(call: CurrentCall, wanted: Wanted) -> Response:
    """Delete a study or a series; its files stay in the trash, if there is one."""
    with call.node.index.reading() as index:
        _, series = wanted.rows(index)
        is_last = series is None or len(index.series.of_study(wanted.study)) < 2
    actions.delete(call, "study" if series is None else "series", wanted.series or wanted.study, wanted.study)
    return _after_deletion("/" if is_last else study_url(wanted.study))


def _after_deletion(url: str) -> Response:
    """Return to a page, which says that it is done, and where it can be undone."""
    return RedirectResponse(f"{url}?deleted", SEE_OTHER)


MAX_QUERY = 6000
"""Longest query of an address that a proxy passes on: about 90 studies."""


@router.post("/selected/delete", dependencies=ADMINS)
def ask_to_delete_selected(call: CurrentCall, selected: Selected) -> Response:
    """Ask before the studies are deleted."""
    with call.node.index.reading() as index:
        rows = [row for uid in selected.studies if (row := index.studies.row(uid)) is not None]
        found = holders(index, call.node.settings, selected.studies, is_gone=True)
    if not rows:
        raise ResourceNotFound("study")
    call.audit.accessed([of_study(row["study_instance_uid"], row["patient_id"]) for row in rows], "pages")
    return page(call, "delete_selected.html", studies=rows, holders=found)


@router.post("/selected/delete/confirmed", dependencies=ADMINS)
def delete_selected(call: CurrentCall, selected: Selected) -> Response:
    """Delete the studies, as one study, one after the other; those that were deleted meanwhile are left out."""
    for uid in selected.studies:
        with call.node.index.reading() as index:
            is_there = index.studies.row(uid) is not None
        if is_there:
            actions.delete(call, "study", uid, uid)
    return _after_deletion("/")


@router.get("/selected/volumes.zip")
@router.get("/selected/dicom.zip")
@router.get(f"{STUDY}/selected/volumes.zip")
@router.get(f"{STUDY}/selected/dicom.zip")
@router.get(f"{STUDY}/volumes.zip")
@router.get(f"{STUDY}/dicom.zip")
@router.get(f"{SERIES}/volumes.zip")
@router.get(f"{SERIES}/dicom.zip")
def zip_of(call: CurrentCall, selected: Selected, format: Format | None = None) -> Response:
    """The volumes of studies or series (see `volumes_zip`), or their instances as stored, as a ZIP file."""
    if call.request.url.path.endswith("/dicom.zip"):
        return dicom_zip(call, selected.studies, selected.series)
    return volumes_zip(call, selected.studies, selected.series, wanted=format)


@router.post("/selected/volumes.zip", dependencies=MEMBERS)
@router.post("/selected/dicom.zip", dependencies=MEMBERS)
@router.post(f"{STUDY}/selected/volumes.zip", dependencies=MEMBERS)
@router.post(f"{STUDY}/selected/dicom.zip", dependencies=MEMBERS)
def lead_to_zip(call: CurrentCall, selected: Selected) -> Response:
    """Lead to the address of the same ZIP file, or send it if it is too long for an address.

    No browser sends a POST again by itself, so that a download that broke off would be lost.
    """
    query = urlencode({"series": selected.series} if selected.series else {"study": selected.studies}, doseq=True)
    if len(query) > MAX_QUERY:
        return zip_of(call, selected)
    return RedirectResponse(f"{path_of(call.request)}?{query}", SEE_OTHER)


PATH = "/downloads/{number}"


@router.get(PATH)
def download(call: CurrentCall, number: RowId) -> Response:
    """A download that is being made."""
    return page(call, "download.html", **_values(call, number), digest="")


@router.get(f"{PATH}/progress")
@background_request
def progress(call: CurrentCall, number: RowId) -> Response:
    """How far it is."""
    return fragment(call, "download_progress.html", **_values(call, number))


@router.get(f"{PATH}/file")
def file(call: CurrentCall, number: RowId) -> Response:
    """The file, once it is made."""
    return file_of_download(call, number)


@router.post(f"{PATH}/remove", dependencies=MEMBERS)
def remove(call: CurrentCall, number: RowId) -> Response:
    """End it, and remove its file."""
    downloads_of(call).remove(call, number)
    return RedirectResponse("/", 303)


def _values(call: Call, number: int) -> dict[str, Any]:
    downloads = downloads_of(call)
    work = downloads.of(call, number)
    file = downloads.file(work)
    with call.node.index.reading(wait=False) as index:
        row = only_row(index.work, "download", id=number)
    keep_time = dt.timedelta(seconds=DOWNLOAD_KEPT_SECONDS)
    left = row["ended_at"] + keep_time - call.node.ingest.now() if row["ended_at"] is not None else keep_time
    return {
        "download": row,
        "bytes": file.stat().st_size if file is not None else None,
        "kept_seconds": max(int(left.total_seconds()), 0),
    }
