"""What every request passes, outermost first: the log, checks of Host and Origin, places, and limits on bodies."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from functools import lru_cache
from threading import get_ident
from time import monotonic, perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from node.runtime.budget import Caller, Claim, Stage, calling, remember
from node.runtime.metrics import Metrics
from node.settings.core import Web
from node.web.access import SAFE_METHODS, is_background
from node.web.headers import add_headers
from node.web.monitoring import PATHS
from node.web.principal import (
    COOKIE,
    SECURE_COOKIE,
    address_of,
    has_token,
    is_from_cors_origin,
    is_own_origin,
    own_names,
)
from node.web.problem_types import BODY_TOO_LARGE, BUSY, FOREIGN_HOST, FOREIGN_PAGE, UNSUPPORTED_BODY, ProblemType
from node.web.problems import RETRY, respond
from node.web.routes_by_path import HttpMiddleware, template_of

log = structlog.get_logger()

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLog(HttpMiddleware):
    """ASGI middleware: one log line for each answered request, of refused and public ones a few, and `/metrics`.

    The line contains the route, such as ``/studies/{study_instance_uid}``, and never the path or query, which contain
    UIDs and names.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        super().__init__(app)
        self._metrics = metrics

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = perf_counter(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with bound_contextvars(address=address_of(HTTPConnection(scope))):
                await self._app(scope, receive, send_noted)
        finally:
            self._log(scope, status or 500, perf_counter() - began)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = template_of(scope)
        self._metrics.http_requests.labels(method=method, status=str(status)).inc()
        self._metrics.http_seconds.observe(seconds)
        request = HTTPConnection(scope)
        account = getattr(request.state, "account", None)
        is_asked = route and not is_background(scope)  # not stylesheets and scripts, nor what programs poll
        level = log.info if is_asked or status >= 400 else log.debug
        level(
            "http_request",
            is_refusal=status >= 400 or account is None,  # also a page that is for anybody
            method=method,
            route=route,
            status=status,
            seconds=round(seconds, 4),
            account=account.name if account is not None else "",
            address=address_of(request),
        )


class Security(HttpMiddleware):
    """ASGI middleware: refuses requests for a foreign host name or from a foreign page, and adds the headers.

    Foreign pages: a browser sends the site of the requesting page with each request (``Sec-Fetch-Site``, else
    ``Origin``, with its scheme and port), and no script can change that. A request that changes something must come
    from one of our pages, or from a program, which sends neither header; a program with a session cookie must send one.
    A page of another site can therefore exploit neither a user's login nor, if no account is required, the fact that
    its browser runs on this machine. Pages of [web] cors_origins may send requests, with a token from their script.

    Paths: a slash at the end of a path that no route has is dropped before anything looks at the path. Starlette would
    redirect the client, to an address that clients of a proxy need not reach.

    Locations: where [web] public_url has a path, a redirect to one of our paths is relative to the path of the request,
    so that it is right behind the proxy and beside it.

    Foreign names: a page of another site may point its own host name at our address (DNS rebinding), and the browser
    then treats it as ours. Requests must therefore be for an IP address or for one of our names.
    """

    def __init__(self, app: ASGIApp, web: Web) -> None:
        super().__init__(app)
        self._allowed = own_names(web)
        self._names = self._allowed | {name.lower() for name in ("localhost", *_machine_names())}
        self._cors_origins = web.cors_origins
        self._is_below = bool(urlsplit(web.public_url).path)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_secure, path = scope["scheme"] == "https", scope["path"]
        if path.endswith("/") and all(route.matches(scope)[0] is Match.NONE for route in scope["app"].routes):
            scope["path"] = path.rstrip("/") or "/"

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                add_headers(headers, is_secure=is_secure)
                if self._is_below and headers.get("location", "").startswith("/"):
                    headers["location"] = _beside(path, headers["location"])
            await send(message)

        refusal = self._refusal(scope["method"], scope["scheme"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send_secured)
            return
        await respond(HTTPConnection(scope), *refusal)(scope, receive, send_secured)

    def _refusal(self, method: str, scheme: str, headers: Headers) -> tuple[ProblemType, str] | None:
        """Return the kind of problem and the reason if a request is refused, else None."""
        host = headers.get("host", "").lower()
        if not is_known_host(host, self._names):
            return FOREIGN_HOST, f"{host[:100]!r} is not a name of this node"
        if method not in SAFE_METHODS and not self._is_from_us(headers, scheme):
            return FOREIGN_PAGE, "the request comes from a page of another site"
        return None

    def _is_from_us(self, headers: Headers, scheme: str) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin", "").lower()
        if is_from_cors_origin(headers, scheme, self._cors_origins):
            return has_token(headers)
        if site == "same-origin":
            return True
        if site is not None:
            return site == "none"  # address typed by a user, or opened by a program
        if origin:
            return is_own_origin(origin, headers, scheme, self._allowed)
        cookies = headers.get("cookie", "")
        return f"{COOKIE}=" not in cookies and f"{SECURE_COOKIE}=" not in cookies


def _beside(path: str, location: str) -> str:
    """Return a path of this node as a reference that is relative to another one (RFC 3986 4.2)."""
    return ("../" * (path.count("/") - 1) or "./") + location[1:]


@lru_cache(maxsize=64)  # clients send the same one with each request
def is_known_host(host: str, names: frozenset[str]) -> bool:
    """Return whether a Host header is an IP address or one of `names`, with or without a port.

    No other character of a URL: the rest of it would be taken for the path of the request.
    """
    if any(character in host for character in "/?#@\\"):
        return False
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if host in names or name in names:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _machine_names() -> tuple[str, str]:
    """Return the names known to the machine itself; a DNS server may take seconds, and may not be trustworthy."""
    name = socket.gethostname()
    return name, name.partition(".")[0]


TURNS = 2
"""Requests of one address whose callers are being identified; others of the address wait for their turn."""


REFUSED_SECONDS = 1.0
"""For how long a client whose account or address has no place left is refused at once."""

MAX_REFUSED = 1000


CALLER_TURNS = 16
"""Requests of one caller that are answered at once; each may hold one of the forty HTTP threads."""


class _Turn:
    """A request that is being identified; `is_refused` if there was no place for its caller."""

    def __init__(self, turns: asyncio.Semaphore, of_callers: MutableMapping[str, asyncio.Semaphore]) -> None:
        self._turns, self._loop = turns, asyncio.get_running_loop()
        self._of_callers = of_callers
        self._of_caller: asyncio.Semaphore | None = None
        self._thread = get_ident()
        self._is_over = self.is_refused = False

    def end(self) -> None:
        """Let the next request of the address begin."""
        if not self._is_over:
            self._is_over = True
            self._turns.release()

    async def share(self, caller: str) -> None:
        """Wait until the caller has fewer than `CALLER_TURNS` requests that are not answered; once for a request."""
        if self._of_caller is not None:
            return
        turns = self._of_callers.setdefault(caller, asyncio.Semaphore(CALLER_TURNS))
        await turns.acquire()
        self._of_caller = turns

    def answered(self) -> None:
        """Let the next request of the caller begin."""
        turns, self._of_caller = self._of_caller, None
        if turns is not None:
            turns.release()

    def end_soon(self) -> None:
        """End from any thread. Other threads have to wake the loop."""
        if get_ident() == self._thread:
            self.end()
            return
        with suppress(RuntimeError):  # the loop is already closed
            self._loop.call_soon_threadsafe(self.end)


class AddressTurns:
    """ASGI middleware: each address has a few requests at a time whose caller is not identified yet.

    Finding the route and the caller takes milliseconds of the event loop, so a flood of requests would make all others
    wait. A turn ends when the caller is identified (`node.web.access`), or when the request waits for its client. Who
    had no place is refused by its address and credentials for a second, which costs less.

    A connection counts under the address that a trusted proxy forwards with its request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._of_callers: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._refused_until: dict[tuple[str, ...], float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        claim: Claim | None = scope.get("state", {}).get("claim")
        if claim is None:
            await self._app(scope, receive, send)
            return
        if not claim.address:
            claim.locate(address_of(HTTPConnection(scope)))
        headers, block = Headers(scope=scope), claim.block
        client = block, headers.get("authorization", ""), headers.get("cookie", "")
        if monotonic() < self._refused_until.get(client, 0.0) and scope["path"] not in PATHS:
            await self._refuse(scope, receive, send)
            return
        turns = self._turns.get(block)
        if turns is None:
            turns = self._turns[block] = asyncio.Semaphore(TURNS)
        await turns.acquire()
        turn = scope["state"]["turn"] = _Turn(turns, self._of_callers)
        try:
            if claim.stage is not Stage.EVICTED:
                await self._begin(turn, scope, receive, send)
        finally:
            turn.end()
            turn.answered()
            if turn.is_refused:
                remember(self._refused_until, client, monotonic() + REFUSED_SECONDS, MAX_REFUSED)
        while claim.stage is Stage.EVICTED and (await receive())["type"] != "http.disconnect":
            pass  # until the connection is closed

    async def _begin(self, turn: _Turn, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_next(message: Message) -> None:
            turn.end()
            turn.answered()
            await send(message)

        caller = scope["state"]["caller"] = Caller()
        received: asyncio.Queue[Message] = asyncio.Queue()

        async def watch() -> None:  # what works for a client ends with it
            while (message := await receive())["type"] != "http.disconnect":
                received.put_nowait(message)
            caller.gone.set()
            received.put_nowait(message)

        async def receive_next() -> Message:
            turn.end()
            return await (receive() if watching is None else received.get())

        watching = asyncio.create_task(watch()) if scope["method"] in ("GET", "HEAD") else None
        try:
            with calling(caller):
                await self._app(scope, receive_next, send_next)
        finally:
            if watching is not None:
                watching.cancel()

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = respond(HTTPConnection(scope), BUSY, "too many requests are open already", headers=RETRY | CLOSE)
        add_headers(response.headers, is_secure=scope["scheme"] == "https")
        await response(scope, receive, send)


MAX_BODY_BYTES = 1_000_000
"""Largest body other than an upload; real forms and JSON are a hundred times smaller."""

UPLOADS = "/dicom-web/studies"
"""Bodies below this path are instances (STOW-RS)."""

JOB_FILE = re.compile(r"/api/v1/jobs/[0-9a-f]{32}/files/[^/]+")
"""Path of a file that a receiver of a message gives as a result."""

PATIENCE_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 10_000
"""Minimum average speed of a body after the first `PATIENCE_SECONDS`. Slower clients are disconnected, so that nobody
can keep a connection open byte by byte."""

MAX_LOGIN_BYTES = 4096
"""Largest body of a login: strangers send it."""


class Limit(NamedTuple):
    """The limit of one kind of body; with `bytes_per_second` None, the whole body must arrive in `patience_seconds`."""

    maximum_bytes: int
    patience_seconds: float
    bytes_per_second: int | None


LOGIN_PATHS = frozenset({"/login", "/login/factor", "/logout"})
LOGIN = Limit(MAX_LOGIN_BYTES, 5.0, None)

CLOSE = {"Connection": "close"}
"""Header of responses sent without reading the body."""


MAXIMUM_UPLOAD_BYTES = 16_000_000_000
"""Largest body of a request that stores instances."""


class BodyLimits(HttpMiddleware):
    """ASGI middleware: answers 413, 408 or 415 for bodies that are too large, too slow or compressed.

    The limits are enforced while a body arrives, without buffering it. A compressed body (``Content-Encoding``) may
    expand a thousandfold; DICOM has compression of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        upload_bytes: int,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(app)
        self._upload_bytes, self._patience, self._clock = upload_bytes, patience_seconds, clock

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit(scope["path"])
        refusal = _refusal(Headers(scope=scope), limit.maximum_bytes)
        if refusal is None:
            await self._app(scope, self._counted(receive, limit), send)
        else:
            await respond(Request(scope), *refusal, headers=CLOSE)(scope, receive, send)

    def _limit(self, path: str) -> Limit:
        if path in LOGIN_PATHS:
            return LOGIN
        is_upload = path.startswith(UPLOADS) or JOB_FILE.fullmatch(path) is not None
        max_bytes = self._upload_bytes if is_upload else MAX_BODY_BYTES
        return Limit(max_bytes, self._patience, MIN_BYTES_PER_SECOND)

    def _counted(self, receive: Receive, limit: Limit) -> Receive:
        waited, count, is_whole = 0.0, 0, False

        async def receive_counted() -> Message:
            nonlocal waited, count, is_whole
            if is_whole:  # the next message is the disconnect, whenever it happens
                return await receive()
            earned = count / limit.bytes_per_second if limit.bytes_per_second is not None else 0.0
            began, left = self._clock(), limit.patience_seconds + earned - waited
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.0))
            except TimeoutError:
                raise HTTPException(408, "the request body arrived too slowly", CLOSE) from None
            waited += self._clock() - began  # count only time spent waiting for the client; our disk may be slow too
            count += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if count > limit.maximum_bytes:
                raise HTTPException(413, _too_large(limit.maximum_bytes), CLOSE)
            return message

        return receive_counted


def _refusal(headers: Headers, max_bytes: int) -> tuple[ProblemType, str] | None:
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        return UNSUPPORTED_BODY, f"compressed request bodies are not accepted; Content-Encoding is {encoding[:32]!r}"
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        return BODY_TOO_LARGE, _too_large(max_bytes)
    return None


def _too_large(max_bytes: int) -> str:
    return f"the request body is larger than {max_bytes} bytes"
