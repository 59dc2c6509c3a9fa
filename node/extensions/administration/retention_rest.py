"""REST: the rules of retention, and what would go by others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import ConfigDict, Field

from node.control.additions import owned
from node.extensions.administration.retention_rules import ROW, TABLE, shown
from node.extensions.administration.rules import Rules, require_account
from node.index.database.reading import ReadIndex
from node.index.nouns.added import ADDED
from node.web.access import AdminCall, Call
from node.web.api.changes import Change, tagged
from node.web.api.models import Resource
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.problem_types import FOREIGN_PAGE, INVALID_REQUEST

router = api_router("retention")

Days = Annotated[float, Field(gt=0, le=36525)]


class RetentionFields(Resource):
    """The keys of `[retention]` that may be set beside the configuration; what is not given has its default."""

    model_config = ConfigDict(extra="forbid")

    days: Days | None = None
    days_by_calling_ae_title: Annotated[dict[str, Days | Literal["never"]], Field(default_factory=dict)]
    maximum_studies: Annotated[int | None, Field(ge=1)] = None
    only_converted: bool = True
    keep_where: Annotated[str | None, Field(max_length=4000)] = None
    dry_run: bool = False

    def rules(self) -> dict[str, Any]:
        """Return the rules that are given."""
        return self.model_dump(mode="json", exclude_unset=True)


class RetentionRules(Rules):
    """The rules of retention, with who set those that the configuration has not (`owned`); null: nobody.

    `unusable`: why nobody has confirmed the rules as they are, so that nothing is deleted. `waits_for`: what a pass
    waits for.
    """

    owned: list[str]
    waits_for: str | None


class DueStudies(Resource):
    """All rules, and how many studies are due by them, with the bytes of their instances."""

    rules: dict[str, Any]
    studies: int
    bytes: int


class TriedRetention(DueStudies):
    """The same, with the number of all studies; nothing was changed."""

    of_studies: int


@router.get("/retention", responses=single())
def show_retention(call: AdminCall, response: Response) -> RetentionRules:
    """The rules of retention, with where they come from."""
    return tagged(response, _rules(call))


@router.put("/retention", responses=problems(*OF_CHANGES))
def set_retention(
    call: AdminCall,
    change: Change,
    fields: RetentionFields,
    confirm: Annotated[int | None, Query(ge=0, description="how many studies may be due by the rules at once")] = None,
) -> DueStudies:
    """Set the rules that the configuration has not. The next pass follows them."""
    require_account(call)

    def current(_: ReadIndex) -> RetentionRules:
        return _rules(call)

    return change.make(
        DueStudies, current, lambda _: call.act("set-retention", rules=fields.rules(), confirmed=confirm)
    )


@router.post("/retention/try", responses=problems(INVALID_REQUEST, FOREIGN_PAGE))
def try_retention(call: AdminCall, fields: RetentionFields) -> TriedRetention:
    """How many studies would be due now by other rules; nothing is changed."""
    return TriedRetention.model_validate(call.node.actions["try-retention"](rules=fields.rules()))


def _rules(call: Call) -> RetentionRules:
    settings, added = call.node.settings, call.node.settings.added.retention
    row = next((one for one in call.node.index.repository(ADDED[TABLE]).listed() if one.name == ROW), None)
    with call.node.index.reading(wait=False) as index:
        waits_for = index.retention.waits_for
    return RetentionRules(
        rules=shown(settings.retention),
        owned=list(owned(settings.own(TABLE))),
        changed_by=row.changed_by if row is not None else None,
        changed_at=row.changed_at if row is not None else None,
        unusable=added.unconfirmed if added is not None else None,
        waits_for=waits_for,
    )
