"""Volumes, and the files beside them."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from node.web.access import Reader, RequestAudit
from node.web.api import models
from node.web.api.paging import After, Limit, Page, RowId, page_of, row_place
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import file_response
from node.web.services import Node, Services

router = APIRouter(tags=["volumes"])

OptionalUid = Annotated[str | None, Query(max_length=64)]
OptionalWord = Annotated[str | None, Query(max_length=16)]

MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".gz": "application/gzip"}
"""By the end of a name; all else is bytes."""


@router.get("/volumes")
def list_volumes(
    account: Reader,
    node: Node,
    audit: RequestAudit,
    study_instance_uid: OptionalUid = None,
    series_instance_uid: OptionalUid = None,
    kind: OptionalWord = None,
    format: OptionalWord = None,
    superseded: Annotated[bool | None, Query(description="unset: both current ones and older revisions")] = False,
    after: After = None,
    limit: Limit = 100,
) -> Page[models.VolumeResource]:
    """Files of conversions, the newest first: volumes in each format, and pictures of them."""
    audit.queried(f"volumes study_instance_uid={study_instance_uid} series_instance_uid={series_instance_uid}")
    with node.index.searching() as index:
        rows = index.volumes.page(
            row_place(after),
            limit,
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            kind=kind,
            format=format,
            superseded=superseded,
        )
    return Page[models.VolumeResource].model_validate(page_of([_with_url(row) for row in rows], limit))


@router.get("/volumes/{id}")
def show_volume(account: Reader, node: Node, audit: RequestAudit, id: RowId) -> models.VolumeResource:
    """One file of a conversion."""
    row = _volume(node, id)
    audit.accessed([of_study(row["study_instance_uid"], row["patient_id"])])
    return models.VolumeResource.model_validate(_with_url(row))


@router.head("/volumes/{id}/file", include_in_schema=False)
@router.head("/volumes/{id}/file/{name}", include_in_schema=False)
@router.get("/volumes/{id}/file", include_in_schema=False)
@router.get(
    "/volumes/{id}/file/{name}",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file"},
        206: {"content": {"application/octet-stream": {}}, "description": "The part that Range asks for"},
        304: {"description": "If-None-Match names what it is"},
        410: {"description": "The index knows it, but its file is gone"},
        416: {"description": "Range asks for what is behind the end"},
    },
)
def volume_file(
    request: Request, account: Reader, node: Node, audit: RequestAudit, id: RowId, name: str | None = None
) -> Response:
    """The file itself. The name is that of the volume: viewers look at its ending."""
    row = _volume(node, id)
    its_name = PurePath(row["path"]).name
    if name not in (None, its_name) or row["files_removed_at"] is not None:
        raise ResourceNotFound("file")
    audit.transferred([of_study(row["study_instance_uid"], row["patient_id"])])
    media_type = MEDIA_TYPES.get(PurePath(its_name).suffix, "application/octet-stream")
    return file_response(request, node.archive.root / row["path"], media_type, its_name, row["sha256"])


def _volume(node: Services, id: int) -> dict[str, Any]:
    with node.index.reading() as index:
        rows = index.volumes.page(None, 1, id=id)
    if not rows:
        raise ResourceNotFound("volume")
    return rows[0]


def _with_url(row: dict[str, Any]) -> dict[str, Any]:
    """A row with name and URL in the place of its path."""
    name = PurePath(row["path"]).name
    there = row["files_removed_at"] is None
    return {**row, "name": name, "url": f"/api/v1/volumes/{row['id']}/file/{quote(name)}" if there else None}
