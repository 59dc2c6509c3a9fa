"""Volumes and the files that accompany them."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

from fastapi import Path, Query, Response

from node.web.access import Reader, RequestAudit
from node.web.api import models
from node.web.api.models import RowId
from node.web.api.paging import AuditedPage, Page, UidFilters, only_row
from node.web.api.routing import api_router, downloads, problems
from node.web.audit_trail import AccountAuditTrail, of_study
from node.web.errors import ResourceNotFound
from node.web.files import OCTETS, file_response
from node.web.problem_types import NOT_FOUND, WRONG_CURSOR
from node.web.services import Node, Services
from node.web.stored_files import local_or_gone

router = api_router("volumes")

Number = Annotated[RowId, Path(description="`id` of the file")]
MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".gz": "application/gzip"}
"""Media types by suffix; other files are application/octet-stream."""

FILE = downloads("The file", OCTETS, *MEDIA_TYPES.values())


@router.get("/volumes", responses=problems(WRONG_CURSOR))
def list_volumes(
    account: Reader,
    page: AuditedPage,
    uids: UidFilters,
    kind: Annotated[str | None, Query(max_length=16, description="kind of file, such as `volume`")] = None,
    format: Annotated[str | None, Query(max_length=16, description="format, such as `nifti`")] = None,
    superseded: Annotated[bool | None, Query(description="null: current and superseded revisions")] = False,
) -> Page[models.VolumeResource]:
    """Files of conversions, newest first: volumes in each format, and pictures."""
    wanted = {**uids, "kind": kind, "format": format, "superseded": superseded}
    return page.read("volumes", models.VolumeResource, lambda index: index.volumes, **wanted)


@router.get("/volumes/{id}", responses=problems(NOT_FOUND))
def show_volume(account: Reader, node: Node, audit: RequestAudit, id: Number) -> models.VolumeResource:
    """One file of a conversion."""
    row = _volume(node, id)
    audit.accessed([of_study(row["study_instance_uid"], row["patient_id"])])
    return models.VolumeResource.of(row)


@router.head("/volumes/{id}/file", include_in_schema=False)
@router.get("/volumes/{id}/file", response_class=Response, responses=FILE)
def download_volume(account: Reader, node: Node, audit: RequestAudit, id: Number) -> Response:
    """Download a file."""
    return _file(node, audit, _volume(node, id))


@router.head("/volumes/{id}/file/{name}", include_in_schema=False)
@router.get("/volumes/{id}/file/{name}", response_class=Response, responses=FILE)
def download_volume_by_name(
    account: Reader,
    node: Node,
    audit: RequestAudit,
    id: Number,
    name: Annotated[str, Path(description="`name` of the file")],
) -> Response:
    """Download a file by its `url`, for viewers that rely on the suffix; another name is not found."""
    row = _volume(node, id)
    if name != PurePath(row["path"]).name:
        raise ResourceNotFound("file")
    return _file(node, audit, row)


def _file(node: Services, audit: AccountAuditTrail, row: dict[str, Any]) -> Response:
    if row["files_removed_at"] is not None:
        raise ResourceNotFound("file")
    audit.transferred([of_study(row["study_instance_uid"], row["patient_id"])])
    name = PurePath(row["path"]).name
    media_type = MEDIA_TYPES.get(PurePath(name).suffix, OCTETS)
    with node.index.reading() as index:
        kept = index.volumes.kept(row["path"])
    path = node.archive.path(row["path"]) if kept is None else local_or_gone(node, kept)
    return file_response(path, media_type, name, row["sha256"])


def _volume(node: Services, id: int) -> dict[str, Any]:
    with node.index.reading() as index:
        return only_row(index.volumes, "volume", id=id)
