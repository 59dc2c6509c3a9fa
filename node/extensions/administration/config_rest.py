"""REST: the configuration, the tables that administrators set, the rules of retention, and hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Body, Path, Query, Response

from node.index.database.reading import ReadIndex
from node.index.nouns.views import outstanding
from node.settings.load import Configuration
from node.web import actions
from node.web.access import ADMINS, Call, CurrentCall
from node.web.api.changes import Change, tagged
from node.web.api.models import Resource
from node.web.api.routing import OF_CHANGES, api_router, problems, single
from node.web.errors import Forbidden, ResourceNotFound

router = api_router(ADMINS, "configuration")

TABLE = "/config/{table}"

Table = Annotated[
    str,
    Path(
        max_length=80,
        pattern=r"^((peers|routes|hooks)\.[A-Za-z0-9_-]{1,64}|retention)$",
        description="such as `peers.CT1`, `routes.research`, `hooks.mail` or `retention`",
    ),
]
Dropped = Annotated[int, Query(ge=0, description="how many messages that wait may be dropped")]
Keys = Annotated[
    dict[str, Any],
    Body(
        description="keys of the table; what is not given has its default, but a stored `secret` stays",
        max_length=100,
    ),
]


class Value(Resource):
    """A key with its value, and where that comes from: a file, the environment, an option or the defaults."""

    key: str
    value: Any
    origin: str


class ConfigurationResource(Resource):
    """Each key that is in force; `restart`: those whose values in the files take effect at the next start."""

    values: list[Value]
    restart: list[str]
    digest: str


class ChangedConfiguration(Resource):
    """The tables that changed, the keys that need a restart, and how many messages were dropped."""

    changed: list[str]
    restart: list[str]
    dropped: int


class RetentionRules(Resource):
    """The rules of retention; `waits_for`: what a pass waits for."""

    rules: dict[str, Any]
    waits_for: str | None


class HookResource(Resource):
    """A hook with what waits for it; `trouble`: why the last attempt of what waits failed."""

    hook: str
    paused: bool
    waiting: int
    given_up: int
    delivered: int
    trouble: str | None


class Hooks(Resource):
    """All hooks."""

    items: list[HookResource]


class HookChange(Resource):
    """What an action on a hook changed: whether it was paused or let go on, or messages that are tried again."""

    action: Literal["pause", "resume", "retry"]
    changed: int


@router.get("/config", responses=single())
def show_config(call: CurrentCall, response: Response) -> ConfigurationResource:
    """Every key of the configuration, with where its value comes from; secrets are left out."""
    return tagged(response, _configuration(call))


@router.put(TABLE, responses=problems(*OF_CHANGES))
def set_config(call: CurrentCall, change: Change, table: Table, keys: Keys, drops: Dropped = 0) -> ChangedConfiguration:
    """Add a table to the configuration, or change one that was set here. It takes effect at once."""
    _require_account(call)
    return change.make(
        ChangedConfiguration,
        lambda _: _configuration(call),
        lambda _: call.act("set-table", table=table, keys=keys, drops=drops),
    )


@router.delete(TABLE, responses=problems(*OF_CHANGES))
def remove_config(call: CurrentCall, change: Change, table: Table, drops: Dropped = 0) -> ChangedConfiguration:
    """Remove a table that was set here."""
    _require_account(call)

    def act(_: object) -> Mapping[str, Any]:
        if call.node.settings.loaded_from.file_of(table) is None:
            raise ResourceNotFound("table of the configuration")
        return call.act("remove-table", table=table, drops=drops)

    return change.make(ChangedConfiguration, lambda _: _configuration(call), act)


@router.get("/retention", responses=single())
def show_retention(call: CurrentCall, response: Response) -> RetentionRules:
    """The rules of retention, and what it waits for."""
    with call.node.index.reading(wait=False) as index:
        waits_for = index.retention.waits_for
    rules = call.node.settings.retention.model_dump(mode="json")
    return tagged(response, RetentionRules(rules=rules, waits_for=waits_for))


@router.get("/hooks")
def list_hooks(call: CurrentCall) -> Hooks:
    """All hooks, with what waits for each."""
    with call.node.index.reading(wait=False) as index:
        return Hooks(items=[_hook(name, index) for name in call.node.settings.hooks])


@router.post("/hooks/{hook}/{action}", responses=problems(*OF_CHANGES))
def change_hook(
    call: CurrentCall,
    change: Change,
    hook: Annotated[str, Path(min_length=1, max_length=64, description="name of the hook")],
    action: Annotated[Literal["pause", "resume", "retry"], Path(description="what to do")],
) -> HookChange:
    """Pause a hook, let it go on, or try again what waits or was given up."""
    return change.make(HookChange, lambda index: _hook(hook, index), lambda _: actions.change_hook(call, hook, action))


def _configuration(call: Call) -> ConfigurationResource:
    settings = call.node.settings
    values = [Value(key=key, value=value, origin=origin) for key, value, origin in Configuration.of(settings).values()]
    sources = settings.loaded_from
    return ConfigurationResource(values=values, restart=list(sources.restart), digest=sources.digest)


def _hook(name: str, index: ReadIndex) -> HookResource:
    row = index.hooks.progress().get(name, {})
    return HookResource(
        hook=name,
        paused=bool(row.get("paused")),
        waiting=outstanding(row),
        given_up=row.get("given_up") or 0,
        delivered=row.get("delivered") or 0,
        trouble=row.get("trouble"),
    )


def _require_account(call: Call) -> None:
    """Refuse a change by somebody who has no account: the audit log would not say who it was."""
    if call.account.kind == "local":
        raise Forbidden("nobody is signed in: make an account with `voxelnode account add NAME --role admin`")
