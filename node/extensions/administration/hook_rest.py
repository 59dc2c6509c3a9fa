"""REST: hooks, which administrators add, change, try, pause and remove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Response
from pydantic import ConfigDict, Field

from node.extensions.administration.additions import Listed, listed
from node.extensions.administration.hooks import MAX_SECRET_CHARACTERS
from node.extensions.administration.rules import Rules, changed, one_of, require_account
from node.index.database.reading import ReadIndex
from node.index.work.routes import outstanding
from node.settings.model import HookEvent
from node.web import actions
from node.web.access import AdminCall, Call
from node.web.api.changes import Change, tagged
from node.web.api.models import Resource
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.problem_types import FOREIGN_PAGE, INVALID_REQUEST, NOT_FOUND

router = api_router("hooks")

RULES = "/hook-rules/{hook}"

HookName = Annotated[str, Path(min_length=1, max_length=64, description="name of the hook")]
Dropped = Annotated[int, Query(ge=0, description="how many messages that wait may be dropped")]
Title = Annotated[str, Field(max_length=64)]
Text = Annotated[str, Field(max_length=4000)]


class HookFields(Resource):
    """The keys of `[hooks.NAME]` (config.example.toml) that an added hook may have, and its secret.

    `secret` signs the messages of a webhook; it is never shown. Without it, the hook keeps the one that it has, and
    with an empty one it has none.
    """

    model_config = ConfigDict(extra="forbid")

    on: Annotated[list[HookEvent], Field(min_length=1, max_length=10)]
    url: Text | None = None
    calling_ae_titles: Annotated[list[Title], Field(max_length=100, default_factory=list)]
    where: Text | None = None
    include_patient: bool = False
    timeout_seconds: Annotated[float, Field(gt=0, le=7 * 86400)] = 30
    attempts: Annotated[int, Field(ge=1, le=1000)] = 12
    secret: Annotated[str | None, Field(max_length=MAX_SECRET_CHARACTERS)] = None

    def hook(self) -> dict[str, Any]:
        """Return the table of the hook, and its secret."""
        keys = self.model_dump(mode="json", exclude_unset=True, exclude={"secret"})
        return {"hook": keys, "secret": self.secret}


class HookRules(Rules):
    """A hook: its rules with the defaults, and who added it; null: it is of the configuration, and changed there.

    `secret`: whether it signs its messages. `trouble`: why the last attempt of what waits failed.
    `unusable`: why a hook that was added sends nothing.
    """

    hook: str
    secret: bool
    paused: bool
    waiting: int
    given_up: int
    delivered: int
    trouble: str | None


class AllHookRules(Resource):
    """All hooks."""

    items: list[HookRules]


class SetHook(Resource):
    """A hook that was added or changed, and how much was dropped."""

    hook: str
    dropped: int


class RemovedHook(Resource):
    """The name that a hook had, and how much was dropped."""

    removed: str
    dropped: int


class TriedHook(Resource):
    """What became of a test message; `reason`: why it was not accepted."""

    hook: str
    event: HookEvent
    id: str
    accepted: bool
    reason: str | None


class HookChange(Resource):
    """What an action on a hook changed: whether it was paused or let go on, or messages that are tried again."""

    action: Literal["pause", "resume", "retry"]
    changed: int


@router.get("/hook-rules")
def list_hook_rules(call: AdminCall) -> AllHookRules:
    """All hooks, with where each comes from and what waits for it."""
    return AllHookRules(items=_rules(call, listed(call.node.settings, call.node.index, "hooks")))


@router.get(RULES, responses=single())
def show_hook_rules(call: AdminCall, response: Response, hook: HookName) -> HookRules:
    """A hook, with where it comes from and what waits for it."""
    return tagged(response, _rules_of(call, hook))


@router.put(RULES, responses=problems(*OF_CHANGES))
def set_hook_rules(call: AdminCall, change: Change, hook: HookName, fields: HookFields, drops: Dropped = 0) -> SetHook:
    """Add a hook, or change one that was added. It takes effect at once."""
    require_account(call)

    def current(_: ReadIndex) -> HookRules:
        return _rules_of(call, hook)

    return change.make(SetHook, current, lambda _: call.act("set-hook", name=hook, drops=drops, **fields.hook()))


@router.delete(RULES, responses=problems(*OF_CHANGES))
def remove_hook(call: AdminCall, change: Change, hook: HookName, drops: Dropped = 0) -> RemovedHook:
    """Remove a hook that was added."""
    require_account(call)

    def current(_: ReadIndex) -> HookRules:
        return _rules_of(call, hook)

    def act(_: object) -> Mapping[str, Any]:
        one_of(call, "hooks", hook)
        return call.act("remove-hook", name=hook, drops=drops)

    return change.make(RemovedHook, current, act)


@router.post(f"{RULES}/try", responses=problems(INVALID_REQUEST, FOREIGN_PAGE, NOT_FOUND))
def try_hook_rules(call: AdminCall, hook: HookName, fields: HookFields | None = None) -> TriedHook:
    """Send a message of the newest series, marked as a test, by a hook as it is or as the request has it."""
    require_account(call)
    if fields is None:
        one_of(call, "hooks", hook)
    return TriedHook.model_validate(call.act("try-hook", name=hook, **(fields.hook() if fields is not None else {})))


@router.post(f"{RULES}/{{action}}", responses=problems(*OF_CHANGES))
def change_hook(
    call: AdminCall,
    change: Change,
    hook: HookName,
    action: Annotated[Literal["pause", "resume", "retry"], Path(description="what to do")],
) -> HookChange:
    """Pause a hook, let it go on, or try again what waits or was given up."""

    def current(_: ReadIndex) -> HookRules:
        return _rules_of(call, hook)

    return change.make(HookChange, current, lambda _: actions.change_hook(call, hook, action))


def _rules_of(call: Call, name: str) -> HookRules:
    return _rules(call, [one_of(call, "hooks", name)])[0]


def _rules(call: Call, found: list[Listed]) -> list[HookRules]:
    with call.node.index.reading(wait=False) as index:
        progress, troubles = index.hooks.progress(), index.hooks.troubles()
    return [_one(call, one, progress.get(one.name, {}), troubles.get(one.name)) for one in found]


def _one(call: Call, one: Listed, row: Mapping[str, Any], trouble: str | None) -> HookRules:
    hook = call.node.settings.hooks.get(one.name)
    is_signed = hook is not None and hook.secret_file is not None
    return HookRules(
        hook=one.name,
        rules=dict(one.keys),
        secret=is_signed or (one.row is not None and one.row.secret is not None),
        paused=bool(row.get("paused")),
        waiting=outstanding(row),
        given_up=row.get("given_up") or 0,
        delivered=row.get("delivered") or 0,
        trouble=trouble,
        **changed(one),
    )
