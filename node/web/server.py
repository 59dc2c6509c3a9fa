"""The HTTP server: uvicorn in a thread of its own, and the connections that have a place in its budget."""

import asyncio
import gc
import logging
import socket
import ssl
import struct
import threading
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address
from time import monotonic
from typing import Any, ClassVar

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from node.errors import UsageError
from node.runtime.budget import Budget, Claim, Limits, Standing
from node.runtime.metrics import Metrics
from node.runtime.network import is_loopback
from node.runtime.tls import server_context
from node.settings.core import Web


class OpenConnection:
    """A connection from its acceptance to its end; it has no protocol before the end of its TLS handshake."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.accepted_at = monotonic()
        self.protocol: _Protocol | None = None

    @property
    def is_served(self) -> bool:
        """Whether a request is under way, and it is the node's turn."""
        return self.protocol is not None and not self.protocol.is_idle and not self.protocol.awaits_client

    @property
    def is_under_way(self) -> bool:
        """Whether a request or its answer has begun and is incomplete."""
        return self.protocol is not None and self.protocol.is_under_way

    def hang_up(self) -> None:
        """Close the connection, or have its TLS handshake fail. Thread-safe."""
        if self.protocol is None:
            with suppress(OSError):  # already disconnected
                self.connection.shutdown(socket.SHUT_RDWR)
        else:
            with suppress(RuntimeError):  # the loop is already closed
                self.protocol.loop.call_soon_threadsafe(self.protocol.give_way)


class Places:
    """The connections, and their budget: a request enters a place when its caller is identified (`node.web.access`).

    `connected`, `find` and `check` are called by the thread of the event loop.
    """

    def __init__(self, web: Web, metrics: Metrics) -> None:
        self._proxies: Sequence[IPv4Network | IPv6Network] = web.trusted_proxies
        limits = Limits(
            MAXIMUM_CONNECTIONS,
            PER_ADDRESS,
            PER_ACCOUNT,
            pending=MAXIMUM_CONNECTIONS,
            reserved=MAXIMUM_CONNECTIONS // ADMINISTRATORS_SHARE,
            reserved_for=Standing.ADMINISTRATOR,
        )
        self.budget = Budget("web", limits, metrics)
        self._is_tls, self._ended = web.tls_certificate is not None, 0
        self._claims: dict[int, tuple[OpenConnection, Claim]] = {}  # by file descriptor

    def connected(self, connection: socket.socket, host: str) -> None:
        """Register a new connection."""
        place, descriptor = OpenConnection(connection), connection.fileno()
        claim = Claim(place, "" if any(ip_address(host) in proxy for proxy in self._proxies) else host)
        self._forget(descriptor)  # of a connection that is closed
        self._claims[descriptor] = place, claim
        self.budget.connect(claim)

    def find(self, connection: int) -> tuple[OpenConnection, Claim]:
        """Return the place of a connection, given by its file descriptor."""
        return self._claims[connection]

    def check(self) -> None:
        """End slow TLS handshakes and connections whose clients read nothing; free those that are closed."""
        if self._is_tls and self._ended >= COLLECTED_CONNECTIONS:  # before those of this check, which tasks still hold
            self._ended = 0
            gc.collect()
        now = monotonic()
        for descriptor, (place, _) in list(self._claims.items()):
            if place.connection.fileno() < 0:
                self._forget(descriptor)
            elif place.protocol is not None:
                place.protocol.check_reader(now)
            elif now - place.accepted_at > HEAD_SECONDS:
                place.hang_up()

    def _forget(self, descriptor: int) -> None:
        if descriptor in self._claims:
            self._ended += 1
            self.budget.remove(self._claims.pop(descriptor)[1])


log = structlog.get_logger()

BACKLOG = 128
START_SECONDS = 10.0
TICK_SECONDS = 1.0
"""Interval at which the Date header is updated; an idle server does nothing else."""

HEAD_BYTES = 131_072
"""Longest request line with headers; longer ones are answered 400. A search may name two thousand UIDs in its URL."""

TLS_BUFFER_BYTES = 16 << 10
"""Bytes that asyncio reads at once over TLS: a record (RFC 8446 5.1). Each connection has a buffer of this size, of 256
KiB by default."""

COLLECTED_CONNECTIONS = 100
"""Closed connections with TLS after which garbage is collected: asyncio leaves each in a cycle of references, with its
buffer and 50 KB of OpenSSL. Modules are exempt from the collection (`serve`), which takes milliseconds."""

HEAD_SECONDS = 20.0
"""Time in which the first request of a connection must start; later ones have `IDLE_SECONDS`."""

IDLE_SECONDS = 10

TCP_INFO_BYTES, BYTES_ACKED_OFFSET = 128, 120
"""Of `struct tcp_info` in linux/tcp.h: its first bytes, and where tcpi_bytes_acked stands in them."""

READ_SECONDS = 60.0
READ_BYTES = 65_536
"""A client that takes less of an answer in so many seconds is disconnected: about 1 KB/s."""

MAXIMUM_CONNECTIONS = 200
"""Requests of identified callers at the same time; as many connections may have no such request."""

PER_ADDRESS, PER_ACCOUNT = 100, 50
"""Requests of one address at the same time, and of one account that is not an administrator."""

ADMINISTRATORS_SHARE = 8
"""One place in this many is reserved for administrators."""


class WebServer:
    """Serves an application.

    Raises UsageError: the TLS files are unusable or, in `start`, the address cannot be bound.
    """

    def __init__(self, web: Web, app: FastAPI) -> None:
        self._web, self._app = web, app
        if web.tls_certificate is None and web.tls_key is not None:
            raise UsageError("[web] tls_key needs tls_certificate; set it or remove the key")
        self._tls = server_context("web", web.tls_certificate, web.tls_key) if web.tls_certificate else None
        SSLProtocol.max_size = TLS_BUFFER_BYTES
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it would warn about every malformed request
        self._places = Places(web, app.state.services.metrics)
        app.state.budget = self._places.budget
        self._server = _Server(_config(web, app, self._tls, self._places), self._places)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._socket: socket.socket | None = None

    def start(self, bound: socket.socket) -> None:
        """Serve at a socket that listens."""
        self._socket = HttpListener(bound, self._places)
        # Connections inherit this option. asyncio sets it only on sockets created with IPPROTO_TCP; without it, each
        # response waits 40 ms for the acknowledgement of its head.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread.start()
        if not self._server.ready.wait(START_SECONDS) or not self._server.started:
            raise UsageError("the web server did not start: see the log")
        self._app.state.downloads.start()
        if self._tls is None and not self._web.trusted_proxies and not is_loopback(self._web.host):
            log.warning("web_without_tls", detail="passwords cross the network unencrypted: set [web] tls_certificate")

    def on_tick(self, tick: Callable[[], object]) -> None:
        """Have the loop that serves requests call a function each `TICK_SECONDS`."""
        self._server.tick = tick

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._thread.is_alive()

    def stop(self, seconds: float) -> None:
        """Stop accepting requests; let those under way finish for at most `seconds`."""
        if self._socket is None:
            return
        self._app.state.stopping.set()
        self._app.state.downloads.begin_stop()
        self._server.end()
        self._thread.join(seconds)
        self._server.end_by_force()
        self._thread.join(1.0)
        self._app.state.downloads.stop()

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
        loop="asyncio",  # else uvloop where it is installed, which accepts connections past `HttpListener`
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        backlog=BACKLOG,
        server_header=False,
        ssl_context_factory=(lambda config, default: tls) if tls is not None else None,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


class _Protocol(H11Protocol):
    """Closes connections that send no request or take no answer; uvicorn would wait for them forever."""

    places: ClassVar[Places]
    claim: Claim
    _head_timer: asyncio.TimerHandle | None = None
    _address = ""
    _taken = _read = 0
    _read_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        place, self.claim = self.places.find(transport.get_extra_info("socket").fileno())
        self._address, self._read_at = self.claim.address, monotonic()
        self.app_state = {**self.app_state, "claim": self.claim}  # the state of each request
        place.protocol = self
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self.awaits_client:
            self.claim.moved(len(data))
        super().data_received(data)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_under_way(self) -> bool:
        """Whether a request is under way, or the client has not taken all of the last answer."""
        return not self.is_idle or self._unsent_bytes > 0

    @property
    def awaits_client(self) -> bool:
        """Whether the client has to send more of its request, or to take more of its answer."""
        if self.is_idle:
            return True
        is_sending = self.cycle.more_body and not self.flow.read_paused
        return is_sending or self._unsent_bytes > 0

    @property
    def _unsent_bytes(self) -> int:
        """What the client has not taken yet; over TLS, part of it is counted nowhere."""
        return max(self.transport.get_write_buffer_size(), int(self.flow.write_paused))

    def check_reader(self, now: float) -> None:
        """Disconnect a client that takes too little of what waits for it, also after its request."""
        taken = self._taken_bytes()
        self.claim.moved(taken - self._taken)
        self._read += taken - self._taken
        self._taken = taken
        if self._unsent_bytes == 0 or self._read >= READ_BYTES:
            self._read, self._read_at = 0, now
        elif now - self._read_at > READ_SECONDS:
            log.info("web_reader_dropped", address=self.claim.address)
            self.transport.abort()
        self._leave()

    def _taken_bytes(self) -> int:
        """What the client has acknowledged so far. The kernel holds megabytes for it: our buffer shows only bursts."""
        try:
            info = self.transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES
            )
            return int(struct.unpack_from("Q", info, BYTES_ACKED_OFFSET)[0])
        except (OSError, struct.error, AttributeError):  # closed, a kernel before 4.1, or macOS
            return self._taken

    def _leave(self) -> None:
        """Leave the place unless an answer is under way; one that is not taken occupies memory."""
        if not self.is_under_way:
            self.places.budget.leave(self.claim)
            self.claim.standing, self.claim.caller = Standing.STRANGER, ""
            self.claim.locate(self._address)

    def give_way(self) -> None:
        """Close the connection, at once if a request is under way."""
        if self.is_under_way:
            self.transport.abort()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self.places.budget.remove(self.claim)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._leave()
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_head()

    def _await_head(self) -> None:
        self._cancel()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        if self.is_idle:
            self.timeout_keep_alive_handler()

    def _cancel(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()


class _Server(uvicorn.Server):
    """Sets an event when it is ready; leaves signals to the `serve` command."""

    def __init__(self, config: uvicorn.Config, places: Places) -> None:
        super().__init__(config)
        self._places = places
        self.ready = threading.Event()
        self.tick: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_log_error)
        await super().startup(sockets=sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Update the Date header and check the places; uvicorn's own loop would wake ten times a second."""
        while not await self.on_tick(0):
            self._places.check()
            self.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), TICK_SECONDS)

    def end(self) -> None:
        """End the main loop at once. Thread-safe."""
        self.should_exit = True
        self._call_in_loop(self._ending.set)

    def end_by_force(self) -> None:
        """Drop connections with unfinished requests. Thread-safe.

        Since Python 3.12, uvicorn waits for them even if `force_exit` is set (``wait_closed`` of its servers).
        """
        self.force_exit = True
        self._call_in_loop(self._drop_connections)

    def _call_in_loop(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is already closed
                self._loop.call_soon_threadsafe(function)

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


def _log_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop, which reports every connection that it cannot accept."""
    error = context.get("exception")
    reason = error.strerror or str(error) if isinstance(error, OSError) else context["message"]
    shown = None if isinstance(error, OSError) else error
    log.error("web_event_loop", reason=reason, exc_info=shown, is_refusal=True)


class HttpListener(socket.socket):
    """A listening socket that counts connections.

    This happens here because a connection that never completes its TLS handshake is unknown to the protocol but still
    occupies a file descriptor.
    """

    def __init__(self, bound: socket.socket, places: Places) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._places = places

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection, like `socket.accept`."""
        connection, address = super().accept()
        self._places.connected(connection, address[0])
        return connection, address
