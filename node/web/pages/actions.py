"""Actions of the pages: convert again, send, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from node.index.records import Level
from node.web import actions
from node.web.access import Admin, Caller, RequestAudit, Writer
from node.web.pages.rendering import page, series_url, study_url
from node.web.pages.series import series_row
from node.web.pages.studies import audit_study_access, study_row
from node.web.services import Node, Services

router = APIRouter(include_in_schema=False)

SEE_OTHER = 303


@router.post("/studies/{study_instance_uid}/reconvert")
def reconvert_study(node: Node, account: Writer, audit: RequestAudit, study_instance_uid: str) -> Response:
    """Convert every series of a study again."""
    with node.index.reading() as index:
        study = study_row(index, study_instance_uid)
        rows = index.series.of_study(study_instance_uid)
    series = [row["series_instance_uid"] for row in rows]
    actions.reconvert(node, audit, study_instance_uid, study["patient_id"] or "", series)
    return RedirectResponse(study_url(study_instance_uid), SEE_OTHER)


@router.post("/studies/{study_instance_uid}/series/{series_instance_uid}/reconvert")
def reconvert_series(
    node: Node, account: Writer, audit: RequestAudit, study_instance_uid: str, series_instance_uid: str
) -> Response:
    """Convert a series again."""
    with node.index.reading() as index:
        study = study_row(index, study_instance_uid)
        series_row(index, study_instance_uid, series_instance_uid)
    actions.reconvert(node, audit, study_instance_uid, study["patient_id"] or "", [series_instance_uid])
    return RedirectResponse(series_url(study_instance_uid, series_instance_uid), SEE_OTHER)


@router.post("/studies/{study_instance_uid}/send")
def send_study(
    node: Node, account: Writer, audit: RequestAudit, study_instance_uid: str, to: Annotated[str, Form(max_length=64)]
) -> Response:
    """Send a study to a destination."""
    actions.send(node, audit, to, study_instance_uid)
    return RedirectResponse("/routes", SEE_OTHER)


@router.post("/studies/{study_instance_uid}/series/{series_instance_uid}/send")
def send_series(
    node: Node,
    account: Writer,
    audit: RequestAudit,
    study_instance_uid: str,
    series_instance_uid: str,
    to: Annotated[str, Form(max_length=64)],
) -> Response:
    """Send a series to a destination."""
    actions.send(node, audit, to, study_instance_uid, series_instance_uid)
    return RedirectResponse("/routes", SEE_OTHER)


@router.get("/studies/{study_instance_uid}/delete")
def ask_to_delete_study(
    request: Request, node: Node, account: Admin, audit: RequestAudit, study_instance_uid: str
) -> Response:
    """Ask before a study is deleted."""
    with node.index.reading() as index:
        audit_study_access(audit, study_row(index, study_instance_uid))
    return _confirmation(request, node, account, "study", study_instance_uid, study_instance_uid)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/delete")
def ask_to_delete_series(
    request: Request, node: Node, account: Admin, audit: RequestAudit, study_instance_uid: str, series_instance_uid: str
) -> Response:
    """Ask before a series is deleted."""
    with node.index.reading() as index:
        audit_study_access(audit, study_row(index, study_instance_uid))
        series_row(index, study_instance_uid, series_instance_uid)
    return _confirmation(request, node, account, "series", series_instance_uid, study_instance_uid)


def _confirmation(
    request: Request, node: Services, account: Caller, level: Level, uid: str, study_instance_uid: str
) -> Response:
    with node.index.reading() as index:
        plan = index.deletions.plan(level, uid, study_instance_uid)
        study = study_row(index, study_instance_uid)
        series = series_row(index, study_instance_uid, uid) if level == "series" else None
        files = index.volumes.totals(study_instance_uid, uid if level == "series" else None)
    return page(request, node, account, "delete.html", plan=plan, study=study, series=series, volumes=files)


@router.post("/studies/{study_instance_uid}/delete")
def delete_study(node: Node, account: Admin, study_instance_uid: str) -> Response:
    """Delete a study permanently."""
    with node.index.reading() as index:
        study_row(index, study_instance_uid)
    actions.delete(node, account, "study", study_instance_uid, study_instance_uid)
    return RedirectResponse("/", SEE_OTHER)


@router.post("/studies/{study_instance_uid}/series/{series_instance_uid}/delete")
def delete_series(node: Node, account: Admin, study_instance_uid: str, series_instance_uid: str) -> Response:
    """Delete a series permanently."""
    with node.index.reading() as index:
        series_row(index, study_instance_uid, series_instance_uid)
        last = len(index.series.of_study(study_instance_uid)) < 2
    actions.delete(node, account, "series", series_instance_uid, study_instance_uid)
    return RedirectResponse("/" if last else study_url(study_instance_uid), SEE_OTHER)
