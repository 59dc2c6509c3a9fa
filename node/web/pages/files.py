"""Files of a revision (volumes, sidecars, pictures), singly with ranges or as a ZIP file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path, PurePath
from typing import Annotated

from fastapi import APIRouter, HTTPException, Response
from fastapi import Path as FromPath

from node.children.decoder import NotDecoded
from node.children.decoding import reduced_volume
from node.conversion.volume_files import folder_name, revision_files
from node.index.database.reading import ReadIndex
from node.index.nouns.records import RevisionFile
from node.web.access import Call, ReaderCall
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import MEDIA_TYPE, Member, RangedFile, Streamed, local_or_gone, zip_stream
from node.web.headers import has_etag
from node.web.pages.viewable import VIEWED_FORMATS, stem_of
from node.web.services import Services

router = APIRouter(include_in_schema=False)

Revision = Annotated[int, FromPath(ge=1, le=2**31)]

CHUNK_BYTES = 1 << 20

REDUCED_VOXELS = 1 << 23
"""Largest number of voxels of a reduced volume: about 10 MB, and every third voxel along each axis of a whole body."""

VOXEL_FILES = {".mhd": (".zraw", ".raw"), ".hdr": (".img",)}
"""Suffixes that the voxels beside a header may have."""

SMALL_PIXELS, SMALL_QUALITY = 64, 50
"""Longer side of a picture in a list, half as much again as it takes there; quality of WebP in percent. A list of 50
pictures is as heavy as the rest of its page."""

MEDIA_TYPES = {".png": "image/png", ".json": "application/json", ".gz": "application/gzip"}
"""Media types that a browser displays; all others are application/octet-stream."""


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/files/{revision}/{name}")
def file(
    call: ReaderCall,
    study_instance_uid: str,
    series_instance_uid: str,
    revision: Revision,
    name: str,
    download: bool = False,
) -> Response:
    """One file of a revision."""
    path = _file_of(call.node, study_instance_uid, series_instance_uid, revision, name)
    series = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    call.audit.transferred([series], f"a file of revision {revision}")
    response = RangedFile(
        path,
        media_type=MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        filename=path.name,
        content_disposition_type="attachment" if download else "inline",
        stat_result=path.stat(),
        headers={"Cache-Control": "private, no-cache"},
    )
    if has_etag(call.request.headers, response.headers["etag"]):
        return Response(status_code=304, headers={"ETag": response.headers["etag"]})
    return response


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/files/{revision}/{name}/reduced")
def reduced(
    call: ReaderCall,
    study_instance_uid: str,
    series_instance_uid: str,
    revision: Revision,
    name: str,
    only_body: bool = False,
) -> Response:
    """A volume of a revision with at most `REDUCED_VOXELS` voxels of its first time, as ``.nii.gz``."""
    path = _file_of(call.node, study_instance_uid, series_instance_uid, revision, name)
    with call.node.index.reading() as index:
        files = index.volumes.of_series(study_instance_uid, series_instance_uid)
        beside = {
            PurePath(file.key).name: file
            for file in files_of(call.node, index, study_instance_uid, series_instance_uid, revision)
        }
    formats = {file["format"] for file in files if (file["revision"], PurePath(file["path"]).name) == (revision, name)}
    if formats.isdisjoint(VIEWED_FORMATS):
        raise ResourceNotFound("reduced volume")
    series = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    call.audit.transferred([series], f"a reduced volume of revision {revision}")
    stat = path.stat()
    etag = f'"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}-{only_body}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": etag}
    if has_etag(call.request.headers, etag):
        return Response(status_code=304, headers=headers)
    others = [path.with_suffix(suffix).name for suffix in VOXEL_FILES.get(path.suffix, ())]
    voxels = next((local_or_gone(call.node, beside[other]) for other in others if other in beside), path)
    sidecar = beside.get(f"{stem_of(name)}.json")
    sidecar_path = None if sidecar is None else local_or_gone(call.node, sidecar)
    try:
        content = call.node.decoder.run(reduced_volume, path, voxels, sidecar_path, REDUCED_VOXELS, only_body)
    except NotDecoded as error:
        raise HTTPException(500, f"the volume cannot be reduced: {error}") from error
    return Response(content, media_type="application/gzip", headers=headers)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/thumbnails/{revision}/{name}")
def small_thumbnail(
    call: ReaderCall, study_instance_uid: str, series_instance_uid: str, revision: Revision, name: str
) -> Response:
    """A thumbnail of a revision, as small as a list shows it."""
    with call.node.index.reading(wait=False) as index:
        files = files_of(call.node, index, study_instance_uid, series_instance_uid, revision)
        patient_id = index.studies.patient_id(study_instance_uid)
    found = next((file for file in files if PurePath(file.key).name == name and name.endswith(".png")), None)
    if found is None:
        raise ResourceNotFound("picture")
    call.audit.accessed([of_study(study_instance_uid, patient_id)], "pages: pictures in lists")
    path = local_or_gone(call.node, found)
    status = path.stat()
    headers = {"ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"', "Cache-Control": "private, no-cache"}
    if has_etag(call.request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(_small(path), media_type="image/webp", headers=headers)


def _small(path: Path) -> bytes:
    from PIL import Image  # for the first picture

    content = BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            small = picture.convert("RGB") if picture.mode not in ("L", "RGB") else picture
            small.thumbnail((SMALL_PIXELS, SMALL_PIXELS))
            small.save(content, "WEBP", quality=SMALL_QUALITY)
    except (OSError, SyntaxError) as error:  # Pillow has both for a damaged PNG
        raise ResourceNotFound("picture") from error
    return content.getvalue()


@router.get("/studies/{study_instance_uid}/volumes.zip")
def study_zip(call: ReaderCall, study_instance_uid: str) -> Response:
    """The files of the newest revision of every series of a study, as a ZIP file."""
    return volumes_zip(call, [study_instance_uid])


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/volumes.zip")
def series_zip(call: ReaderCall, study_instance_uid: str, series_instance_uid: str) -> Response:
    """The files of the newest revision of a series, as a ZIP file."""
    return volumes_zip(call, [study_instance_uid], series_instance_uid)


def _file_of(node: Services, study: str, series: str, revision: int, name: str) -> Path:
    """Return the file of a revision with a name, which is never used as a path: 410 if it is lost."""
    with node.index.reading() as index:
        files = files_of(node, index, study, series, revision)
    found = next((file for file in files if PurePath(file.key).name == name), None)
    if found is None:
        raise ResourceNotFound("file")
    return local_or_gone(node, found)


def volumes_zip(call: Call, study_instance_uids: Collection[str], series_instance_uid: str | None = None) -> Response:
    """Return the files of the newest revisions of studies, or of one series, as a ZIP file with a folder a series."""
    with call.node.index.reading() as index:
        files = [
            (
                f"{folder_name(study)}/" * (len(study_instance_uids) > 1)
                + f"{folder_name(series)}/{PurePath(file.key).name}",
                file,
            )
            for study in study_instance_uids
            for series, revision in index.volumes.current_revisions(study, series_instance_uid)
            for file in files_of(call.node, index, study, series, revision)
        ]
    if not files:
        raise ResourceNotFound("volume")
    objects = [{"study_instance_uid": study} for study in study_instance_uids]
    call.audit.transferred(objects, f"{len(files)} files of volumes as a ZIP file")
    return Streamed(
        zip_stream(
            Member(name, file.bytes, _pieces(call.node, file))
            for (name, _), file in zip(files, call.node.archive.ahead([file for _, file in files]), strict=True)
        ),
        200,
        {"Content-Type": MEDIA_TYPE, "Content-Disposition": 'attachment; filename="volumes.zip"'},
    )


def _pieces(node: Services, kept: RevisionFile) -> Iterator[bytes]:
    with open(node.archive.local(kept), "rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def files_of(node: Services, index: ReadIndex, study: str, series: str, revision: int) -> list[RevisionFile]:
    """Return the files of a revision, sorted by name; empty if it is not in the index or its files are gone."""
    folder = index.volumes.folder(study, series, revision)
    return [] if folder is None else revision_files(node.archive.root, index, folder)
