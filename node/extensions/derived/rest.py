"""Projections, montages, masks and contours of a volume, over HTTP; the node keeps none of them.

Each is also sent as application/octet-stream, if the request accepts only this: generated clients know no pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path, PurePath
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, Any, Literal

from fastapi import Query, Response

from node.archive.base import ArchivedFile
from node.children.decoder import NotDecoded
from node.conversion.volume_files import revision_files, stem_of
from node.errors import UsageError
from node.extensions.derived import jobs
from node.volume.planes import PlaneName, ProjectionName
from node.web.access import Call, ReaderCall, for_projects
from node.web.api.models import BINARY
from node.web.api.paging import only_row
from node.web.api.routing import api_router, problems
from node.web.api.volumes import VolumeNumber
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import OCTETS, Streamed, Unavailable, local_or_gone, type_or_octets
from node.web.problem_types import GONE, INVALID_REQUEST, NOT_FOUND

router = api_router("volumes")

MAX_VOXELS = 1 << 28
"""Voxels of a volume, of all times; 1000 slices of 512 x 512. Masks take several arrays of that size."""

FORMATS = ("nifti", "mhd", "nrrd")
DATA = (".zraw", ".raw")
CHUNK_BYTES = 1 << 18

PNG, GZIP, JSON = "image/png", "application/gzip", "application/json"

POINTS: dict[str, Any] = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}

POLYGONS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "contours": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"slice": {"type": "integer"}, "points_lps_mm": POINTS},
            },
        }
    },
    "required": ["contours"],
}

PlaneOf = Annotated[PlaneName, Query(description="plane that the picture shows, of an oblique volume the nearest one")]
Time = Annotated[int, Query(ge=0, le=1_000_000, description="which time of a volume with several, from 0")]
Low = Annotated[float | None, Query(allow_inf_nan=False, description="value at black; null: the 1st percentile")]
High = Annotated[float | None, Query(allow_inf_nan=False, description="value at white; null: the 99.5th percentile")]
Above = Annotated[float | None, Query(allow_inf_nan=False, description="smallest value inside")]
Below = Annotated[float | None, Query(allow_inf_nan=False, description="largest value inside")]


def _sends(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    content = {
        media_type: {"schema": POLYGONS if media_type == JSON else BINARY} for media_type in (*media_types, OCTETS)
    }
    return {
        **problems(NOT_FOUND, INVALID_REQUEST, GONE),
        200: {"description": description, "content": content},
    }


@router.get("/volumes/{id}/projection", response_class=Response, responses=_sends("The projection", PNG, GZIP))
@for_projects
def project_volume(
    call: ReaderCall,
    id: VolumeNumber,
    plane: PlaneOf = "axial",
    projection: Annotated[ProjectionName, Query(description="largest or smallest values")] = "mip",
    format: Annotated[
        Literal["png", "nifti"], Query(description="nifti: one slice with the values, and with all times")
    ] = "png",
    time: Time = 0,
    low: Low = None,
    high: High = None,
) -> Response:
    """The largest or smallest values of a whole volume along an axis, as a picture or as values."""
    volume = _Volume(call, id)
    if format == "png":
        return volume.picture(jobs.projection_picture, plane, projection, time, low, high)
    return volume.file("projection.nii.gz", GZIP, jobs.projection_file, plane, projection)


@router.get("/volumes/{id}/montage", response_class=Response, responses=_sends("The montage", PNG))
@for_projects
def montage_volume(
    call: ReaderCall,
    id: VolumeNumber,
    plane: PlaneOf = "axial",
    step: Annotated[int, Query(ge=1, le=10_000, description="shows every such slice")] = 1,
    columns: Annotated[int, Query(ge=0, le=1000, description="slices in a row; 0: nearly a square")] = 0,
    time: Time = 0,
    low: Low = None,
    high: High = None,
) -> Response:
    """Slices of a volume in a grid."""
    return _Volume(call, id).picture(jobs.montage_picture, plane, step, columns, time, low, high)


@router.get("/volumes/{id}/mask", response_class=Response, responses=_sends("A NIfTI file", GZIP))
@for_projects
def mask_volume(
    call: ReaderCall,
    id: VolumeNumber,
    above: Above = None,
    below: Below = None,
    outside: Annotated[
        float | None,
        Query(allow_inf_nan=False, description="value outside; null: the mask itself, 1 inside and 0 outside"),
    ] = None,
) -> Response:
    """Which voxels have values in a range, or the volume with only these; every such voxel, connected or not."""
    _require_range(above, below)
    return _Volume(call, id).file("mask.nii.gz", GZIP, jobs.mask_file, above, below, outside)


@router.get("/volumes/{id}/contours", response_class=Response, responses=_sends("Polygons in mm, LPS+", JSON))
@for_projects
def outline_volume(
    call: ReaderCall, id: VolumeNumber, above: Above = None, below: Below = None, time: Time = 0
) -> Response:
    """The outlines of the voxels with values in a range, slice by slice, along the edges of their pixels."""
    _require_range(above, below)
    return _Volume(call, id).file("contours.json", JSON, jobs.contours_file, above, below, time)


def _require_range(above: float | None, below: float | None) -> None:
    if above is None and below is None:
        raise UsageError("give above, below or both: a mask of all voxels says nothing")


class _Volume:
    """The file of a volume, and its data file, on this machine."""

    def __init__(self, call: Call, id: int) -> None:
        with call.node.index.reading() as index:
            row = only_row(index.volumes, "volume", id=id)
            files = revision_files(call.node.archive.root, index, row["path"].rpartition("/")[0])
        if row["files_removed_at"] is not None:
            raise ResourceNotFound("file")
        if row["format"] not in FORMATS:
            raise UsageError(f"the format of this file is {row['format']}: name the volume by {', '.join(FORMATS)}")
        if prod(row["shape"]) > MAX_VOXELS:
            raise UsageError(
                f"the volume has {prod(row['shape'])} voxels, more than {MAX_VOXELS}: use `voxelnode volume mask`"
            )
        self._call, self._row = call, row
        beside = {PurePath(file.key).name: file for file in files}
        name = PurePath(row["path"]).name
        self._path = self._local(beside, name)
        data = [f"{stem_of(name)}{suffix}" for suffix in DATA if name.endswith(".mhd")]
        self._data = next((self._local(beside, other) for other in data if other in beside), self._path)

    def _local(self, beside: dict[str, Any], name: str) -> Path:
        if name not in beside:
            raise ResourceNotFound("file")
        file: ArchivedFile = beside[name]
        return local_or_gone(self._call.node, file)

    def picture(self, job: Callable[..., bytes], *arguments: Any) -> Response:
        return Response(self._run(job, *arguments), headers=self._headers(PNG))

    def file(self, name: str, media_type: str, job: Callable[..., bytes], *arguments: Any) -> Response:
        """Return a file that a child writes; it is beside files that arrive, and a start removes what a crash left."""
        suffix = f".part{name[name.index('.') :]}"
        file: IO[bytes] = NamedTemporaryFile(  # noqa: SIM115 - the response closes it
            dir=self._call.node.archive.incoming, prefix="derived-", suffix=suffix
        )
        try:
            self._run(job, *arguments, into=Path(file.name))
        except BaseException:
            file.close()
            raise
        headers = {
            **self._headers(media_type),
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Content-Disposition": f'attachment; filename="{name}"',
        }
        return Streamed(_pieces(file), 200, headers)

    def _headers(self, media_type: str) -> dict[str, str]:
        sent_as = type_or_octets(self._call.request.headers, media_type)
        return {"Content-Type": sent_as, "Vary": "Accept", "Cache-Control": "private, no-cache"}

    def _run(self, job: Callable[..., bytes], *arguments: Any, **into: Path) -> bytes:
        try:
            content = self._call.node.decoder.run(job, self._path, self._data, *arguments, **into)
        except NotDecoded as error:
            raise UsageError(f"this cannot be derived from the volume: {error}") from error
        except OSError as error:
            raise Unavailable(f"the volume cannot be read: {error.strerror}") from error
        study = of_study(self._row["study_instance_uid"], self._row["patient_id"])
        self._call.audit.transferred([study], f"derived: {job.__name__.rpartition('_')[0]}")
        return content


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while piece := file.read(CHUNK_BYTES):
            yield piece
