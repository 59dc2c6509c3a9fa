"""Pages for administrators about others: peers and routes, which they add and change, and hooks, and how these fare."""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Form, Path, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from node.audit.audit_log import Action
from node.counted import counted
from node.errors import UsageError, VoxelnodeError
from node.extensions.administration.own import require_session
from node.extensions.administration.route_forms import choices
from node.extensions.pages.rendering import SEE_OTHER, fragment, page
from node.index.database.reading import ReadIndex
from node.index.nouns.added import AddedPeerRepository, AddedRouteRepository
from node.index.work.routes import outstanding
from node.notify.channel import hook_channel
from node.notify.message import HookMessage, NothingLeft, compose_test, with_job
from node.settings.load import Configuration
from node.settings.model import HookSettings, Settings, Verb
from node.web import actions
from node.web.access import AdminCall
from node.web.errors import ResourceNotFound
from node.web.services import Services

router = APIRouter(include_in_schema=False)

PAGE = "/administration/connections"

TESTED_SERIES = 100
"""Newest series, of which a test takes the first that has what the event needs."""

NAMES = re.compile(r"[,\s]+")
"""What is between the networks of a peer in its form."""

HookName = Annotated[str, Path(max_length=64)]


class PeerForm(BaseModel):
    """The form of a peer, with the keys of ``[peers.NAME]`` that need no file."""

    ae_title: Annotated[str, Field(max_length=64)]
    networks: Annotated[str, Field(max_length=2000)] = ""
    host: Annotated[str, Field(max_length=253)] = ""
    port: int = 104
    may: tuple[Verb, ...] = ()
    tls: bool = False
    certificate: Annotated[str, Field(max_length=256)] = ""

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
    settings = call.node.settings
    with call.node.index.reading(wait=False) as index:
        routes, hooks = list(_routes(settings, index)), _hooks(settings, index)
        waiting = Counter[str]()
        for row in index.routes.destinations():
            waiting[row["route"]] += outstanding(row)
    values: dict[str, Any] = {"peers": settings.peers, "verbs": get_args(Verb), "routes": routes, "hooks": hooks}
    repository = call.node.index.repository
    added = {one.name: one for one in repository(AddedPeerRepository).listed() if one.name not in settings.own_peers}
    rows = repository(AddedRouteRepository).listed()
    values["added_routes"] = {one.name: one for one in rows if one.name not in settings.own_routes}
    values |= {
        "waiting": waiting,
        "rules": settings.routes,
        "unusable": settings.unusable_routes,
        "choices": choices(settings),
    }
    file = Configuration.of(settings).file
    return page(call, "connections.html", part="connections", **values, added=added, file=file)


@router.post("/administration/peers")
def add_peer(call: AdminCall, form: Annotated[NewPeer, Form()]) -> Response:
    """Add a peer, which may associate and is called at once."""
    require_session(call)
    if form.name in call.node.settings.peers:
        raise UsageError(f"there is a peer {form.name}: choose another name")
    call.act("set-peer", name=form.name, peer=form.peer())
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/peers/{name}")
def change_peer(call: AdminCall, name: HookName, form: Annotated[PeerForm, Form()]) -> Response:
    """Change a peer that was added here."""
    require_session(call)
    if name not in call.node.settings.peers:
        raise UsageError("there is no such peer: somebody has removed it")
    call.act("set-peer", name=name, peer=form.peer())
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/peers/{name}/remove")
def remove_peer(call: AdminCall, name: HookName) -> Response:
    """Remove a peer that was added here: its next association is rejected."""
    require_session(call)
    call.act("remove-peer", name=name)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/routes/{route}/{destination}")
def change_route(
    call: AdminCall, route: str, destination: str, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a destination of a route, let it go on, or try again."""
    actions.change_route(call, route, destination, action)
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/hooks/{hook}/retry")
def retry_hook(call: AdminCall, hook: HookName) -> Response:
    """Deliver again what was given up, or waits for its next attempt."""
    if hook not in call.node.settings.hooks:
        raise ResourceNotFound("hook")
    waiting = call.node.actions["retry-deliveries"](hook=hook, message_id=None)["waiting"]
    call.audit.configured(Action.UPDATE, f"hook {hook}: retry of {counted(waiting, 'message')}")
    return RedirectResponse(PAGE, SEE_OTHER)


@router.post("/administration/hooks/{hook}/test")
def test_hook(call: AdminCall, hook: HookName) -> Response:
    """Deliver a message of the newest series, marked as a test, and tell what the receiver answered."""
    if hook not in call.node.settings.hooks:
        raise ResourceNotFound("hook")
    message = _test_message(call.node, call.node.settings.hooks[hook])
    if message is None:
        return fragment(call, "hook_tested.html", problem="There is no series yet that has what the message needs.")
    call.audit.configured(Action.EXECUTE, f"hook {hook}: test message")
    problem = ""
    try:
        _deliver(call.node.settings, hook, message)
    except VoxelnodeError as error:
        problem = str(error)
    return fragment(call, "hook_tested.html", problem=problem)


def _test_message(node: Services, hook: HookSettings) -> HookMessage | None:
    """Return the message of the first event of a hook, of the newest series that has one; None: no series has."""
    now, ae_title = dt.datetime.now(dt.UTC), node.settings.dicom.ae_title
    with node.index.reading() as index:
        for row in index.series.newest(TESTED_SERIES):
            key = (row["study_instance_uid"], row["series_instance_uid"])
            try:
                return compose_test(index, hook.on[0], key, ae_title, now, include_patient=hook.names_patient)
            except NothingLeft:
                continue
    return None


def _deliver(settings: Settings, name: str, message: HookMessage) -> None:
    """Deliver a test message in the time that the hook has for any; results are thrown away. Raises NotDelivered."""
    hook = settings.hooks[name]
    with ExitStack() as opened, closing(hook_channel(settings, name)) as channel:
        if hook.results and hook.url is None:
            out = opened.enter_context(TemporaryDirectory(prefix="voxelnode-test-"))
            message = with_job(message, "test", "", "", out)
        channel.deliver(message, threading.Event())


def _routes(settings: Settings, index: ReadIndex) -> Iterator[dict[str, Any]]:
    """Yield each destination of each route, with its row in ``v_routes`` once it has one."""
    rows = {(row["route"], row["destination"]): row for row in index.routes.destinations()}
    for name, route in settings.routes.items():
        for to in route.to:
            row: Mapping[str, Any] = rows.get((name, to), {})
            waiting = outstanding(row) if row else 0
            yield {**row, "name": name, "to": to, "rule": route, "where": _text(route.where), "outstanding": waiting}


def _hooks(settings: Settings, index: ReadIndex) -> list[dict[str, Any]]:
    progress = index.hooks.progress()
    return [
        {"name": name, "hook": hook, "by": hook.receiver, "where": _text(hook.where), "row": progress.get(name)}
        for name, hook in settings.hooks.items()
    ]


def _text(where: str | Mapping[str, Any] | None) -> str:
    """Return a selector as the configuration has it, on one line."""
    if where is None or isinstance(where, str):
        return where or ""
    return ", ".join(f"{name} = {value}" for name, value in where.items())
