"""Actions on several studies that are selected in the list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.index.database.reading import ReadIndex
from node.index.search.selection import StoredInstance
from node.web import actions
from node.web.access import Admin, Reader, RequestAudit, Writer
from node.web.audit_trail import of_study
from node.web.dicomweb.resources import Instances, by_series, file_length, stored_file
from node.web.errors import ResourceNotFound
from node.web.pages.files import volumes_zip
from node.web.pages.operation import SEE_OTHER
from node.web.pages.rendering import page
from node.web.services import Node, Services
from node.web.zip_stream import MEDIA_TYPE, Member, zip_stream

router = APIRouter(include_in_schema=False)

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
def reconvert(node: Node, account: Writer, audit: RequestAudit, selected: Selected) -> Response:
    """Convert every series of the studies again; those that were deleted meanwhile are left out."""
    for uid in selected.uids:
        with node.index.reading() as index:
            patient_id = index.studies.patient_id(uid)
            series = [row["series_instance_uid"] for row in index.series.of_study(uid)]
        if series:
            actions.reconvert(node, audit, uid, patient_id or "", series)
    return RedirectResponse("/", SEE_OTHER)


@router.post("/selected/send")
def send(node: Node, account: Writer, audit: RequestAudit, selected: Annotated[StudiesToSend, Form()]) -> Response:
    """Send the studies to a destination; those that were deleted meanwhile are left out."""
    sent = 0
    for uid in selected.uids:
        with suppress(ResourceNotFound):
            actions.send(node, audit, selected.to, uid)
            sent += 1
    if not sent:
        raise ResourceNotFound("study")
    return RedirectResponse("/routes", SEE_OTHER)


@router.post("/selected/delete")
def ask_to_delete(request: Request, node: Node, account: Admin, audit: RequestAudit, selected: Selected) -> Response:
    """Ask before the studies are deleted."""
    with node.index.reading() as index:
        rows = [row for uid in selected.uids if (row := index.studies.row(uid)) is not None]
    if not rows:
        raise ResourceNotFound("study")
    audit.accessed([of_study(row["study_instance_uid"], row["patient_id"]) for row in rows], "pages")
    return page(request, node, account, "delete_selected.html", studies=rows)


@router.post("/selected/delete/confirmed")
def delete(node: Node, account: Admin, selected: Selected) -> Response:
    """Delete the studies permanently, one after the other; those that were deleted meanwhile are left out."""
    for uid in selected.uids:
        with node.index.reading() as index:
            is_there = index.studies.row(uid) is not None
        if is_there:
            actions.delete(node, account, "study", uid, uid)
    return RedirectResponse("/", SEE_OTHER)


@router.post("/selected/volumes.zip")
def volumes(node: Node, account: Reader, audit: RequestAudit, selected: Selected) -> Response:
    """The files of the newest revision of every series of the studies, as a ZIP file."""
    return volumes_zip(node, audit, selected.uids)


@router.post("/selected/dicom.zip")
def dicom(node: Node, account: Reader, audit: RequestAudit, selected: Selected) -> Response:
    """The instances of the studies as stored, as a ZIP file; a study is read when its turn comes."""
    with node.index.reading() as index:
        objects = [of_study(uid, index.studies.patient_id(uid)) for uid in selected.uids]
    audit.transferred(objects, f"DICOM of {len(objects)} studies as a ZIP file")
    return Instances(
        zip_stream(_members(node, selected.uids)),
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
