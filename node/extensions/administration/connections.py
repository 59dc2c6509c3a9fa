"""Pages for administrators about others: peers, routes and hooks, which they set here, and how hooks fare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from fastapi.responses import RedirectResponse

from node.errors import VoxelnodeError
from node.index.database.reading import ReadIndex
from node.index.nouns.views import outstanding
from node.settings.example import as_toml
from node.settings.model import Settings
from node.settings.tables import LIMITS, keys_of, posted
from node.web import actions
from node.web.access import ADMINS, CurrentCall
from node.web.errors import ResourceNotFound
from node.web.pages.rendering import SEE_OTHER, fragment, page
from node.web.pages.sessions import require_session

router = APIRouter(include_in_schema=False, dependencies=ADMINS)

PAGE = "/administration/connections"
RETENTION = "/administration/retention"

TABLES = tuple(LIMITS)
"""What is set on the page."""

Section = Annotated[Literal["peers", "routes", "hooks"], Path()]
Settable = Literal["peers", "routes", "hooks", "retention"]
Name = Annotated[str, Path(max_length=64)]


async def _posted(request: Request) -> dict[str, list[str]]:
    """Return the texts of each field that was sent."""
    found: dict[str, list[str]] = {}
    for name, text in (await request.form()).multi_items():
        if isinstance(text, str):
            found.setdefault(name, []).append(text)
    return found


Posted = Annotated[dict[str, list[str]], Depends(_posted)]


@router.get(PAGE)
def connections(call: CurrentCall) -> Response:
    """Peers with a test of each, routes, and hooks with what waits for each."""
    settings, sources = call.node.settings, call.node.settings.loaded_from
    waiting = Counter[tuple[str, str]]()
    with call.node.index.reading(wait=False) as view:
        hooks = _hooks(settings, view)
        for row in view.routes.destinations():
            waiting["routes", row["route"]] += outstanding(row)
            waiting["peers", row["destination"]] += outstanding(row) if not row["route"] else 0
        for name, row in view.hooks.progress().items():
            waiting["hooks", name] = outstanding(row)
    known: dict[str, Mapping[str, Any]] = {table: getattr(settings, table) for table in TABLES}
    own = {table: [name for name in known[table] if sources.is_of_pages(f"{table}.{name}")] for table in TABLES}
    files = {table: {name: sources.file_of(f"{table}.{name}") for name in known[table]} for table in TABLES}
    values: dict[str, Any] = {"peers": settings.peers, "hooks": hooks, "seen": sources.digest}
    values |= {"known": known, "own": own, "files": files, "waiting": waiting}
    values["forms"] = {
        table: {name: keys_of(settings, f"{table}.{name}") for name in ("", *own[table])} for table in TABLES
    }
    values |= {"wheres": {name: _text(route.where) for name, route in settings.routes.items()}}
    return page(call, "connections.html", part="connections", alone=not settings.shares_index, **values)


@router.post("/administration/set/{section}")
def set_table(call: CurrentCall, section: Annotated[Settable, Path()], form: Posted) -> Response:
    """Add a peer, a route or a hook, or change one that was set here, or the rules of retention."""
    require_session(call)
    table = f"{section}.{_last(form, 'name')}" if section in LIMITS else section
    keys, unset = posted(call.node.settings, table, form)
    drops = _last(form, "drops")
    call.act(
        "set-table",
        table=table,
        keys=keys,
        unset=unset,
        drops=int(drops[:9]) if drops.isdecimal() else 0,
        digest=_last(form, "seen") or None,
        is_new=_last(form, "is_new") == "true",
    )
    return _back(section)


@router.post("/administration/remove/{section}/{name}")
def remove(
    call: CurrentCall,
    section: Section,
    name: Name,
    drops: Annotated[int, Form(ge=0)] = 0,
    seen: Annotated[str | None, Form(max_length=64)] = None,
) -> Response:
    """Remove what was set here, and drop as many messages as the page showed."""
    require_session(call)
    call.act("remove-table", table=f"{section}.{name}", drops=drops, digest=seen)
    return _back(section)


@router.post("/administration/hooks/{hook}/test")
def test_hook(call: CurrentCall, hook: Name) -> Response:
    """Send a message of the newest series, marked as a test, and tell what the receiver answered."""
    if hook not in call.node.settings.hooks:
        raise ResourceNotFound("hook")
    try:
        problem = call.act("test-hook", name=hook)["reason"] or ""
    except VoxelnodeError as error:
        problem = str(error)
    return fragment(call, "hook_tested.html", problem=problem, name=hook)


@router.post("/administration/hooks/{hook}")
def change_hook(
    call: CurrentCall, hook: Name, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a hook, let it go on, or deliver again what was given up or waits for its next attempt."""
    actions.change_hook(call, hook, action)
    return _back("hooks")


def _last(form: Mapping[str, Sequence[str]], name: str) -> str:
    return form.get(name, [""])[-1]


def _back(section: str) -> Response:
    return RedirectResponse(RETENTION if section == "retention" else f"{PAGE}#{section}-title", SEE_OTHER)


def _hooks(settings: Settings, index: ReadIndex) -> list[dict[str, Any]]:
    progress = index.hooks.progress()
    return [
        {**progress.get(name, {}), "name": name, "hook": hook, "where": _text(hook.where)}
        for name, hook in settings.hooks.items()
    ]


def _text(where: str | Mapping[str, Any] | None) -> str:
    """Return a selector as the configuration has it, on one line."""
    return where if isinstance(where, str) else as_toml(where) if where else ""
