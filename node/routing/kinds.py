"""The kinds of destinations that extensions add, by keys of [destinations.NAME]."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from node.index.work.messages import LedgerEvent
from node.registry import of_key
from node.routing.destination import Destination as Receiver
from node.routing.held import HeldWorker, RouteParts
from node.settings.model import Destination, Route, Settings

OpenReceiver = Callable[[Destination, bool], Receiver]
"""Opens a destination that takes instances one by one, such as a folder or a server. It takes a table
[destinations.NAME], and whether its route wants proof of what was taken; it returns what sends there, or raises
`UsageError` if a file that the table names cannot be used."""


class DestinationKind(Protocol):
    """Destinations of routes that do not take instances one by one, such as folders that follow the node.

    `[destinations.NAME]` has a key for each kind; the keys are those of the core (`Destination`).
    """

    def check(self, destination: Destination) -> None:
        """Raise `UsageError` if a destination cannot be used."""

    def events(self, route: Route) -> Collection[LedgerEvent]:
        """Return the events that such a destination of a route has messages about."""

    def worker(self, parts: RouteParts) -> HeldWorker:
        """Return the service that does what the messages to a destination of a route ask for."""


def destination_kind(settings: Settings, key: str) -> DestinationKind:
    """Return the kind of destination that a key of [destinations.NAME] stands for.

    Raises UsageError if its extension is switched off, as the function below does.
    """
    kind: DestinationKind = of_key(settings, "destinations", key)
    return kind


def open_receiver(settings: Settings, key: str) -> OpenReceiver:
    """Return what opens the destinations of a key of [destinations.NAME] that take instances one by one."""
    found: OpenReceiver = of_key(settings, "receivers", key)
    return found
