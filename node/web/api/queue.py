"""Completeness, jobs, failures, exclusions, rejections, conflicts, history, and the state of the node."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from node import __version__
from node.index.events import EventKind
from node.web.access import Reader, RequestAudit
from node.web.api import models
from node.web.api.paging import After, Limit, Page, after_row, page_of
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
    """Whether series are complete and by which rule, newest first."""
    with node.index.searching() as index:
        rows = index.series.page(after_row(after), limit, study_instance_uid=study_instance_uid, verdict=verdict)
    return Page[models.CompletenessResource].model_validate(page_of(rows, limit))


@router.get("/jobs")
def list_jobs(
    account: Reader,
    node: Node,
    state: Literal["receiving", "converting", "refused", "failed"] | None = None,
    after: After = None,
    limit: Limit = 100,
) -> Page[models.JobResource]:
    """Series that wait for their conversion, are being converted, were refused or failed, newest first."""
    with node.index.searching() as index:
        rows = index.series.page(after_row(after), limit, states=(state,) if state else UNDONE)
    return Page[models.JobResource].model_validate(page_of(rows, limit))


@router.get("/failures")
def list_failures(
    account: Reader, node: Node, reason: Word = None, after: After = None, limit: Limit = 100
) -> Page[models.FailureResource]:
    """Why series, or stacks of them, have no volume (docs/conversion.md), newest first."""
    with node.index.searching() as index:
        rows = index.failures.page(after_row(after), limit, reason=reason)
    return Page[models.FailureResource].model_validate(page_of(rows, limit))


@router.get("/exclusions")
def list_exclusions(
    account: Reader, node: Node, series_instance_uid: OptionalUid = None, after: After = None, limit: Limit = 100
) -> Page[models.ExclusionResource]:
    """Instances, or frames of them, that conversions left out of their volumes, the newest first."""
    with node.index.searching() as index:
        rows = index.exclusions.page(after_row(after), limit, series_instance_uid=series_instance_uid)
    return Page[models.ExclusionResource].model_validate(page_of(rows, limit))


@router.get("/rejections")
def list_rejections(
    account: Reader, node: Node, rule: Word = None, after: After = None, limit: Limit = 100
) -> Page[models.RejectionResource]:
    """Refused connections, associations and instances, with sender and remedy, newest first."""
    with node.index.searching() as index:
        rows = index.rejections.page(after_row(after), limit, rule=rule)
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
    """Identity conflicts: one UID or Patient ID with different content, newest first."""
    audit.queried(f"conflicts study_instance_uid={study_instance_uid}")  # the details name patients
    with node.index.searching() as index:
        rows = index.conflicts.page(after_row(after), limit, study_instance_uid=study_instance_uid)
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
    """Events (docs/lifecycle.md), newest first; `/events` streams them as they happen."""
    with node.index.searching() as index:
        rows = index.events.page(after_row(after), limit, kind=kind, series_instance_uid=series_instance_uid)
    return Page[models.EventResource].model_validate(page_of(rows, limit))


@router.get("/status")
def show_status(account: Reader, node: Node) -> models.NodeStatus:
    """State of the node: queues, failures, and whether instances are accepted."""
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
