"""Identity conflicts: list, compare, accept, keep."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Path, Query, Response

from node.index.database.reading import ReadIndex
from node.receive.conflicts import compared
from node.web import actions
from node.web.access import Admin, Reader, RequestAudit
from node.web.api import models
from node.web.api.changes import Change, tagged
from node.web.api.paging import AuditedPage, OptionalStudyUid, Page
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.problem_types import NOT_DECIDABLE, WRONG_CURSOR
from node.web.services import Node, Services

router = api_router("conflicts")

DECISION = problems(*OF_CHANGES, NOT_DECIDABLE)

Number = Annotated[int, Path(ge=1, le=1 << 53, description="number of the conflict")]
Alike = Annotated[bool, Query(description="also all undecided conflicts of the same kind, study and sender")]


@router.get("/conflicts", responses=problems(WRONG_CURSOR))
def list_conflicts(
    account: Reader, page: AuditedPage, study_instance_uid: OptionalStudyUid = None
) -> Page[models.ConflictResource]:
    """Identity conflicts: one UID or Patient ID with different content, newest first."""
    wanted = {"study_instance_uid": study_instance_uid}  # audited: the details name patients
    return page.read("conflicts", models.ConflictResource, lambda index: index.conflicts, **wanted)


@router.get("/conflicts/{conflict}", responses=single())
def show_conflict(
    account: Admin, node: Node, audit: RequestAudit, response: Response, conflict: Number
) -> models.ComparedConflict:
    """Compare the version in a conflict with the current one, attribute by attribute."""
    audit.queried(f"conflict {conflict}")
    with node.index.reading() as index:
        return tagged(response, _compared(node, index, conflict))


@router.post("/conflicts/{conflict}/accept", responses=DECISION)
def accept_conflict(
    account: Admin, node: Node, change: Change, conflict: Number, alike: Alike = False
) -> models.ConflictDecision:
    """Make the version in a conflict current, in whichever series; the current one goes to quarantine."""
    return change.make(
        models.ConflictDecision,
        lambda index: _compared(node, index, conflict),
        lambda _: models.ConflictDecision.of(actions.accept(node, account, conflict, alike=alike)),
    )


@router.post("/conflicts/{conflict}/keep", responses=DECISION)
def keep_conflict(
    account: Admin, node: Node, change: Change, conflict: Number, alike: Alike = False
) -> models.ConflictDecision:
    """Keep what is current; the conflict is decided."""
    return change.make(
        models.ConflictDecision,
        lambda index: _compared(node, index, conflict),
        lambda _: models.ConflictDecision.of(actions.keep(node, account, conflict, alike=alike)),
    )


def _compared(node: Services, index: ReadIndex, conflict: int) -> models.ComparedConflict:
    archive = node.archive
    found = compared(archive.root, index, conflict, archive.local)
    return models.ComparedConflict.of(asdict(found))
