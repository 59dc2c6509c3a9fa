"""The page about retention: its rules, what they would delete now, changes of them, and what retention waits for."""

from __future__ import annotations

import datetime as dt
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from node.lifecycle.expired import SPARED, due_now
from node.settings.load import values_of
from node.settings.tables import keys_of
from node.web.access import ADMINS, CurrentCall
from node.web.audit_trail import of_study
from node.web.pages.rendering import SEE_OTHER, page

router = APIRouter(include_in_schema=False, dependencies=ADMINS)

PAGE = "/administration/retention"
SHOWN_STUDIES = 50


@router.get(PAGE)
def retention(call: CurrentCall) -> Response:
    """The rules of retention, and the studies that the next pass would delete."""
    settings, now = call.node.settings, dt.datetime.now(dt.UTC)
    sources, rules = settings.loaded_from, settings.retention
    with call.node.index.searching() as index:
        due = due_now(index, rules, now)
        due_bytes = index.studies.bytes_of([one.study.study_instance_uid for one in due.expired])
        shown = [(one, index.studies.row(one.study.study_instance_uid)) for one in due.expired[:SHOWN_STUDIES]]
        state = index.retention
    known = [study for _, study in shown if study is not None]
    call.audit.accessed([of_study(one["study_instance_uid"], one["patient_id"]) for one in known], "pages: retention")
    given = [row for row in values_of(settings) if row[0].startswith("retention.")]
    values: dict[str, Any] = {
        "rules": rules,
        "given": given,
        "keys": keys_of(settings, "retention"),
        "seen": sources.digest,
        "due": due,
        "why_spared": SPARED,
        "bytes": due_bytes,
    }
    values |= {"rows": shown, "state": state, "alone": not settings.shares_index}
    values |= {"others": not sources.is_of_pages("retention") and sources.keys_of("retention")}
    return page(call, "retention.html", part="retention", **values)


@router.post(f"{PAGE}/confirm")
def confirm(call: CurrentCall) -> Response:
    """Confirm that the clock is right, or that what is due may go."""
    call.act("confirm-retention")
    return RedirectResponse(PAGE, SEE_OTHER)
