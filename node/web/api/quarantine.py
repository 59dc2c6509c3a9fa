"""Files in quarantine: list, examine, download, release, purge."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from fastapi.responses import FileResponse

from node.receive.quarantine import FOLDER, examined, quarantined, quarantined_file
from node.web import actions
from node.web.access import Admin, RequestAudit
from node.web.api import models
from node.web.api.paging import MAX_ROWS, Page
from node.web.api.routing import api_router
from node.web.services import Node

router = api_router("quarantine")

Name = Annotated[str, Path(max_length=100)]


@router.get("/quarantine")
def list_quarantine(
    account: Admin,
    node: Node,
    audit: RequestAudit,
    after: Annotated[
        str | None, Query(max_length=200, description="`next` of the previous page; unset for the first page")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="maximum number of items")] = 100,
) -> Page[models.QuarantinedFileResource]:
    """Files in quarantine, by name."""
    with node.index.reading() as index:
        files = [file for file in quarantined(node.archive.root, index) if after is None or file.name > after]
    audit.queried("quarantine", len(files[:limit]))
    items = [models.QuarantinedFileResource.model_validate(file) for file in files[:limit]]
    return Page(items=items, next=items[-1].name if len(files) > limit else None)


@router.get("/quarantine/{name}")
def show_quarantined(account: Admin, node: Node, audit: RequestAudit, name: Name) -> models.ExaminedFileResource:
    """Read a file in quarantine, and compare it with the current instance of its UID."""
    audit.queried(f"quarantine {name}")
    with node.index.reading() as index:
        return models.ExaminedFileResource.model_validate(examined(node.archive.root, index, name))


@router.get("/quarantine/{name}/file", response_class=Response)
def quarantined_content(account: Admin, node: Node, audit: RequestAudit, name: Name) -> Response:
    """The bytes of a file in quarantine."""
    with node.index.reading() as index:
        file = quarantined_file(node.archive.root, index, name)
    uid = file.study_instance_uid
    audit.transferred([{"study_instance_uid": uid}] if uid else [], f"quarantine {file.name}")
    path = node.archive.root / FOLDER / file.name
    return FileResponse(path, media_type="application/octet-stream", filename=file.name)


@router.post("/quarantine/{name}/release")
def release(
    account: Admin,
    node: Node,
    name: Name,
    replace: Annotated[bool, Query(description="make it current even if another version is")] = False,
) -> models.ReleaseResult:
    """Take an instance back into the archive."""
    return models.ReleaseResult.of(actions.release(node, account, name, replace=replace))


@router.delete("/quarantine/{name}")
def purge(account: Admin, node: Node, name: Name) -> models.PurgeResult:
    """Delete a file in quarantine permanently."""
    return models.PurgeResult.of(actions.purge(node, account, name))
