"""Identity conflicts and files in quarantine: list, compare, decide (docs/custody.md).

The decisions themselves write the audit log (`node.receive.custody`).
"""

import datetime as dt
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import Path, Query, Response
from pydantic import Field

from node.index.look.views import ReadIndex
from node.index.rows.records import Level
from node.receive.aside import FOLDER, quarantined
from node.receive.custody import compared, examined, quarantined_file
from node.web.access import ADMINS, READERS, CurrentCall
from node.web.api.models import Decision, Moment, Resource
from node.web.api.routing import (
    OF_CHANGES,
    After,
    Change,
    Limit,
    OptionalStudyUid,
    Page,
    RequestedPage,
    Total,
    api_router,
    downloads,
    problems,
    single,
    tagged,
)
from node.web.files import OCTETS, file_response
from node.web.problem_types import NOT_DECIDABLE, NOT_RELEASABLE, WRONG_CURSOR
from node.web.services import Services


class ConflictResource(Resource):
    """An identity conflict: one UID or Patient ID with different content; `decision` is null, accepted or kept."""

    id: int
    kind: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    detail: str
    sha256: str | None
    calling_ae_title: str | None
    found_at: Moment
    decision: str | None
    decided_at: Moment | None
    decided_by: str | None


class DifferenceResource(Resource):
    """An attribute in which the version in a conflict differs from the current one."""

    attribute: str
    current: str | int | float | None
    other: str | int | float | None


class VersionResource(Resource):
    """Of whom a version of an instance is, by its file, and who sent it; `source` is of the current version only."""

    patient_name: str | None
    patient_id: str | None
    patient_birth_date: str | None
    patient_sex: str | None
    calling_ae_title: str | None
    source: str | None
    received_at: Moment


class ComparedConflict(Resource):
    """A conflict with the differences of its two versions; `problem` says why they cannot be compared."""

    conflict: ConflictResource
    problem: str | None
    differences: list[DifferenceResource]
    current: VersionResource | None
    other: VersionResource | None


class ConflictDecision(Decision):
    """Numbers of the conflicts that were decided."""

    accepted: list[int] = Field([])
    kept: list[int] = Field([])


class QuarantinedFileResource(Resource):
    """A file in quarantine; `reason` is the kind of its conflict or event. Without a row, its UIDs are null."""

    name: str
    bytes: int
    modified_at: Moment
    reason: str
    detail: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    sha256: str | None


class ExaminedFileResource(Resource):
    """What the file turns out to be; `problem` says why it cannot be released.

    `current_sha256` is that of the current instance with its UID.
    """

    file: QuarantinedFileResource
    problem: str | None
    sha256: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    current_sha256: str | None


class ReleaseResult(Decision):
    """The instance that is in the archive again."""

    released: str
    sop_instance_uid: str


class PurgeResult(Resource):
    """The file that was deleted permanently."""

    purged: str


class TrashResource(Resource):
    """A deletion that can be undone, and what people know its study by."""

    number: int
    level: Level
    uid: str
    study_instance_uid: str
    series_instance_uid: str | None = None
    patient_id: str | None = None
    patient_name: str | None = None
    study_date: dt.date | None = None
    study_description: str | None = None
    reason: str
    deleted_at: Moment
    until: Moment
    files: int
    bytes: int


class RestoreResult(Decision):
    """How many instances came back; how many did not, because they had come again or their files are gone."""

    instances: int
    repeated: int
    conflicts: int
    lost: int


class EmptiedTrash(Decision):
    """The number of the deletion that is permanent now."""

    emptied: int


router = api_router(READERS)

DECISION = problems(*OF_CHANGES, NOT_DECIDABLE)

Number = Annotated[int, Path(ge=1, le=1 << 53, description="number of the conflict")]
Alike = Annotated[bool, Query(description="also all undecided conflicts of the same kind, study and sender")]


@router.get("/conflicts", responses=problems(WRONG_CURSOR), tags=["conflicts"])
def list_conflicts(page: RequestedPage, study_instance_uid: OptionalStudyUid = None) -> Page[ConflictResource]:
    """Identity conflicts: one UID or Patient ID with different content, newest first."""
    wanted = {"study_instance_uid": study_instance_uid}  # audited: the details name patients
    return page.read("conflicts", ConflictResource, lambda index: index.conflicts, **wanted)


@router.get("/conflicts/{conflict}", responses=single(), tags=["conflicts"], dependencies=ADMINS)
def show_conflict(call: CurrentCall, response: Response, conflict: Number) -> ComparedConflict:
    """Compare the version in a conflict with the current one, attribute by attribute."""
    call.audit.queried(f"conflict {conflict}")
    with call.node.index.reading() as index:
        return tagged(response, _compared(call.node, index, conflict))


@router.post("/conflicts/{conflict}/{decision}", responses=DECISION, tags=["conflicts"], dependencies=ADMINS)
def decide_conflict(
    call: CurrentCall,
    change: Change,
    conflict: Number,
    decision: Annotated[Literal["accept", "keep"], Path(description="which version is current from now on")],
    alike: Alike = False,
) -> ConflictDecision:
    """Make the version in a conflict current, in whichever series, or keep the current one.

    What was current until then goes to quarantine.
    """
    return change.make(
        ConflictDecision,
        lambda index: _compared(call.node, index, conflict),
        lambda _: call.act(f"{decision}-conflict", conflict=conflict, alike=alike),
    )


def _compared(node: Services, index: ReadIndex, conflict: int) -> ComparedConflict:
    found = asdict(compared(node.archive.root, index, conflict, node.archive.local))
    return ComparedConflict.of({name: value for name, value in found.items() if name != "files"})


Name = Annotated[str, Path(max_length=100, description="name of the file")]


@router.get("/quarantine", tags=["quarantine"], dependencies=ADMINS)
def list_quarantine(
    call: CurrentCall, after: After = None, limit: Limit = 100, total: Total = False
) -> Page[QuarantinedFileResource]:
    """Files in quarantine, by name."""
    with call.node.index.reading() as index:
        all_files = quarantined(call.node.archive.root, index)
    files = [file for file in all_files if after is None or file.name > after]
    call.audit.queried("quarantine", len(files[:limit]))
    items = [QuarantinedFileResource.of(file) for file in files[:limit]]
    is_last = len(files) <= limit
    return Page(items=items, next=None if is_last else items[-1].name, total=len(all_files) if total else None)


@router.get("/quarantine/{name}", responses=single(), tags=["quarantine"], dependencies=ADMINS)
def show_quarantined(call: CurrentCall, response: Response, name: Name) -> ExaminedFileResource:
    """Read a file in quarantine, and compare it with the current instance of its UID."""
    call.audit.queried(f"quarantine {name}")
    with call.node.index.reading() as index:
        return tagged(response, _examined(call.node, index, name))


@router.get(
    "/quarantine/{name}/file",
    response_class=Response,
    responses=downloads("The file", OCTETS),
    tags=["quarantine"],
    dependencies=ADMINS,
)
def download_quarantined(call: CurrentCall, name: Name) -> Response:
    """The bytes of a file in quarantine."""
    with call.node.index.reading() as index:
        file = quarantined_file(call.node.archive.root, index, name)
    uid = file.study_instance_uid
    call.audit.transferred([{"study_instance_uid": uid}] if uid else [], f"quarantine {file.name}")
    path = call.node.archive.root / FOLDER / file.name
    return file_response(path, OCTETS, file.name, file.sha256)


@router.post(
    "/quarantine/{name}/release",
    responses=problems(*OF_CHANGES, NOT_RELEASABLE, NOT_DECIDABLE),
    tags=["quarantine"],
    dependencies=ADMINS,
)
def release_quarantined(
    call: CurrentCall,
    change: Change,
    name: Name,
    replace: Annotated[bool, Query(description="make it current even if another version is")] = False,
) -> ReleaseResult:
    """Take an instance back into the archive."""
    return change.make(
        ReleaseResult,
        lambda index: _examined(call.node, index, name),
        lambda _: call.act("release-quarantined", name=name, replace=replace),
    )


@router.delete("/quarantine/{name}", responses=problems(*OF_CHANGES), tags=["quarantine"], dependencies=ADMINS)
def purge_quarantined(call: CurrentCall, change: Change, name: Name) -> PurgeResult:
    """Delete a file in quarantine permanently."""
    return change.make(
        PurgeResult, lambda index: _examined(call.node, index, name), lambda _: call.act("purge-quarantined", name=name)
    )


def _examined(node: Services, index: ReadIndex, name: str) -> ExaminedFileResource:
    return ExaminedFileResource.of(examined(node.archive.root, index, name))


Deleted = Annotated[int, Path(ge=1, le=1 << 53, description="number of the deletion")]


@router.get("/trash", tags=["trash"], dependencies=ADMINS)
def list_trash(call: CurrentCall) -> list[TrashResource]:
    """Deletions that can be undone, the newest first."""
    with call.node.index.reading() as index:
        entries = index.trash.all()
    call.audit.queried("trash", len(entries))
    return [TrashResource.of(entry) for entry in entries]


@router.post("/trash/{number}/restore", responses=problems(*OF_CHANGES), tags=["trash"], dependencies=ADMINS)
def restore_trash(call: CurrentCall, change: Change, number: Deleted) -> RestoreResult:
    """Undo a deletion; everything is as before."""
    return change.make(
        RestoreResult, lambda index: _in_trash(index, number), lambda _: call.act("restore-trash", number=number)
    )


@router.delete("/trash/{number}", responses=problems(*OF_CHANGES), tags=["trash"], dependencies=ADMINS)
def empty_trash(call: CurrentCall, change: Change, number: Deleted) -> EmptiedTrash:
    """Make a deletion permanent before its time."""
    return change.make(
        EmptiedTrash, lambda index: _in_trash(index, number), lambda _: call.act("empty-trash", number=number)
    )


def _in_trash(index: ReadIndex, number: int) -> TrashResource:
    return TrashResource.of(index.trash.entry(number))
