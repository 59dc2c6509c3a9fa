"""Pages for administrators about others: peers and routes, which they add and change, and hooks, and how these fare."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.extensions.administration.additions import NONE_YET
from node.extensions.administration.own import require_session
from node.extensions.administration.route_forms import choices
from node.extensions.pages.rendering import SEE_OTHER, page
from node.index.database.reading import ReadIndex
from node.index.nouns.added import ADDED
from node.index.work.routes import outstanding
from node.settings.load import Configuration
from node.settings.model import AddedTable, HookEvent, Settings, Verb
from node.web import actions
from node.web.access import AdminCall

router = APIRouter(include_in_schema=False)

PAGE = "/administration/connections"

TABLES: tuple[AddedTable, ...] = ("peers", "routes", "hooks")
"""What is added on the page."""

NAMES = re.compile(r"[,\s]+")
"""What is between the networks of a peer in its form."""

PeerName = Annotated[str, Path(max_length=64)]


class PeerForm(BaseModel):
    """The form of a peer, with the keys of ``[peers.NAME]`` that need no file."""

    ae_title: Annotated[str, Field(max_length=64)]
    networks: Annotated[str, Field(max_length=2000)] = ""
    host: Annotated[str, Field(max_length=253)] = ""
    port: int = 104
    may: tuple[Verb, ...] = ()
    tls: bool = False
    certificate: Annotated[str, Field(max_length=256)] = ""
    seen: Annotated[str | None, Field(max_length=64)] = None

    def peer(self) -> dict[str, Any]:
        """Return the table of the peer."""
        values = {"ae_title": self.ae_title, "port": self.port, "may": self.may, "tls": self.tls}
        texts = {"host": self.host.strip(), "certificate": self.certificate.strip()}
        networks = [one for one in NAMES.split(self.networks) if one]
        return {**values, "networks": networks, **{key: text for key, text in texts.items() if text}}


class NewPeer(PeerForm):
    """The form that adds a peer."""

    name: Annotated[str, Field(max_length=64)]


@router.get(PAGE)
def connections(call: AdminCall) -> Response:
    """Peers with a test of each, routes with what waits for their destinations, and hooks."""
    settings, index = call.node.settings, call.node.index
    waiting = Counter[tuple[str, str]]()
    with index.reading(wait=False) as view:
        routes, hooks = list(_routes(settings, view)), _hooks(settings, view)
        for row in view.routes.destinations():
            waiting["routes", row["route"]] += outstanding(row)
        for name, row in view.hooks.progress().items():
            waiting["hooks", name] = outstanding(row)
    beside = {table: index.repository(ADDED[table]).listed() for table in TABLES}
    own = {table: settings.own(table) for table in TABLES}
    added = {table: {row.name: row for row in rows if row.name not in own[table]} for table, rows in beside.items()}
    hidden = {table: [row for row in rows if row.name in own[table]] for table, rows in beside.items()}
    values: dict[str, Any] = {"peers": settings.peers, "verbs": get_args(Verb), "routes": routes, "hooks": hooks}
    values |= {"added": added, "hidden": hidden, "waiting": waiting, "choices": choices(settings)}
    values |= {"known": {table: getattr(settings, table) for table in TABLES}, "unusable": settings.added.unusable}
    values |= {"hook_events": get_args(HookEvent)}
    return page(call, "connections.html", part="connections", file=Configuration.of(settings).file, **values)


@router.post("/administration/peers")
def add_peer(call: AdminCall, form: Annotated[NewPeer, Form()]) -> Response:
    """Add a peer, which may associate and is called at once."""
    require_session(call)
    call.act("set-peer", name=form.name, peer=form.peer(), seen=NONE_YET)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/peers/{name}")
def change_peer(call: AdminCall, name: PeerName, form: Annotated[PeerForm, Form()]) -> Response:
    """Change a peer that was added here."""
    require_session(call)
    call.act("set-peer", name=name, peer=form.peer(), seen=form.seen)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/peers/{name}/remove")
def remove_peer(call: AdminCall, name: PeerName, seen: Annotated[str | None, Form(max_length=64)] = None) -> Response:
    """Remove a peer that was added here: its next association is rejected."""
    require_session(call)
    call.act("remove-peer", name=name, seen=seen)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/routes/{route}/{destination}")
def change_route(
    call: AdminCall, route: str, destination: str, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a destination of a route, let it go on, or try again."""
    actions.change_route(call, route, destination, action)
    return RedirectResponse(PAGE, SEE_OTHER)


def _routes(settings: Settings, index: ReadIndex) -> Iterator[dict[str, Any]]:
    """Yield each destination of each route, with its row in ``v_routes`` once it has one."""
    rows = {(row["route"], row["destination"]): row for row in index.routes.destinations()}
    for name, route in settings.routes.items():
        for to in route.to:
            row: Mapping[str, Any] = rows.get((name, to), {})
            waiting = outstanding(row) if row else 0
            yield {**row, "name": name, "to": to, "rule": route, "where": _text(route.where), "outstanding": waiting}


def _hooks(settings: Settings, index: ReadIndex) -> list[dict[str, Any]]:
    progress, troubles = index.hooks.progress(), index.hooks.troubles()
    own: dict[str, dict[str, Any]] = {
        name: {"name": name, "hook": hook, "where": _text(hook.where), "trouble": troubles.get(name)}
        for name, hook in settings.hooks.items()
    }
    return [{**progress.get(name, {}), **values} for name, values in own.items()]


def _text(where: str | Mapping[str, Any] | None) -> str:
    """Return a selector as the configuration has it, on one line."""
    if where is None or isinstance(where, str):
        return where or ""
    return ", ".join(f"{name} = {value}" for name, value in where.items())
