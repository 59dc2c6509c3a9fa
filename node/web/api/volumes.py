"""Files of conversions: lists, single files and what lies beside them, and the instances that are in a volume."""

from pathlib import Path as FilePath
from pathlib import PurePath
from typing import Annotated, Any

import structlog
from fastapi import HTTPException, Path, Query, Response

from node.conversion.volume_files import revision_files, stem_of
from node.index.rows.models.levels import STORE
from node.index.rows.records import RevisionFile
from node.index.rows.scope import within
from node.web.access import MEMBERS, Call, CurrentCall
from node.web.api import models
from node.web.api.models import RowId
from node.web.api.routing import Page, RequestedPage, UidFilters, api_router, downloads, only_row, problems
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import MEDIA_TYPES, OCTETS, Unavailable, add_digest, file_response, local_or_gone
from node.web.problem_types import NOT_FOUND, WRONG_CURSOR
from node.web.services import Services

log = structlog.get_logger()
router = api_router(MEMBERS, "volumes")

VolumeNumber = Annotated[RowId, Path(description="`id` of the file")]
DAMAGED_VOLUME = "damaged: the file is not as it was written; its series is converted again unless it is superseded"
FILE = downloads("The file", OCTETS, *MEDIA_TYPES.values())


@router.get("/volumes", responses=problems(WRONG_CURSOR))
def list_volumes(
    page: RequestedPage,
    uids: UidFilters,
    kind: Annotated[str | None, Query(max_length=16, description="kind of file, such as `volume`")] = None,
    format: Annotated[str | None, Query(max_length=16, description="format, such as `nifti`")] = None,
    superseded: Annotated[bool | None, Query(description="null: current and superseded revisions")] = False,
) -> Page[models.VolumeResource]:
    """Files of conversions, newest first: volumes in each format, and pictures."""
    wanted = {**uids, "kind": kind, "format": format, "superseded": superseded}
    return page.read("volumes", models.VolumeResource, lambda index: index.volumes, **wanted)


@router.get("/volumes/{id}", responses=problems(NOT_FOUND))
def show_volume(call: CurrentCall, id: VolumeNumber) -> models.VolumeResource:
    """One file of a conversion."""
    row = _volume(call.node, id)
    call.audit.accessed([of_study(row["study_instance_uid"], row["patient_id"])])
    return models.VolumeResource.of(row)


@router.get("/volumes/{id}/sources", responses=problems(NOT_FOUND, WRONG_CURSOR))
def list_sources(page: RequestedPage, id: VolumeNumber) -> Page[models.SourceResource]:
    """The instances that are in a volume, with the digests that they had, last first."""
    row = _volume(page.call.node, id)
    wanted = {"conversion_id": row["conversion_id"], "stack": row["stack"]}
    return page.read("sources", models.SourceResource, lambda index: index.sources, **wanted)


@router.head("/volumes/{id}/file", include_in_schema=False)
@router.get("/volumes/{id}/file", response_class=Response, responses=FILE)
def download_volume(call: CurrentCall, id: VolumeNumber) -> Response:
    """Download a file."""
    return _file(call, _volume(call.node, id))


@router.head("/volumes/{id}/file/{name}", include_in_schema=False)
@router.get("/volumes/{id}/file/{name}", response_class=Response, responses=FILE)
def download_volume_by_name(
    call: CurrentCall,
    id: VolumeNumber,
    name: Annotated[str, Path(description="`name` of the file, or of one beside it")],
) -> Response:
    """Download a file by its `url`, or what lies beside it: its sidecar, gradients, the data of a header.

    Their names differ from that of the volume after the stem: volume.json is beside volume.nii.gz.
    """
    row = _volume(call.node, id)
    path = PurePath(row["path"])
    if name == path.name:
        return _file(call, row)
    beside = _beside(call.node, row, name) if stem_of(name) == stem_of(path.name) else None
    if beside is None or row["files_removed_at"] is not None:
        raise ResourceNotFound("file")
    return _sent(call, row, beside, beside.sha256 or None)


def _beside(node: Services, row: dict[str, Any], name: str) -> RevisionFile | None:
    """Return a file of the same revision by its name, which is compared and never used as a path."""
    with node.index.reading() as index:
        files = revision_files(node.archive.root, index, row["path"].rpartition("/")[0])
    return next((file for file in files if PurePath(file.key).name == name), None)


def _file(call: Call, row: dict[str, Any]) -> Response:
    if row["files_removed_at"] is not None:
        raise ResourceNotFound("file")
    with call.node.index.reading() as index:
        noted = index.files.file_at(row["path"])
    return _sent(call, row, noted, row["sha256"])


def _sent(call: Call, row: dict[str, Any], file: RevisionFile | None, sha256: str | None) -> Response:
    call.audit.transferred([of_study(row["study_instance_uid"], row["patient_id"])])
    path = _path(call.node, row, file)
    if sha256 is not None and path.exists():
        length = row["bytes"] if file is None else file.bytes
        if not any(_is_whole(call.node, path, length, sha256) for _ in range(2)):  # one bad read is not a damage
            has_object = file is not None and file.place == STORE
            _replace(call.node, row, row["path"] if file is None else file.key, has_object=has_object)
            if not has_object:
                raise HTTPException(410, DAMAGED_VOLUME)
            path = _path(call.node, row, file)
    response = file_response(path, MEDIA_TYPES.get(path.suffix, OCTETS), path.name, sha256)
    if sha256 is not None:
        add_digest(response, sha256)
    return response


def _path(node: Services, row: dict[str, Any], file: RevisionFile | None) -> FilePath:
    return node.archive.path(row["path"]) if file is None else local_or_gone(node, file)


def _is_whole(node: Services, path: FilePath, length: int, sha256: str) -> bool:
    try:
        return node.verified.problem_with(path, 0, length, sha256) is None
    except OSError as error:
        raise Unavailable(f"a file of the archive cannot be read: {error.strerror}") from error


def _replace(node: Services, row: dict[str, Any], key: str, *, has_object: bool) -> None:
    """Remove a damaged file: the object store has it whole, or its series is converted again, which is owed first."""
    log.error("volume_damaged", path=key)
    with within(None):  # a damage counts, whoever meets it
        if not has_object and not row["superseded"]:
            node.index.series.reopen([(row["study_instance_uid"], row["series_instance_uid"])], node.index.now())
        node.archive.remove(key)


def _volume(node: Services, id: int) -> dict[str, Any]:
    with node.index.reading() as index:
        return only_row(index.volumes, "volume", id=id)
