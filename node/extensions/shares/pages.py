"""The page of a link: the series of a study with their pictures, and their files if the link allows downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Response

from node.extensions.pages.downloads import dicom_zip, volumes_zip
from node.extensions.pages.rendering import plain_page
from node.index.database.reading import ReadIndex
from node.index.nouns.shares import Share, ShareRepository
from node.web.access import Call, ReaderCall
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import file_response, local_or_gone

router = APIRouter(include_in_schema=False)

PAGE = "/shared/{share_token}"


@router.get(PAGE)
def shared(call: ReaderCall) -> Response:
    """The page of a link."""
    share = _share(call)
    with call.node.index.reading() as index:
        study, series = index.studies.row(share.study), _series(index, share)
        pictures = _pictures(index, share)
    if study is None or not series:
        raise ResourceNotFound("shared study")
    call.node.index.repository(ShareRepository).note_use(share.id, call.node.ingest.now())
    call.audit.accessed([of_study(share.study, study["patient_id"])], f"link {share.id}")
    values = {"study": study, "series": series, "pictures": pictures, "path": call.request.url.path.rstrip("/")}
    return plain_page("shared.html", share=share, **values)


@router.get(f"{PAGE}/pictures/{{series_instance_uid}}")
def shared_picture(call: ReaderCall, series_instance_uid: str) -> Response:
    """The picture of a series of a link."""
    share = _share(call)
    with call.node.index.reading() as index:
        row = _pictures(index, share).get(series_instance_uid)
        if row is None:
            raise ResourceNotFound("picture")
        kept = index.volumes.kept(row["path"])
    call.audit.accessed([{"study_instance_uid": share.study}], f"link {share.id}: pictures")
    path = call.node.archive.path(row["path"]) if kept is None else local_or_gone(call.node, kept)
    return file_response(path, "image/png", PurePath(row["path"]).name, row["sha256"])


@router.get(f"{PAGE}/volumes.zip")
def shared_volumes(call: ReaderCall) -> Response:
    """The volumes of a link as a ZIP file."""
    return volumes_zip(call, *_downloaded(call))


@router.get(f"{PAGE}/dicom.zip")
def shared_dicom(call: ReaderCall) -> Response:
    """The instances of a link as stored, as a ZIP file."""
    return dicom_zip(call, *_downloaded(call))


def _share(call: Call) -> Share:
    if call.account.share is None:  # a route that the access by links does not know
        raise ResourceNotFound("link")
    return call.account.share


def _downloaded(call: Call) -> tuple[Sequence[str], Sequence[str]]:
    share = _share(call)
    if not share.may_download:
        raise ResourceNotFound("download")
    call.node.index.repository(ShareRepository).note_use(share.id, call.node.ingest.now())
    return [share.study], [share.series] if share.series else []


def _series(index: ReadIndex, share: Share) -> list[Mapping[str, Any]]:
    rows = index.series.of_study(share.study)
    return [row for row in rows if share.series in ("", row["series_instance_uid"])]


def _pictures(index: ReadIndex, share: Share) -> dict[str, Mapping[str, Any]]:
    """Return the picture of each series that has one."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in index.volumes.current(share.study):
        is_shared = share.series in ("", row["series_instance_uid"])
        if is_shared and row["kind"] == "thumbnail" and row["files_removed_at"] is None:
            found.setdefault(row["series_instance_uid"], row)
    return found
