"""The HTTP server: uvicorn in a thread of its own, and who gives way when all places for connections are taken."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from time import monotonic
from typing import Any, ClassVar

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from node.addresses import block_of
from node.errors import UsageError
from node.settings.model import Web, is_loopback
from node.tls import server_context

MAX_CONNECTIONS_PER_ADDRESS = 100
"""Connections from one address that is not a trusted proxy; further ones are closed."""

SPARE_CONNECTIONS = 32
"""Connections beyond [web] maximum_connections that are accepted, to be answered 503."""


@dataclass(eq=False, slots=True)
class Place:
    """A connection from its acceptance to its end; it has no protocol before the end of its TLS handshake."""

    connection: socket.socket
    block: str
    accepted_at: float = field(default_factory=monotonic)
    served: _Protocol | None = None
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

    def serve(self, connection: int, served: _Protocol) -> None:
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


log = structlog.get_logger()

BACKLOG = 128
START_SECONDS = 10.0
TICK_SECONDS = 1.0
"""Interval at which the Date header is updated; an idle server does nothing else."""

COMPLAINT_SECONDS = 60.0
"""Interval of log lines: the event loop reports every connection that it cannot accept."""

HEAD_BYTES = 32_768
"""Longest request line with headers; longer ones are answered 400. A viewer may request many frames in one URL."""

HEAD_SECONDS = 20.0
"""Time in which the first request of a connection must start; later ones have `IDLE_SECONDS`."""

IDLE_SECONDS = 10


class WebServer:
    """Serves an application.

    Raises
    ------
    UsageError
        The TLS files are unusable or, in `start`, the address cannot be bound.
    """

    def __init__(self, web: Web, app: FastAPI) -> None:
        self._web, self._app = web, app
        if web.tls_certificate is None and web.tls_key is not None:
            raise UsageError("[web] tls_key needs tls_certificate; set it or remove the key")
        self._tls = server_context("web", web.tls_certificate, web.tls_key) if web.tls_certificate else None
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it would warn about every malformed request
        self._places = app.state.places = Places(web)
        self._server = _Server(_config(web, app, self._tls, self._places))
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._socket: socket.socket | None = None

    @property
    def scheme(self) -> str:
        """``https`` with a certificate, else ``http``."""
        return "https" if self._tls is not None else "http"

    def start(self) -> tuple[str, int]:
        """Bind and serve; return the address and the port (chosen by the kernel for port 0)."""
        address = (self._web.host, self._web.port)
        try:
            bound = socket.create_server(address, family=_family(self._web.host), backlog=BACKLOG)
        except OSError as error:
            raise UsageError(
                f"cannot serve HTTP on {address[0]} port {address[1]}: {error.strerror or error}; "
                "set [web] host and port to a free address of this machine, or [web] enabled = false"
            ) from error
        self._socket = HttpListener(bound, self._places)
        # Connections inherit this option. asyncio sets it only on sockets created with IPPROTO_TCP; without it, each
        # response waits 40 ms for the acknowledgement of its head.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = self._socket.getsockname()[:2]
        self._thread.start()
        if not self._server.ready.wait(START_SECONDS) or not self._server.started:
            raise UsageError("the web server did not start: see the log")
        if self._tls is None and not self._web.trusted_proxies and not is_loopback(self._web.host):
            log.warning("web_without_tls", detail="passwords cross the network unencrypted: set [web] tls_certificate")
        return str(host), int(port)

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._thread.is_alive()

    def stop(self, seconds: float) -> None:
        """Stop accepting requests; let those under way finish for at most `seconds`."""
        if self._socket is None:
            return
        self._app.state.stopping.set()
        self._server.end()
        self._thread.join(seconds)
        self._server.end_by_force()
        self._thread.join(1.0)

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket] if self._socket else None)
        except Exception:
            log.exception("web_server_failed")
        finally:
            self._server.ready.set()


def _config(web: Web, app: FastAPI, tls: ssl.SSLContext | None, places: Places) -> uvicorn.Config:
    proxies = [str(network) for network in web.trusted_proxies]
    return uvicorn.Config(
        app,
        http=type("_PlacedProtocol", (_Protocol,), {"places": places}),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        backlog=BACKLOG,
        server_header=False,
        workers=1,
        ssl_context_factory=(lambda config, default: tls) if tls is not None else None,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


class _Protocol(H11Protocol):
    """Closes connections that send no request; uvicorn would wait for them forever. A `Place` asks it who gives way."""

    places: ClassVar[Places]
    _head_timer: asyncio.TimerHandle | None = None
    since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        self.places.serve(transport.get_extra_info("socket").fileno(), self)

    def data_received(self, data: bytes) -> None:
        was_idle = self.is_idle
        super().data_received(data)
        if was_idle and not self.is_idle:
            self.since = monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_known(self) -> bool:
        """Whether a request of an identified caller is under way (`node.web.access`)."""
        return not self.is_idle and "account" in self.scope["state"]

    @property
    def client_address(self) -> str:
        """The address of the client of the request under way, or empty."""
        client = None if self.is_idle else self.scope["client"]
        return client[0] if client is not None else ""

    @property
    def is_closing(self) -> bool:
        """Whether the connection is being closed."""
        return self.transport.is_closing()

    def give_way(self) -> None:
        """Close the connection, at once if a request is under way."""
        if self.is_idle:
            self.transport.close()
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_head()

    def _await_head(self) -> None:
        self._cancel()
        self.since = monotonic()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        if self.is_idle:
            self.timeout_keep_alive_handler()

    def _cancel(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()


class _Server(uvicorn.Server):
    """Sets an event when it is ready; leaves signals to the `serve` command."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_LoopErrors())
        await super().startup(sockets=sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Update the Date header until the end; uvicorn's own loop would wake ten times a second."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), TICK_SECONDS)

    def end(self) -> None:
        """End the main loop at once. Thread-safe."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is already closed
                self._loop.call_soon_threadsafe(self._ending.set)

    def end_by_force(self) -> None:
        """Drop connections with unfinished requests. Thread-safe.

        Since Python 3.12, uvicorn waits for them even if `force_exit` is set (`asyncio.Server.wait_closed`).
        """
        self.force_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is already closed
                self._loop.call_soon_threadsafe(self._drop_connections)

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


class _LoopErrors:
    """Logs errors of the event loop, equal ones at most once every `COMPLAINT_SECONDS`."""

    def __init__(self) -> None:
        self._logged_at: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        reason = error.strerror or str(error) if isinstance(error, OSError) else context["message"]
        now = monotonic()
        if now - self._logged_at.get(reason, -COMPLAINT_SECONDS) >= COMPLAINT_SECONDS:
            self._logged_at[reason] = now
            log.error("web_event_loop", reason=reason, exc_info=None if isinstance(error, OSError) else error)
        if len(self._logged_at) > 100:
            self._logged_at.clear()


class HttpListener(socket.socket):
    """A listening socket that closes connections without a place.

    This happens here because a connection that never completes its TLS handshake is unknown to the protocol but still
    occupies a file descriptor.
    """

    def __init__(self, bound: socket.socket, places: Places) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._places = places

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, like `socket.accept`; ConnectionAbortedError: there was no place, and it was closed."""
        connection, address = super().accept()
        if not self._places.take(connection, address[0]):
            connection.close()
            raise ConnectionAbortedError
        return connection, address


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
