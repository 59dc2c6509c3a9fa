"""Files of a revision (volumes, sidecars, pictures), singly with ranges or as a ZIP file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi import Path as FromPath

from node.conversion.decoder import NotDecoded
from node.conversion.decoding import reduced_volume
from node.conversion.volume_files import folder_name
from node.index.read import ReadIndex
from node.web.access import Reader, RequestAudit
from node.web.errors import ResourceNotFound
from node.web.files import RangedFile
from node.web.headers import has_etag
from node.web.services import Node, Services
from node.web.streaming import Streamed
from node.web.zip_stream import MEDIA_TYPE, Member, zip_stream

router = APIRouter(include_in_schema=False)

Revision = Annotated[int, FromPath(ge=1, le=2**31)]

CHUNK_BYTES = 1 << 20

REDUCED_VOXELS = 1 << 23
"""Largest number of voxels of a reduced volume: about 10 MB, and every third voxel along each axis of a whole body."""

MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".gz": "application/gzip"}
"""Media types that a browser displays; all others are application/octet-stream."""


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/files/{revision}/{name}")
def file(
    request: Request,
    node: Node,
    account: Reader,
    study_instance_uid: str,
    series_instance_uid: str,
    revision: Revision,
    name: str,
    audit: RequestAudit,
    download: bool = False,
) -> Response:
    """One file of a revision."""
    path = _file_of(node, study_instance_uid, series_instance_uid, revision, name)
    series = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    audit.transferred([series], f"a file of revision {revision}")
    response = RangedFile(
        path,
        media_type=MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        filename=path.name,
        content_disposition_type="attachment" if download else "inline",
        stat_result=path.stat(),
        headers={"Cache-Control": "private, no-cache"},
    )
    if request.headers.get("if-none-match") == response.headers["etag"]:
        return Response(status_code=304, headers={"ETag": response.headers["etag"]})
    return response


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/files/{revision}/{name}/reduced")
def reduced(
    request: Request,
    node: Node,
    account: Reader,
    study_instance_uid: str,
    series_instance_uid: str,
    revision: Revision,
    name: str,
    audit: RequestAudit,
    only_body: bool = False,
) -> Response:
    """A NIfTI file of a revision with at most `REDUCED_VOXELS` voxels of its first time, as ``.nii.gz``."""
    path = _file_of(node, study_instance_uid, series_instance_uid, revision, name)
    if not name.endswith((".nii", ".nii.gz")):
        raise ResourceNotFound("reduced volume")
    series = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    audit.transferred([series], f"a reduced volume of revision {revision}")
    stat = path.stat()
    etag = f'"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}-{only_body}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": etag}
    if has_etag(request.headers, etag):
        return Response(status_code=304, headers=headers)
    try:
        content = node.decoder.run(reduced_volume, path, REDUCED_VOXELS, only_body)
    except NotDecoded as error:
        raise HTTPException(500, f"the volume cannot be reduced: {error}") from error
    return Response(content, media_type="application/gzip", headers=headers)


@router.get("/studies/{study_instance_uid}/volumes.zip")
def study_zip(node: Node, account: Reader, study_instance_uid: str, audit: RequestAudit) -> Response:
    """The files of the newest revision of every series of a study, as a ZIP file."""
    return _zipped(node, audit, study_instance_uid, None)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/volumes.zip")
def series_zip(
    node: Node, account: Reader, study_instance_uid: str, series_instance_uid: str, audit: RequestAudit
) -> Response:
    """The files of the newest revision of a series, as a ZIP file."""
    return _zipped(node, audit, study_instance_uid, series_instance_uid)


def _file_of(node: Services, study: str, series: str, revision: int, name: str) -> Path:
    """Return the file of a revision with a name, which is never used as a path.

    Raises
    ------
    ResourceNotFound
    """
    with node.index.reading() as index:
        files = revision_files(node, index, study, series, revision)
    path = next((path for path in files if path.name == name), None)
    if path is None:
        raise ResourceNotFound("file")
    return path


def _zipped(node: Services, audit: RequestAudit, study_instance_uid: str, series_instance_uid: str | None) -> Response:
    with node.index.reading() as index:
        files = [
            (f"{folder_name(series)}/{path.name}", path)
            for series, revision in index.volumes.current_revisions(study_instance_uid, series_instance_uid)
            for path in revision_files(node, index, study_instance_uid, series, revision)
        ]
    if not files:
        raise ResourceNotFound("volume")
    audit.transferred([{"study_instance_uid": study_instance_uid}], f"{len(files)} files of volumes as a ZIP file")
    return Streamed(
        zip_stream(Member(name, path.stat().st_size, _pieces(path)) for name, path in files),
        200,
        {"Content-Type": MEDIA_TYPE, "Content-Disposition": 'attachment; filename="volumes.zip"'},
    )


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def revision_files(node: Services, index: ReadIndex, study: str, series: str, revision: int) -> list[Path]:
    """Return the files of a revision, sorted by name; empty if it is not in the index or its files are gone."""
    folder = index.volumes.folder(study, series, revision)
    if folder is None or not (node.archive.root / folder).is_dir():
        return []
    return sorted(path for path in (node.archive.root / folder).iterdir() if path.is_file())
