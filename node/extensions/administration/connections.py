"""Pages for administrators about others: peers, routes and hooks, which they set here, and how hooks fare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse

from node.errors import UsageError, VoxelnodeError
from node.extensions.administration.forms import HookForm, PeerForm, RouteForm, choices
from node.index.database.reading import ReadIndex
from node.index.nouns.views import outstanding
from node.settings.hooks import HookEvent
from node.settings.model import Settings
from node.settings.peers import Verb
from node.web import actions
from node.web.access import ADMINS, Call, CurrentCall
from node.web.errors import ResourceNotFound
from node.web.pages.rendering import SEE_OTHER, fragment, page
from node.web.pages.sessions import require_session

router = APIRouter(include_in_schema=False, dependencies=ADMINS)

PAGE = "/administration/connections"

TABLES = "peers", "routes", "hooks"
"""What is set on the page."""

Section = Annotated[Literal["peers", "routes", "hooks"], Path()]
Name = Annotated[str, Path(max_length=64)]


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
    values: dict[str, Any] = {"peers": settings.peers, "verbs": get_args(Verb), "hooks": hooks}
    values |= {"known": known, "own": own, "files": files, "waiting": waiting, "choices": choices(settings)}
    values |= {"wheres": {name: _text(route.where) for name, route in settings.routes.items()}}
    values |= {"hook_events": get_args(HookEvent), "seen": sources.digest}
    return page(call, "connections.html", part="connections", alone=not settings.shares_index, **values)


@router.post("/administration/set/peers")
def set_peer(call: CurrentCall, form: Annotated[PeerForm, Form()]) -> Response:
    """Add a peer, or change one that was set here."""
    return _set(call, "peers", form)


@router.post("/administration/set/routes")
def set_route(call: CurrentCall, form: Annotated[RouteForm, Form()]) -> Response:
    """Add a route, or change one that was set here."""
    return _set(call, "routes", form)


@router.post("/administration/set/hooks")
def set_hook(call: CurrentCall, form: Annotated[HookForm, Form()]) -> Response:
    """Add a hook, or change one that was set here."""
    return _set(call, "hooks", form)


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


def _set(call: Call, section: str, form: PeerForm | RouteForm | HookForm) -> Response:
    require_session(call)
    if form.is_new and form.name in getattr(call.node.settings, section):
        raise UsageError(f"there is {form.name} in [{section}] already: choose another name")
    call.act("set-table", table=f"{section}.{form.name}", keys=form.keys(), drops=form.drops, digest=form.seen)
    return _back(section)


def _back(section: str) -> Response:
    return RedirectResponse(f"{PAGE}#{section}-title", SEE_OTHER)


def _hooks(settings: Settings, index: ReadIndex) -> list[dict[str, Any]]:
    progress = index.hooks.progress()
    return [
        {**progress.get(name, {}), "name": name, "hook": hook, "where": _text(hook.where)}
        for name, hook in settings.hooks.items()
    ]


def _text(where: str | Mapping[str, Any] | None) -> str:
    """Return a selector as the configuration has it, on one line."""
    if where is None or isinstance(where, str):
        return where or ""
    return ", ".join(f"{name} = {value}" for name, value in where.items())
