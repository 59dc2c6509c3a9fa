"""The HTTP server: uvicorn on a thread of its own, beside the DICOM listener."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from contextlib import suppress
from ipaddress import ip_address
from time import monotonic
from typing import Any, ClassVar

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from node.errors import UsageError
from node.settings.model import Web, is_loopback
from node.tls import server_context
from node.web.access import neighbourhood_of

log = structlog.get_logger()

BACKLOG = 128
START_SECONDS = 10.0
TICK_SECONDS = 1.0
"""The Date of responses is made so often; nothing else happens while nobody asks."""

MAX_CONNECTIONS_PER_ADDRESS = 100
"""Connections of one address that is not a trusted proxy; further ones are closed."""

SPARE_CONNECTIONS = 32
"""Beyond [web] maximum_connections, for those that are told so or give way."""

COMPLAINT_SECONDS = 60.0
"""The event loop complains once for each connection that it cannot accept; the log is told so often at most."""

HEAD_BYTES = 32_768
"""Longest request line with headers; a longer one is answered 400. A viewer may ask for many frames in one URL."""

HEAD_SECONDS = 20.0
"""Within which the first request of a connection has to begin, and each further one after `IDLE_SECONDS` at most."""

IDLE_SECONDS = 10


class WebServer:
    """Serves one application.

    Raises
    ------
    UsageError
        The TLS files cannot be used, or (by `start`) the address cannot be bound.
    """

    def __init__(self, web: Web, app: FastAPI) -> None:
        self._web, self._app = web, app
        if web.tls_certificate is None and web.tls_key is not None:
            raise UsageError("[web] tls_key needs tls_certificate; set it or remove the key")
        self._tls = server_context("web", web.tls_certificate, web.tls_key) if web.tls_certificate else None
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each broken request of a stranger
        self._server = _Server(_config(web, app, self._tls))
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._socket: socket.socket | None = None

    @property
    def scheme(self) -> str:
        """``https`` with a certificate, else ``http``."""
        return "https" if self._tls is not None else "http"

    def start(self) -> tuple[str, int]:
        """Bind and serve; returns the address and the port, which the kernel chose if 0 was asked for."""
        address = (self._web.host, self._web.port)
        try:
            bound = socket.create_server(address, family=_family(self._web.host), backlog=BACKLOG)
        except OSError as error:
            raise UsageError(
                f"cannot serve HTTP on {address[0]} port {address[1]}: {error.strerror or error}; "
                "set [web] host and port to an address of this machine that is free, or [web] enabled = false"
            ) from error
        self._socket = HttpListener(bound, self._web)
        # Inherited by every connection. asyncio would set it, but not where Python made the socket without naming TCP;
        # without it each answer waits 40 ms for the acknowledgement of its head.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = self._socket.getsockname()[:2]
        self._thread.start()
        if not self._server.ready.wait(START_SECONDS) or not self._server.started:
            raise UsageError("the web server did not start: the log tells why")
        if self._tls is None and not self._web.trusted_proxies and not is_loopback(self._web.host):
            log.warning("web_without_tls", detail="passwords cross the network as they are: set [web] tls_certificate")
        return str(host), int(port)

    @property
    def is_alive(self) -> bool:
        """Whether requests are served."""
        return self._thread.is_alive()

    def stop(self, seconds: float) -> None:
        """Take no more requests and let those under way finish, for `seconds` at most."""
        if self._socket is None:
            return
        self._app.state.stopping.set()
        self._server.end()
        self._thread.join(seconds)
        self._server.force_exit = True
        self._thread.join(1.0)

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket] if self._socket else None)
        except Exception:
            log.exception("web_server_failed")
        finally:
            self._server.ready.set()


def _config(web: Web, app: FastAPI, tls: ssl.SSLContext | None) -> uvicorn.Config:
    proxies = [str(network) for network in web.trusted_proxies]
    return uvicorn.Config(
        app,
        http=type("_BoundedProtocol", (_Protocol,), {"most": web.maximum_connections}),
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
        limit_concurrency=web.maximum_connections,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


class _Protocol(H11Protocol):
    """Hangs up on connections that do not come to a request, for which uvicorn would wait for ever.

    uvicorn counts connections when they ask, and answers 503 if there are too many. Those that never ask count too: of
    them the one that has waited longest gives way, so that strangers who connect and say nothing keep nobody out.
    """

    most: ClassVar[int]
    _head_timer: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        self._make_room()

    def _make_room(self) -> None:
        living = [one for one in self.connections if isinstance(one, _Protocol) and not one.transport.is_closing()]
        idle = [one for one in living if one.is_idle and one is not self]
        if len(living) >= self.most and idle:
            min(idle, key=lambda one: one._idle_since).transport.close()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, nor has begun to come."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_head()

    def _await_head(self) -> None:
        self._cancel()
        self._idle_since = monotonic()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        if self.is_idle:
            self.timeout_keep_alive_handler()

    def _cancel(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()


class _Server(uvicorn.Server):
    """Tells when it is ready; leaves the signals to the command that serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_Complaints())
        await super().startup(sockets=sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Keep the Date up to date until the end; uvicorn's own wakes ten times a second."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), TICK_SECONDS)

    def end(self) -> None:
        """Have the main loop end at once; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # closed: it has ended
                self._loop.call_soon_threadsafe(self._ending.set)


class _Complaints:
    """Tells the log what the event loop could not do, of many alike one."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        reason = error.strerror or str(error) if isinstance(error, OSError) else context["message"]
        now = monotonic()
        if now - self._told.get(reason, -COMPLAINT_SECONDS) >= COMPLAINT_SECONDS:
            self._told[reason] = now
            log.error("web_event_loop", reason=reason, exc_info=None if isinstance(error, OSError) else error)
        if len(self._told) > 100:
            self._told.clear()


class HttpListener(socket.socket):
    """A listening socket that hangs up at once on more connections than the configuration allows, whatever they do.

    Here rather than where a connection is served: one that never ends its TLS handshake is not known there, and takes
    a file descriptor all the same.
    """

    def __init__(self, bound: socket.socket, web: Web) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._most = web.maximum_connections + SPARE_CONNECTIONS
        self._most_of_address = MAX_CONNECTIONS_PER_ADDRESS
        self._proxies = web.trusted_proxies
        self._taken: list[tuple[socket.socket, str]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """As that of a socket.

        Raises
        ------
        ConnectionAbortedError
            It is one too many.
        """
        taken, address = super().accept()
        self._taken = [(each, of) for each, of in self._taken if each.fileno() >= 0]
        if len(self._taken) >= self._most or self._is_one_too_many(address[0]):
            taken.close()
            raise ConnectionAbortedError
        self._taken.append((taken, neighbourhood_of(address[0])))
        return taken, address

    def _is_one_too_many(self, host: str) -> bool:
        neighbourhood = neighbourhood_of(host)
        if sum(of == neighbourhood for _, of in self._taken) < self._most_of_address:
            return False
        return not any(ip_address(host) in proxies for proxies in self._proxies)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
