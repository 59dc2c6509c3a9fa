"""Files of a revision (volumes, sidecars, pictures), singly and with ranges."""

from collections.abc import Iterable
from io import BytesIO
from math import prod
from pathlib import Path, PurePath
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi import Path as FromPath

from node.children.decoder import NotDecoded
from node.conversion.volume_files import by_path, stem_of
from node.extensions.pages.decoding import overlaid_picture, reduced_volume
from node.extensions.pages.series import VIEWED_FORMATS, sidecar_of, study_series
from node.index.look.views import ReadIndex
from node.index.rows.records import RevisionFile
from node.web.access import MEMBERS, Call, CurrentCall
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import MEDIA_TYPES, OCTETS, VOXEL_FILES, RangedFile, files_of, local_or_gone
from node.web.headers import has_etag
from node.web.pages.filters import listed
from node.web.services import Services

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)

Revision = Annotated[int, FromPath(ge=1, le=2**31)]

REDUCED_VOXELS = 1 << 23
"""Largest number of voxels of a reduced volume: about 10 MB, and every third voxel along each axis of a whole body."""


SMALL_PIXELS, SMALL_QUALITY = 64, 50
"""Longer side of a picture in a list, half as much again as it takes there; quality of WebP in percent. A list of 50
pictures is as heavy as the rest of its page."""

OVERLAID_PIXELS = 256
OVERLAID_VOXELS = 1 << 26
"""Largest image over which a mask is shown: it is read whole."""

OVERLAID_MASKS = 12
"""Most segments of a series in a picture, each a file."""


class FileOfRevision(NamedTuple):
    """The file that a path names; its name is never used as a path."""

    study: str
    series: str
    revision: int
    name: str

    def among(self, files: Iterable[RevisionFile], noun: str = "file") -> RevisionFile:
        """Return the file from those of its revision, or raise ResourceNotFound."""
        found = next((file for file in files if PurePath(file.key).name == self.name), None)
        if found is None:
            raise ResourceNotFound(noun)
        return found


def _requested(study_instance_uid: str, series_instance_uid: str, revision: Revision, name: str) -> FileOfRevision:
    return FileOfRevision(study_instance_uid, series_instance_uid, revision, name)


Wanted = Annotated[FileOfRevision, Depends(_requested)]


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/files/{revision}/{name}")
def file(call: CurrentCall, wanted: Wanted, download: bool = False) -> Response:
    """One file of a revision; 410 if it is lost."""
    with call.node.index.reading() as index:
        files = files_of(call.node, index, wanted.study, wanted.series, wanted.revision)
    path = local_or_gone(call.node, wanted.among(files))
    _audit(call, wanted, "a file")
    disposition = "attachment" if download else "inline"
    return _ranged(call, path, filename=path.name, content_disposition_type=disposition)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/files/{revision}/{name}/reduced")
def reduced(call: CurrentCall, wanted: Wanted, only_body: bool = False) -> Response:
    """A volume of a revision with at most `REDUCED_VOXELS` voxels of its first time, as ``.nii.gz``."""
    with call.node.index.reading() as index:
        of_revision = files_of(call.node, index, wanted.study, wanted.series, wanted.revision)
        rows = index.volumes.of_series(wanted.study, wanted.series)
    path = local_or_gone(call.node, wanted.among(of_revision))
    beside = {PurePath(file.key).name: file for file in of_revision}
    name = wanted.revision, wanted.name
    formats = {row["format"] for row in rows if (row["revision"], PurePath(row["path"]).name) == name}
    if formats.isdisjoint(VIEWED_FORMATS):
        raise ResourceNotFound("reduced volume")
    _audit(call, wanted, "a reduced volume")
    stat = path.stat()
    etag = f'"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}-{only_body}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": etag}
    if has_etag(call.request.headers, etag):
        return Response(status_code=304, headers=headers)
    others = [path.with_suffix(suffix).name for suffix in VOXEL_FILES.get(path.suffix, ())]
    voxels = next((local_or_gone(call.node, beside[other]) for other in others if other in beside), path)
    sidecar = beside.get(f"{stem_of(wanted.name)}.json")
    sidecar_path = None if sidecar is None else local_or_gone(call.node, sidecar)
    try:
        content = call.node.decoder.run(reduced_volume, path, voxels, sidecar_path, REDUCED_VOXELS, only_body)
    except NotDecoded as error:
        raise HTTPException(500, f"the volume cannot be reduced: {error}") from error
    return Response(content, media_type="application/gzip", headers=headers)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/thumbnails/{revision}/{name}")
def small_thumbnail(call: CurrentCall, wanted: Wanted) -> Response:
    """A thumbnail of a revision, as small as a list shows it."""
    with call.node.index.reading(wait=False) as index:
        files = files_of(call.node, index, wanted.study, wanted.series, wanted.revision)
        patient_id = index.studies.patient_id(wanted.study)
    found = wanted.among((file for file in files if file.key.endswith(".png")), "picture")
    call.audit.accessed([of_study(wanted.study, patient_id)], "pages: pictures in lists")
    path = local_or_gone(call.node, found)
    status = path.stat()
    headers = {"ETag": f'"{status.st_mtime_ns:x}-{status.st_size:x}"', "Cache-Control": "private, no-cache"}
    if has_etag(call.request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(_small(path), media_type="image/webp", headers=headers)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/overlaid/{revision}/{name}")
def overlaid(call: CurrentCall, wanted: Wanted) -> Response:
    """A thumbnail of a segmentation over the image on which it lies; the thumbnail alone if there is none."""
    with call.node.index.reading() as index:
        found = wanted.among(files_of(call.node, index, wanted.study, wanted.series, wanted.revision), "picture")
        patient_id = index.studies.patient_id(wanted.study)
        masks, image, is_ct = _layers(call.node, index, wanted)
    call.audit.accessed([of_study(wanted.study, patient_id)], "pages: pictures in lists")
    path = local_or_gone(call.node, found)
    if not masks or image is None:
        return _ranged(call, path)
    etag = '"{}"'.format("-".join(f"{one.stat().st_mtime_ns:x}" for one in (image, *masks)))
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if has_etag(call.request.headers, etag):
        return Response(status_code=304, headers=headers)
    try:
        content = call.node.decoder.run(overlaid_picture, is_ct, OVERLAID_PIXELS, image, *masks)
    except NotDecoded:
        content = b""
    return Response(content, media_type="image/png", headers=headers) if content else _ranged(call, path)


def _layers(node: Services, index: ReadIndex, wanted: FileOfRevision) -> tuple[list[Path], Path | None, bool]:
    """Return the masks of a series, the volume of the study below them, and whether it is of a CT.

    The volume is in their frame of reference, and best on their grid; None if there is none.
    """
    local = by_path(node.archive.root, index, node.archive.local)
    series = study_series(index, wanted.study, local)
    masks = [
        volume
        for one in series
        if one["series_instance_uid"] == wanted.series
        for volume in one["viewable"]
        if volume["is_overlay"] and volume["revision"] == wanted.revision
    ]
    frame = sidecar_of(masks[0], local).get("FrameOfReferenceUID") if masks else None
    below = [
        volume
        for one in series
        for volume in one["viewable"]
        if frame is not None
        and not volume["is_overlay"]
        and volume["kind"] in ("volume", "resampled")
        and volume["geometry"] != "irregular"  # its affine is right for the first slice alone
        and prod(listed(volume["shape"])) <= OVERLAID_VOXELS
        and sidecar_of(volume, local).get("FrameOfReferenceUID") == frame
    ]
    below.sort(key=lambda volume: listed(volume["shape"])[:3] != listed(masks[0]["shape"])[:3])
    paths = [local(mask["path"]) for mask in masks[:OVERLAID_MASKS]]
    return paths, local(below[0]["path"]) if below else None, bool(below) and below[0]["modality"] == "CT"


def _ranged(call: Call, path: Path, **how: Any) -> Response:
    """Return a file, or 304 if the browser has it."""
    media_type = MEDIA_TYPES.get(path.suffix, OCTETS)
    headers = {"Cache-Control": "private, no-cache"}
    response = RangedFile(path, media_type=media_type, stat_result=path.stat(), headers=headers, **how)
    if has_etag(call.request.headers, response.headers["etag"]):
        return Response(status_code=304, headers={"ETag": response.headers["etag"]})
    return response


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


def _audit(call: Call, wanted: FileOfRevision, what: str) -> None:
    series = {"study_instance_uid": wanted.study, "series_instance_uid": wanted.series}
    call.audit.transferred([series], f"{what} of revision {wanted.revision}")
