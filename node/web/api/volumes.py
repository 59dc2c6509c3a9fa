"""Volumes and the files that accompany them."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

from fastapi import Query, Request, Response

from node.web.access import Reader, RequestAudit
from node.web.api import models
from node.web.api.models import RowId
from node.web.api.paging import AuditedPage, Page, UidFilters, only_row
from node.web.api.routing import api_router
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import file_response
from node.web.services import Node, Services

router = api_router("volumes")

OptionalWord = Annotated[str | None, Query(max_length=16)]

MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".gz": "application/gzip"}
"""Media types by suffix; other files are application/octet-stream."""


@router.get("/volumes")
def list_volumes(
    account: Reader,
    page: AuditedPage,
    uids: UidFilters,
    kind: OptionalWord = None,
    format: OptionalWord = None,
    superseded: Annotated[bool | None, Query(description="null: current and superseded revisions")] = False,
) -> Page[models.VolumeResource]:
    """Files of conversions, newest first: volumes in each format, and pictures."""
    wanted = {**uids, "kind": kind, "format": format, "superseded": superseded}
    return page.read("volumes", models.VolumeResource, lambda index: index.volumes, **wanted)


@router.get("/volumes/{id}")
def show_volume(account: Reader, node: Node, audit: RequestAudit, id: RowId) -> models.VolumeResource:
    """One file of a conversion."""
    row = _volume(node, id)
    audit.accessed([of_study(row["study_instance_uid"], row["patient_id"])])
    return models.VolumeResource.of(row)


@router.head("/volumes/{id}/file", include_in_schema=False)
@router.head("/volumes/{id}/file/{name}", include_in_schema=False)
@router.get("/volumes/{id}/file", include_in_schema=False)
@router.get(
    "/volumes/{id}/file/{name}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file"},
        206: {"content": {"application/octet-stream": {}}, "description": "The requested range"},
        304: {"description": "If-None-Match contains the entity tag of the file"},
        410: {"description": "The file is in the index but not on disk"},
        416: {"description": "Range starts beyond the end of the file"},
    },
)
def volume_file(
    request: Request, account: Reader, node: Node, audit: RequestAudit, id: RowId, name: str | None = None
) -> Response:
    """Download a file. `name` must be the name of the file; viewers rely on its suffix."""
    row = _volume(node, id)
    file_name = PurePath(row["path"]).name
    if name not in (None, file_name) or row["files_removed_at"] is not None:
        raise ResourceNotFound("file")
    audit.transferred([of_study(row["study_instance_uid"], row["patient_id"])])
    media_type = MEDIA_TYPES.get(PurePath(file_name).suffix, "application/octet-stream")
    return file_response(request, node.archive.root / row["path"], media_type, file_name, row["sha256"])


def _volume(node: Services, id: int) -> dict[str, Any]:
    with node.index.reading() as index:
        return only_row(index.volumes, "volume", id=id)
