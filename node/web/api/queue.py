"""What became of things: verdicts, jobs, failures, exclusions, rejections, conflicts, history; and how the node is."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from node import __version__
from node.index.events import EventKind
from node.web.access import Reader, RequestAudit
from node.web.api import models
from node.web.api.paging import After, Limit, Page, page_of, row_place
from node.web.services import Node

router = APIRouter(tags=["ledger"])

Word = Annotated[str | None, Query(max_length=64)]
OptionalUid = Annotated[str | None, Query(max_length=64)]

UNDONE = ("receiving", "converting", "refused", "failed")


@router.get("/verdicts")
def list_verdicts(
    account: Reader,
    node: Node,
    verdict: Literal["complete", "incomplete"] | None = None,
    study_instance_uid: OptionalUid = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[models.CompletenessResource]:
    """Whether series are complete, by which rule, the newest first."""
    with node.index.searching() as index:
        rows = index.series.page(row_place(after), limit, study_instance_uid=study_instance_uid, verdict=verdict)
    return Page[models.CompletenessResource].model_validate(page_of(rows, limit))


@router.get("/jobs")
def list_jobs(
    account: Reader,
    node: Node,
    state: Literal["receiving", "converting", "refused", "failed"] | None = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[models.JobResource]:
    """What waits for its conversion, is converted, or could not be: series that are not done, the newest first."""
    with node.index.searching() as index:
        rows = index.series.page(row_place(after), limit, states=(state,) if state else UNDONE)
    return Page[models.JobResource].model_validate(page_of(rows, limit))


@router.get("/failures")
def list_failures(
    account: Reader, node: Node, reason: Word = None, after: After = None, limit: Limit = 100
) -> Page[models.FailureResource]:
    """Why series, or stacks of them, gave no volume (docs/conversion.md), the newest first."""
    with node.index.searching() as index:
        rows = index.failures.page(row_place(after), limit, reason=reason)
    return Page[models.FailureResource].model_validate(page_of(rows, limit))


@router.get("/exclusions")
def list_exclusions(
    account: Reader, node: Node, series_instance_uid: OptionalUid = None, after: After = None, limit: Limit = 100
) -> Page[models.ExclusionResource]:
    """Instances, or frames of them, that conversions left out of their volumes, the newest first."""
    with node.index.searching() as index:
        rows = index.exclusions.page(row_place(after), limit, series_instance_uid=series_instance_uid)
    return Page[models.ExclusionResource].model_validate(page_of(rows, limit))


@router.get("/rejections")
def list_rejections(
    account: Reader, node: Node, rule: Word = None, after: After = None, limit: Limit = 100
) -> Page[models.RejectionResource]:
    """What was refused, whose it was, and what helps, the newest first."""
    with node.index.searching() as index:
        rows = index.rejections.page(row_place(after), limit, rule=rule)
    return Page[models.RejectionResource].model_validate(page_of(rows, limit))


@router.get("/conflicts")
def list_conflicts(
    account: Reader,
    node: Node,
    audit: RequestAudit,
    study_instance_uid: OptionalUid = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[models.ConflictResource]:
    """What claims one identity and is not the same, the newest first."""
    audit.queried(f"conflicts study_instance_uid={study_instance_uid}")  # the details name patients
    with node.index.searching() as index:
        rows = index.conflicts.page(row_place(after), limit, study_instance_uid=study_instance_uid)
    return Page[models.ConflictResource].model_validate(page_of(rows, limit))


@router.get("/history")
def list_history(
    account: Reader,
    node: Node,
    kind: EventKind | None = None,
    series_instance_uid: OptionalUid = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[models.EventResource]:
    """What happened (docs/lifecycle.md), the newest first; `/events` tells it as it does."""
    with node.index.searching() as index:
        rows = index.events.page(row_place(after), limit, kind=kind, series_instance_uid=series_instance_uid)
    return Page[models.EventResource].model_validate(page_of(rows, limit))


@router.get("/status")
def show_status(account: Reader, node: Node) -> models.NodeStatus:
    """How the node is: what waits, what failed, and whether instances may come in."""
    with node.index.reading() as index:
        return models.NodeStatus(
            version=__version__,
            ae_title=node.settings.dicom.ae_title,
            intake=node.ingest.refusal() or "open",
            free_bytes=node.archive.intake.free_bytes(),
            queued_instances=node.index.waiting,
            series=index.series.count_by_state(),
            failures=index.failures.count_by_reason(),
            oldest_unconverted_at=index.series.oldest_unconverted(),
            last_event=index.events.newest(),
        )
