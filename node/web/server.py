"""The HTTP server: uvicorn in a thread of its own, and the connections that have a place in its budget."""

import asyncio
import logging
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from time import monotonic
from typing import Any, cast

import structlog
import uvicorn
from fastapi import FastAPI
from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from node.errors import UsageError
from node.runtime.budget import Budget, Claim, Limits, Standing
from node.runtime.network import is_loopback
from node.runtime.tls import server_context
from node.settings.core import Web

log = structlog.get_logger()

BACKLOG = 128
START_SECONDS = 10.0
TICK_SECONDS = 1.0
"""Interval at which the Date header is updated; an idle server does nothing else."""

HEAD_BYTES, HEAD_LINES = 131_072, 200
"""Longest request line with headers, and most headers; others are answered 400. A search may name two thousand UIDs in
its URL. As many bytes may come between two pieces of a body, of what is no part of it: trailers, extensions of chunks.
A packet is taken whole, which has 256 KB at most."""

UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
"""Is ignored, as HTTP lets a server do: Java's client sends it with bodies, which the parser would take for what comes
after it. In a head that comes in pieces it may be overlooked: with a body, it is refused then."""

HEADS_WAITING = 8
"""Requests of a connection that wait for the answer to the one before."""

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
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it would warn about every malformed request
        limits = Limits(
            MAXIMUM_CONNECTIONS,
            PER_ADDRESS,
            PER_ACCOUNT,
            pending=MAXIMUM_CONNECTIONS,
            reserved=MAXIMUM_CONNECTIONS // ADMINISTRATORS_SHARE,
            reserved_for=Standing.ADMINISTRATOR,
        )
        app.state.budget = Budget("web", limits, app.state.services.metrics)
        self._server = _Server(web, app, self._tls)
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._socket: socket.socket | None = None

    def start(self, bound: socket.socket) -> None:
        """Serve at a socket that listens."""
        self._socket = bound
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


class _Protocol(HttpToolsProtocol):
    """A connection from its acceptance to its end; it has no transport before the end of its TLS handshake.

    Its client is held to bounds that uvicorn does not have. What comes behind `HEADS_WAITING` requests that wait is not
    read: the connection ends with their answers, and its client asks again (RFC 9112 9.3.2).
    """

    def __init__(self, connection: socket.socket, address: str, budget: Budget, **options: Any) -> None:
        super().__init__(**options)
        self._connection, self._address, self._budget = connection, address, budget
        self.claim = Claim(self, address)
        self.app_state = {**self.app_state, "claim": self.claim}  # the state of each request
        self._taken = self._read = self._unread = 0
        self._read_at = self._idle_since = monotonic()
        self._is_in_body = self._is_deaf = False
        self._unanswered: list[RequestResponseCycle] = []
        budget.connect(self.claim)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = monotonic()

    def data_received(self, data: bytes) -> None:
        if not self.is_served:
            self.claim.moved(len(data))
        if not self._is_in_body:
            head, end, body = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"", head) + end + body
        self._unread += len(data)
        if not self._is_deaf:
            super().data_received(data)
            if self._unread > HEAD_BYTES and not self._is_deaf:
                self.send_400_response("Too many bytes that are no body.")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= HEADS_WAITING:
            raise HttpParserError("behind too many requests without an answer")
        self._leave()  # behind a proxy, another client may ask
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:
            return  # of a trailer: what was asked has been decided upon
        if len(self.headers) >= HEAD_LINES:
            raise HttpParserError("too many headers")
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Begin to answer a request, unless a proxy may read it otherwise (RFC 9112 11.2)."""
        framing = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if sum(name == b"host" for name, _ in self.headers) != 1 or framing not in ([], [b"chunked"]):
            raise HttpParserError("not one host, or another coding than chunked")
        if self.parser.should_upgrade() and (framing or b"content-length" in dict(self.headers)):
            raise HttpParserError("an upgrade with a body")
        self.url, _, query = self.url.partition(b"?")  # may be longer than the parser of URLs takes
        waiting = [] if self.is_idle else self._unanswered
        super().on_headers_complete()
        self._unanswered = [*waiting, self.cycle]
        self.scope["query_string"], self._is_in_body, self._unread = query, True, 0
        if self.scope["http_version"] == "1.0":
            _without_chunks(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_body, self._unread = False, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Read nothing more: answer what is no request, or close the connection after the answer that is under way."""
        self._is_deaf = True
        if not self.is_idle and not self._is_in_body:
            self.cycle.keep_alive = False
            return
        log.info("web_request_refused", address=self.claim.address, is_refusal=True)
        if self._is_in_body and (self.pipeline or self.cycle.response_started):
            self.transport.abort()
            return
        super().send_400_response(msg)

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_under_way(self) -> bool:
        """Whether a request is under way, or the client has not taken all of the last answer."""
        return not self.is_idle or self._unsent_bytes > 0

    @property
    def is_served(self) -> bool:
        """Whether it is the node's turn: the client has no more to send of its request, or to take of its answer."""
        if self.is_idle:
            return False
        is_sending = self.cycle.more_body and not self.flow.read_paused
        return not is_sending and self._unsent_bytes == 0

    @property
    def _unsent_bytes(self) -> int:
        """What the client has not taken yet; over TLS, part of it is counted nowhere."""
        with suppress(RuntimeError):  # closed
            return max(self.transport.get_write_buffer_size(), int(self.flow.write_paused))
        return 0

    def check(self, now: float) -> None:
        """Disconnect who asks for nothing, or takes too little of what waits for it, also after its request."""
        if self not in self.connections:
            return
        if self.is_idle and now - self._idle_since > HEAD_SECONDS:
            self.transport.close()
        try:
            # What was acknowledged so far: the kernel holds megabytes for a client, and our buffer shows only bursts.
            info = self._connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
            taken = int(struct.unpack_from("Q", info, BYTES_ACKED_OFFSET)[0])
        except (OSError, struct.error, AttributeError):  # closed, a kernel before 4.1, or macOS
            taken = self._taken
        self.claim.moved(taken - self._taken)
        self._read += taken - self._taken
        self._taken = taken
        if self._unsent_bytes == 0 or self._read >= READ_BYTES:
            self._read, self._read_at = 0, now
        elif now - self._read_at > READ_SECONDS:
            log.info("web_reader_dropped", address=self.claim.address)
            self.transport.abort()
        self._leave()

    def _leave(self) -> None:
        """Leave the place unless an answer is under way; one that is not taken occupies memory."""
        if self in self.connections and not self.is_under_way:
            self._budget.leave(self.claim)
            self.claim.standing, self.claim.caller = Standing.STRANGER, ""
            self.claim.locate(self._address)

    def hang_up(self) -> None:
        """Close the connection, or have its TLS handshake fail. Thread-safe."""
        with suppress(OSError, RuntimeError):  # already disconnected, or the loop is closed
            if self in self.connections:
                self.loop.call_soon_threadsafe(self.transport.abort)
            else:
                self._connection.shutdown(socket.SHUT_RDWR)

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget()
        for cycle in self._unanswered:  # uvicorn tells the last one alone
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def forget(self) -> None:
        """Leave nothing of a closed connection in a cycle of references: it would keep 60 KB of OpenSSL."""
        self._budget.remove(self.claim)
        del self.claim, self.app_state
        self.parser = None  # type: ignore[assignment]

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle_since = monotonic()
        if not self.transport.is_closing():
            self.loop.call_soon(self._leave)  # when what can be sent is sent


def _without_chunks(cycle: RequestResponseCycle) -> None:
    """Let an answer of unknown length end with its connection, for HTTP/1.0 (RFC 9112 6.1)."""
    send, cycle.chunked_encoding = cycle.send, False

    async def send_piece(message: Any) -> None:
        cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_piece  # type: ignore[method-assign]


class _Server(uvicorn.Server):
    """Sets an event when it is ready; leaves signals to the `serve` command."""

    def __init__(self, web: Web, app: FastAPI, tls: ssl.SSLContext | None) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            loop="uvloop",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(web.trusted_proxies),
            forwarded_allow_ips=[str(network) for network in web.trusted_proxies],
            timeout_keep_alive=IDLE_SECONDS,
        )
        super().__init__(config)
        self._proxies, self._budget, self._tls = web.trusted_proxies, app.state.budget, tls
        self.ready = threading.Event()
        self.tick: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()
        self._opening = set[asyncio.Task[None]]()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_log_error)
        await super().startup(sockets=[])
        (self._listener,) = sockets or []
        self._listener.setblocking(False)
        self.ready.set()

    async def main_loop(self) -> None:
        """Update the Date header and check the connections; uvicorn's own loop would wake ten times a second."""
        loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            loop.add_reader(self._listener, self._accept, loop)
            for claim in self._budget.all():
                cast(_Protocol, claim.holder).check(monotonic())
            self.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), TICK_SECONDS)
        loop.remove_reader(self._listener)

    def _accept(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept all connections that wait: uvloop would not show those that never end their TLS handshake.

        One at a time would wait for all requests under way, a turn of the loop each. Where no more files can be open,
        it is tried again at the next tick.
        """
        try:
            for _ in range(BACKLOG):
                connection, (host, *_) = self._listener.accept()
                self._opening.add(task := loop.create_task(self._open(loop, connection, host)))
                task.add_done_callback(self._opening.discard)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                loop.remove_reader(self._listener)
                _log_error(loop, {"exception": error})

    async def _open(self, loop: asyncio.AbstractEventLoop, connection: socket.socket, host: str) -> None:
        address = "" if any(ip_address(host) in proxy for proxy in self._proxies) else host
        options = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        protocol, tls = _Protocol(connection, address, self._budget, **options), self._tls
        try:
            await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=tls, ssl_handshake_timeout=HEAD_SECONDS if tls else None
            )
        except OSError as error:
            error.with_traceback(None)  # a cycle of references
        if cast(Any, protocol).transport is None:
            protocol.forget()

    def end(self) -> None:
        """End the main loop at once. Thread-safe."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is already closed
                self._loop.call_soon_threadsafe(self._ending.set)

    def end_by_force(self) -> None:
        """Drop connections with unfinished requests. Thread-safe."""
        self.force_exit = True
        self._budget.hang_up()


def _log_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop, which reports every connection that it cannot accept."""
    error = context.get("exception")
    reason = error.strerror or str(error) if isinstance(error, OSError) else context["message"]
    shown = None if isinstance(error, OSError) else error
    log.error("web_event_loop", reason=reason, exc_info=shown, is_refusal=True)
