"""Failures, exclusions, rejections, history, and the state of the node."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from node.index.nouns.events import EventKind
from node.version import __version__
from node.web.access import MEMBERS, READERS, CurrentCall
from node.web.api import models
from node.web.api.paging import OptionalSeriesUid, OptionalStudyUid, Page, RequestedPage, UidFilters
from node.web.api.routing import api_router, problems
from node.web.problem_types import WRONG_CURSOR

router = api_router(READERS, "ledger")


@router.get("/failures", responses=problems(WRONG_CURSOR), dependencies=MEMBERS)
def list_failures(
    page: RequestedPage,
    uids: UidFilters,
    reason: Annotated[str | None, Query(max_length=64, description="keyword of docs/conversion.md")] = None,
) -> Page[models.FailureResource]:
    """The reasons why series, or some of their stacks, have no volume (docs/conversion.md), newest first."""
    return page.read("failures", models.FailureResource, lambda index: index.failures, **uids, reason=reason)


@router.get("/exclusions", responses=problems(WRONG_CURSOR), dependencies=MEMBERS)
def list_exclusions(page: RequestedPage, uids: UidFilters) -> Page[models.ExclusionResource]:
    """Instances, or some of their frames, that conversions excluded from their volumes, newest first."""
    return page.read("exclusions", models.ExclusionResource, lambda index: index.exclusions, **uids)


@router.get("/rejections", responses=problems(WRONG_CURSOR))
def list_rejections(
    page: RequestedPage, rule: Annotated[str | None, Query(max_length=64, description="the rule that refused")] = None
) -> Page[models.RejectionResource]:
    """Refused connections, associations and instances, with sender and remedy, newest first."""
    return page.read("rejections", models.RejectionResource, lambda index: index.rejections, rule=rule)


@router.get("/lost", responses=problems(WRONG_CURSOR))
def list_lost(
    page: RequestedPage, study_instance_uid: OptionalStudyUid = None, series_instance_uid: OptionalSeriesUid = None
) -> Page[models.LostInstanceResource]:
    """Instances that were acknowledged and are not here, until they come again, are deleted or are written off."""
    wanted = {"study_instance_uid": study_instance_uid, "series_instance_uid": series_instance_uid}
    return page.read("lost", models.LostInstanceResource, lambda index: index.lost, **wanted)


@router.get("/history", responses=problems(WRONG_CURSOR), dependencies=MEMBERS)
def list_history(
    page: RequestedPage,
    kind: Annotated[EventKind | None, Query(description="kind of event")] = None,
    series_instance_uid: OptionalSeriesUid = None,
) -> Page[models.EventResource]:
    """Events (docs/lifecycle.md), newest first; `/events` streams them as they happen."""
    return page.read(
        "history", models.EventResource, lambda index: index.events, kind=kind, series_instance_uid=series_instance_uid
    )


@router.get("/status")
def show_status(call: CurrentCall) -> models.NodeStatus:
    """The state of the node: queues, failures, and whether instances are accepted."""
    applier = call.node.ingest.applier
    with call.node.index.reading(wait=False, following=True) as index:
        return models.NodeStatus(
            version=__version__,
            ae_title=call.node.settings.dicom.ae_title,
            intake=call.node.ingest.refusal() or "open",
            free_bytes=call.node.archive.intake.free_bytes(),
            queued_instances=applier.waiting,
            journal_bytes=call.node.ingest.journal.size,
            journal_lag_seconds=round(applier.lag_seconds, 3),
            series=index.series.count_by_state(),
            failures=index.failures.count_by_reason(),
            oldest_unconverted_at=index.series.oldest_unconverted(),
            senders=[models.SenderResource.of(row) for row in index.senders.all()],
            hosts=[models.HostResource.of(row) for row in index.hosts.all(call.node.index.now())],
            last_event=index.events.newest(),
        )
