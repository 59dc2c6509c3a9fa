"""The page about retention: its rules, what they would delete now, changes of them, and what retention waits for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.control.additions import owned
from node.errors import UsageError
from node.extensions.administration.additions import NONE_YET
from node.extensions.administration.own import require_session
from node.extensions.administration.retention_rules import ROW, TABLE, effective
from node.extensions.pages.rendering import SEE_OTHER, page
from node.index.nouns.added import ADDED
from node.lifecycle.retention import due_now
from node.settings.load import Configuration
from node.settings.model import RetentionSettings
from node.web.access import AdminCall, Call
from node.web.audit_trail import of_study

router = APIRouter(include_in_schema=False)

PAGE = "/administration/retention"
SHOWN_STUDIES = 50

Text = Annotated[str, Field(max_length=4000)]
Number = Annotated[str, Field(max_length=20)]


class RulesForm(BaseModel):
    """The form of the rules that the configuration has not, and how many studies may go; see `HookForm.seen`."""

    days: Number = ""
    days_by_calling_ae_title: Text = ""
    maximum_studies: Number = ""
    only_converted: bool = False
    keep_where: Text = ""
    dry_run: bool = False
    confirmed: Annotated[int, Field(ge=0)] | None = None
    seen: Annotated[str | None, Field(max_length=64)] = None

    def rules(self, taken: Collection[str]) -> dict[str, Any]:
        """Return the rules that have no default value, without those that are `taken`. Raises UsageError."""
        senders = [line.strip().rpartition("=") for line in self.days_by_calling_ae_title.splitlines() if line.strip()]
        if unclear := [days for title, equals, days in senders if not equals]:
            raise UsageError(f"days_by_calling_ae_title: {unclear[0]!r}: write a line as CT1 = 30, or CT1 = never")
        values = {
            "days": self.days.strip() or None,
            "days_by_calling_ae_title": {title.strip(): days.strip() for title, _, days in senders},
            "maximum_studies": self.maximum_studies.strip() or None,
            "only_converted": self.only_converted,
            "keep_where": self.keep_where.strip() or None,
            "dry_run": self.dry_run,
        }
        fields = RetentionSettings.model_fields
        return {key: value for key, value in values.items() if key not in taken and value != fields[key].default}


@router.get(PAGE)
def retention(call: AdminCall) -> Response:
    """The rules of retention, and the studies that the next pass would delete."""
    return _page(call, call.node.settings.retention)


@router.post(f"{PAGE}/rules")
def set_rules(call: AdminCall, form: Annotated[RulesForm, Form()]) -> Response:
    """Set the rules that the configuration has not, once somebody has said how many studies go by all of them."""
    require_session(call)
    own = call.node.settings.own(TABLE)
    wanted = call.node.settings.retention
    try:
        rules = form.rules(owned(own))
        wanted = effective(own, rules)
        call.act("set-retention", rules=rules, confirmed=form.confirmed, seen=form.seen)
    except UsageError as error:
        return _page(call, wanted, form=form, problem=str(error))
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post(f"{PAGE}/confirm")
def confirm(call: AdminCall) -> Response:
    """Confirm that the clock is right, or that what is due may go."""
    call.act("confirm-retention")
    return RedirectResponse(PAGE, SEE_OTHER)


def _page(call: Call, rules: RetentionSettings, form: RulesForm | None = None, problem: str = "") -> Response:
    """Return the page with what would go by some rules: those in force, or those that a form would set."""
    settings, now = call.node.settings, dt.datetime.now(dt.UTC)
    row = next((one for one in call.node.index.repository(ADDED[TABLE]).listed() if one.name == ROW), None)
    with call.node.index.searching() as index:
        due = due_now(index, rules, now)
        shown = [(one, index.studies.row(one.study.study_instance_uid)) for one in due.expired[:SHOWN_STUDIES]]
        state = index.retention
    known = [study for _, study in shown if study is not None]
    call.audit.accessed([of_study(one["study_instance_uid"], one["patient_id"]) for one in known], "pages: retention")
    known_values = Configuration.of(settings).values()
    given = [(key, value, origin) for key, value, origin in known_values if key.startswith("retention.")]
    values: dict[str, Any] = {"rules": settings.retention, "given": given, "file": Configuration.of(settings).file}
    values |= {
        "form": form or _form_of(settings.retention, row.change if row is not None else NONE_YET),
        "problem": problem,
    }
    values |= {"is_tried": form is not None, "due": due, "rows": shown, "row": row, "state": state}
    values |= {"taken": owned(settings.own(TABLE)), "alone": not settings.shares_index}
    return page(call, "retention.html", part="retention", **values)


def _form_of(rules: RetentionSettings, seen: str) -> RulesForm:
    return RulesForm(
        days="" if rules.days is None else f"{rules.days:g}",
        days_by_calling_ae_title="\n".join(
            f"{title} = {days if days == 'never' else f'{days:g}'}"
            for title, days in rules.days_by_calling_ae_title.items()
        ),
        maximum_studies="" if rules.maximum_studies is None else str(rules.maximum_studies),
        only_converted=rules.only_converted,
        keep_where=rules.keep_where if isinstance(rules.keep_where, str) else "",
        dry_run=rules.dry_run,
        seen=seen,
    )
