"""REST: the account of the caller; hooks, with what waits for each."""

from functools import partial
from typing import Annotated, Literal

from fastapi import Path

from node.index.look.views import outstanding
from node.index.reading import ReadIndex
from node.web import actions
from node.web.access import ADMINS, READERS, Call, CurrentCall
from node.web.api.models import Moment, Resource
from node.web.api.routing import OF_CHANGES, Change, api_router, problems

account_router = api_router(READERS, "account")


class AccountResource(Resource):
    """The account of the caller. `role` is that of the request, which a token may lower; `token` is its label."""

    account: str
    role: str
    token: str


@account_router.get("/account")
def show_account(call: CurrentCall) -> AccountResource:
    """The account of the caller, and what the request may do."""
    return AccountResource(account=call.account.name, role=call.account.role.name.lower(), token=call.account.token)


hooks_router = api_router(ADMINS, "hooks")


class HookResource(Resource):
    """A hook with what waits for it; `trouble`: why the last attempt of what waits failed.

    `study_quiet_at`: when the first message is due that waits for a quiet study.
    """

    hook: str
    paused: bool
    waiting: int
    given_up: int
    delivered: int
    trouble: str | None
    study_quiet_at: Moment | None


class Hooks(Resource):
    """All hooks."""

    items: list[HookResource]


class HookChange(Resource):
    """What an action on a hook changed: whether it was paused or let go on, or messages that are tried again."""

    action: Literal["pause", "resume", "retry"]
    changed: int


@hooks_router.get("/hooks")
def list_hooks(call: CurrentCall) -> Hooks:
    """All hooks, with what waits for each."""
    with call.node.index.reading(wait=False) as index:
        return Hooks(items=[_hook(call, name, index) for name in call.node.settings.hooks])


@hooks_router.post("/hooks/{hook}/{action}", responses=problems(*OF_CHANGES))
def change_hook(
    call: CurrentCall,
    change: Change,
    hook: Annotated[str, Path(min_length=1, max_length=64, description="name of the hook")],
    action: Annotated[Literal["pause", "resume", "retry"], Path(description="what to do")],
) -> HookChange:
    """Pause a hook, let it go on, or try again what waits or was given up."""
    return change.make(HookChange, partial(_hook, call, hook), lambda _: actions.change_hook(call, hook, action))


def _hook(call: Call, name: str, index: ReadIndex) -> HookResource:
    quiet = index.quiet_to_come("hook", call.node.settings.series.study_quiet_seconds, hook=name)
    [row] = quiet.next_of([index.hooks.progress().get(name, {"hook": name})])
    return HookResource(
        hook=name,
        paused=bool(row.get("paused")),
        waiting=outstanding(row),
        given_up=row.get("given_up") or 0,
        delivered=row.get("delivered") or 0,
        trouble=row.get("trouble"),
        study_quiet_at=row["study_quiet_at"],
    )
