"""Peers and routes that administrators add: rows of the index beside the configuration, whose names take precedence.

A change is in the index before it takes effect, so that a kill at any moment leaves the old or the new one. Then the
next association, the next call and the workers that send follow it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from node.audit.audit_log import APPLICATION, AuditEvent, AuditMessage, EventType, Participant, Result
from node.audit.audit_log import Action as Audited
from node.control.additions import OF_ROUTE, adopt, mistakes_of
from node.errors import UsageError, broken_rule
from node.failpoints import reached
from node.hookspecs import Action, OpenedRoot
from node.index.database.index import Index
from node.index.nouns.added import AddedPeerRepository, AddedRouteRepository
from node.settings.model import Peer, Route, Settings

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def actions(root: OpenedRoot) -> Mapping[str, Action]:
    """Return the actions by name."""
    from node.extensions.administration.peers import PeerChanges
    from node.extensions.administration.routes import RouteChanges

    additions = Additions(root)
    peers, routes = PeerChanges(additions), RouteChanges(additions)
    return {
        "set-peer": peers.set_peer,
        "remove-peer": peers.remove_peer,
        "set-route": routes.set_route,
        "remove-route": routes.remove_route,
        "try-route": routes.try_route,
    }


class Additions:
    """What was added to the configuration, and changes of it, one at a time (`changing`)."""

    def __init__(self, root: OpenedRoot) -> None:
        self.settings: Settings = root.settings
        self.index: Index = root.ingest.index
        self.now = root.ingest.now
        self._audit = root.audit
        self.peer_rows = self.index.repository(AddedPeerRepository)
        self.route_rows = self.index.repository(AddedRouteRepository)
        self.changing = threading.Lock()

    @property
    def peers(self) -> dict[str, Peer]:
        """The peers that were added."""
        return {name: peer for name, peer in self.settings.peers.items() if name not in self.settings.own_peers}

    @property
    def routes(self) -> dict[str, Route]:
        """The routes that were added, and can be used."""
        return {name: route for name, route in self.settings.routes.items() if name not in self.settings.own_routes}

    def require_alone(self, table: str) -> None:
        """Refuse a change if the configurations of several hosts have to say the same. Raises UsageError."""
        if self.settings.shares_index:
            raise UsageError(f"several hosts may share this index: change [{table}] in the configuration of each")

    def change(self, who: str, what: str, action: Audited, make: Callable[[], None]) -> None:
        """Change a row, with a line in the audit log before and after it, and let the node follow."""
        whom = [Participant(who, APPLICATION, is_requestor=True)]
        kind = EventType.SOFTWARE_CONFIGURATION
        order = AuditMessage(AuditEvent.SECURITY_ALERT, action, Result.SUCCESS, whom, detail=what, type=kind)

        def make_it() -> None:
            reached("change-ordered")
            make()

        self._audit.change(order, make_it)
        reached("change-committed")
        adopt(self.settings, self.index)


def mistakes_of_route(name: str, settings: Settings) -> list[str]:
    """Return the rules that are broken with a route, in the words of its form: its own without its name."""
    found = [(mistake, OF_ROUTE.match(mistake)) for mistake in mistakes_of(settings)]
    return [match[2] if match is not None and match[1] == name else mistake for mistake, match in found]


def require_name(name: str, what: str) -> None:
    """Refuse what is no name of a peer or route. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"the name of a {what} has 1 to 64 letters, digits, underscores and hyphens")


def mistake_of(error: ErrorDetails, table: str) -> str:
    """Return what is wrong with a key of a form, in plain words."""
    key = ": ".join(str(part) for part in error["loc"]) or table
    return f"{key}: {broken_rule(error['type'], error['msg'])}"


def keys_of(wanted: Peer | Route) -> dict[str, Any]:
    """Return the keys of a table as the index has them."""
    return wanted.model_dump(mode="json", exclude_unset=True)
