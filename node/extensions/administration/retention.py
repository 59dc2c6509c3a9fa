"""The page about retention: its rules, what they would delete now, and the confirmation that it may wait for."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from node.extensions.pages.rendering import SEE_OTHER, page
from node.lifecycle.retention import expired_studies, kept_studies
from node.settings.load import Configuration
from node.web.access import AdminCall
from node.web.audit_trail import of_study

router = APIRouter(include_in_schema=False)

PAGE = "/administration/retention"
SHOWN_STUDIES = 50


@router.get(PAGE)
def retention(call: AdminCall) -> Response:
    """The rules of retention, and the studies that the next pass would delete."""
    rules = call.node.settings.retention
    with call.node.index.searching() as index:
        studies = index.studies.stored() if rules.is_active else []
        expired = expired_studies(studies, rules, dt.datetime.now(dt.UTC), kept_studies(index, rules))
        shown = [(one, index.studies.row(one.study.study_instance_uid)) for one in expired[:SHOWN_STUDIES]]
        waits_for = index.retention.waits_for
    known = [row for _, row in shown if row is not None]
    call.audit.accessed([of_study(row["study_instance_uid"], row["patient_id"]) for row in known], "pages: retention")
    given = [
        (key, value, origin)
        for key, value, origin in Configuration.of(call.node.settings).values()
        if key.startswith("retention.")
    ]
    values: dict[str, Any] = {"rules": rules, "given": given, "file": Configuration.of(call.node.settings).file}
    counts = {"studies": len(studies), "expired": len(expired)}
    return page(call, "retention.html", part="retention", rows=shown, waits_for=waits_for, counts=counts, **values)


@router.post(f"{PAGE}/confirm")
def confirm(call: AdminCall) -> Response:
    """Confirm that the clock is right, or that what is due may go."""
    call.act("confirm-retention")
    return RedirectResponse(PAGE, SEE_OTHER)
