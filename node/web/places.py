"""Places for connections: who gives way to a new one when all are taken."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from time import monotonic
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from node.addresses import block_of
from node.settings.model import Web
from node.web.health import PATHS
from node.web.problem_types import BUSY
from node.web.problems import RETRY, respond

MAX_CONNECTIONS_PER_ADDRESS = 100
"""Connections from one address that is not a trusted proxy; further ones are closed."""

SPARE_CONNECTIONS = 32
"""Connections beyond [web] maximum_connections that are accepted, to be answered 503."""


class Served(Protocol):
    """The part of a connection's protocol by which places are given."""

    @property
    def is_known(self) -> bool:
        """Whether a request of an identified caller is under way."""

    @property
    def client_address(self) -> str:
        """The address of the client of the request under way, which a trusted proxy may have forwarded, or empty."""

    @property
    def since(self) -> float:
        """The monotonic time since which it waits for a request, or answers one."""

    @property
    def is_closing(self) -> bool:
        """Whether the connection is being closed."""

    def give_way(self) -> None:
        """Close the connection."""


@dataclass(eq=False, slots=True)
class Place:
    """A connection from its acceptance to its end; it has no protocol before the end of its TLS handshake."""

    connection: socket.socket
    block: str
    accepted_at: float = field(default_factory=monotonic)
    served: Served | None = None
    is_leaving: bool = False

    @property
    def is_taken(self) -> bool:
        """Whether the connection is open and stays so."""
        is_open = self.connection.fileno() >= 0 and not self.is_leaving
        return is_open and (self.served is None or not self.served.is_closing)

    @property
    def gives_way(self) -> bool:
        """Whether it may be closed for a new connection: nobody known waits for an answer."""
        return self.served is None or not self.served.is_known

    @property
    def client_block(self) -> str:
        """The block of addresses under which the connection counts."""
        address = self.served.client_address if self.served is not None else ""
        return block_of(address) if address else self.block

    @property
    def since(self) -> float:
        """The monotonic time by which the oldest gives way first."""
        return self.served.since if self.served is not None else self.accepted_at

    def give_way(self) -> None:
        """Close the connection, or have its TLS handshake fail."""
        self.is_leaving = True
        if self.served is not None:
            self.served.give_way()
        else:
            with suppress(OSError):  # already disconnected
                self.connection.shutdown(socket.SHUT_RDWR)


class Places:
    """Gives places to connections; used by the thread of the event loop only.

    At [web] maximum_connections, a new connection closes the oldest one of the block of addresses that has most among
    those that may be closed: TLS handshakes under way, idle connections, and requests whose caller is not identified,
    such as a login whose body does not end. Connections with a request of a known caller are never closed for others;
    if they take all places, further requests are answered 503.
    """

    def __init__(self, web: Web) -> None:
        self._maximum = web.maximum_connections
        self._proxies: Sequence[IPv4Network | IPv6Network] = web.trusted_proxies
        self._places: list[Place] = []

    def take(self, connection: socket.socket, host: str) -> bool:
        """Give a place to a new connection; False if there is none."""
        self._places = [place for place in self._places if place.is_taken]
        block = block_of(host)
        of_block = sum(place.block == block for place in self._places)
        if of_block >= MAX_CONNECTIONS_PER_ADDRESS and not any(ip_address(host) in known for known in self._proxies):
            return False
        if len(self._places) >= self._maximum:
            self._make_room()
        if len(self._places) >= self._maximum + SPARE_CONNECTIONS:
            return False
        self._places.append(Place(connection, block))
        return True

    def serve(self, connection: int, served: Served) -> None:
        """Note the protocol of a connection, given by its file descriptor, after its TLS handshake."""
        for place in self._places:
            if place.connection.fileno() == connection:
                place.served = served

    @property
    def are_exceeded(self) -> bool:
        """Whether more connections are open than there are places."""
        return len(self._places) > self._maximum and self.count > self._maximum

    @property
    def count(self) -> int:
        """The number of open connections."""
        return sum(place.is_taken for place in self._places)

    def _make_room(self) -> None:
        candidates = [(place.client_block, place) for place in self._places if place.gives_way]
        if not candidates:
            return
        [(largest, _)] = Counter(block for block, _ in candidates).most_common(1)
        leaving = min((place for block, place in candidates if block == largest), key=lambda place: place.since)
        leaving.give_way()
        self._places.remove(leaving)


class RequestPlaces:
    """ASGI middleware: answers 503 while all places are taken by known callers; health checks always pass."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_asked = scope["type"] == "http" and scope["path"] not in PATHS
        if is_asked and scope["app"].state.places.are_exceeded:
            refusal = respond(HTTPConnection(scope), BUSY, "too many requests are under way", headers=RETRY)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
