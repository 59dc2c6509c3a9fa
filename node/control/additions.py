"""Peers and routes of the index join those of the configuration, whether the pages that add them are on or off."""

from __future__ import annotations

import re
from collections.abc import Mapping

import structlog
from pydantic import ValidationError

from node.control.checks import loops
from node.errors import UsageError
from node.index.database.index import Index
from node.index.nouns.added import AddedPeerRepository, AddedRouteRepository
from node.settings.model import Peer, Route, Settings

log = structlog.get_logger()

OF_ROUTE = re.compile(r"\[?routes\.([A-Za-z0-9_-]+)[\]:]? ?(.*)", re.DOTALL)
"""A mistake of a configuration: the name of the route, and what is wrong with it."""


def adopt(settings: Settings, index: Index) -> None:
    """Have the settings know what was added; see `node.settings.model.Settings.add`.

    Hosts that may share the index have none. Raises UsageError if no peer that was added can be used and there is no
    other: without peers, every sender would be accepted.
    """
    if settings.shares_index:
        return
    peers = _peers(settings, index)
    routes, unusable = _routes(settings, index, peers)
    for name, reason in unusable.items():
        log.warning("added_route_unused", detail=f"route {name}", reason=reason)
    settings.add(peers, routes, unusable)


def mistakes_of(settings: Settings) -> list[str]:
    """Return the rules that peers and routes break together, each with the name of its table."""
    return settings.mistakes() or list(loops(settings))


def _peers(settings: Settings, index: Index) -> dict[str, Peer]:
    peers: dict[str, Peer] = {}
    rows = index.repository(AddedPeerRepository).listed()
    for row in rows:
        if row.name in settings.destinations:
            log.warning("added_peer_unused", peer=row.name, reason="a destination has the same name")
            continue
        try:
            peers[row.name] = Peer.model_validate(row.settings)
        except ValidationError:
            log.warning("added_peer_unused", peer=row.name, reason="this version does not accept its settings")
    if rows and not peers and not settings.own_peers:
        raise UsageError(
            f"no peer that was added on the pages can be used ({', '.join(row.name for row in rows)}), and without "
            "peers every sender is accepted: list one under [peers], or rename the destinations of these names"
        )
    return peers


def _routes(settings: Settings, index: Index, peers: Mapping[str, Peer]) -> tuple[dict[str, Route], dict[str, str]]:
    """Return the routes that can be used, and why the others cannot."""
    routes: dict[str, Route] = {}
    unusable: dict[str, str] = {}
    for row in index.repository(AddedRouteRepository).listed():
        if row.name in settings.own_routes:
            continue
        try:
            routes[row.name] = Route.model_validate(row.settings)
        except ValidationError:
            unusable[row.name] = "this version does not accept its settings"
    while broken := _broken(settings, peers, routes):
        routes = {name: route for name, route in routes.items() if name not in broken}
        unusable |= broken
    return routes, unusable


def _broken(settings: Settings, peers: Mapping[str, Peer], routes: Mapping[str, Route]) -> dict[str, str]:
    """Return which of these routes, all of which were added, break a rule, and why."""
    broken: dict[str, str] = {}
    for mistake in mistakes_of(settings.having(peers, routes)) if routes else ():
        found = OF_ROUTE.match(mistake)
        if found is not None and found[1] in routes:
            broken.setdefault(found[1], found[2])
    return broken
