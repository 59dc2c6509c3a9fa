"""The kinds of destinations that extensions add."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from node.index.work.messages import LedgerEvent
from node.registry import opened_by
from node.routing.destination import Destination as Receiver
from node.routing.held import HeldWorker, RouteParts
from node.settings.core import DestinationSettings, Route
from node.settings.model import Settings

OpenReceiver = Callable[[DestinationSettings, bool], Receiver]
"""Opens a destination that takes instances one by one, such as a folder or a server. It takes a table
[destinations.NAME], and whether its route wants proof of what was taken; it returns what sends there, or raises
`UsageError` if a file that the table names cannot be used."""


class DestinationKind(Protocol):
    """Destinations of routes that do not take instances one by one, such as folders that follow the node."""

    def check(self, destination: DestinationSettings) -> None:
        """Raise `UsageError` if a destination cannot be used."""

    def events(self, route: Route) -> Collection[LedgerEvent]:
        """Return the events that such a destination of a route has messages about."""

    def worker(self, parts: RouteParts) -> HeldWorker:
        """Return the service that does what the messages to a destination of a route ask for."""


def kind_that_follows(settings: Settings, name: str) -> DestinationKind | None:
    """Return the kind of a destination that cannot take single instances; None: it can, or is a peer.

    Raises UsageError if its extension is switched off, as the function below does.
    """
    described = settings.destinations.get(name)
    if described is None or described.takes_instances:
        return None
    kind: DestinationKind = opened_by(settings, "destinations", described.kind)
    return kind


def open_receiver(settings: Settings, kind: str) -> OpenReceiver:
    """Return what opens the destinations of a kind that takes instances one by one."""
    found: OpenReceiver = opened_by(settings, "destinations", kind)
    return found
