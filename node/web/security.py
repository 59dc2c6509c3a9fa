"""Checks of Host and Origin for every request, and headers for every response."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.settings.model import Web
from node.web.access import COOKIE, SECURE_COOKIE, has_token, is_from_cors_origin, own_origin
from node.web.headers import add_headers
from node.web.problem_types import FOREIGN_HOST, FOREIGN_PAGE, ProblemType
from node.web.problems import respond

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing, RFC 9110 9.2.1."""


class Security:
    """ASGI middleware: refuses requests for a foreign host name or from a foreign page, and adds the headers.

    Foreign pages: a browser sends the site of the requesting page with each request (``Sec-Fetch-Site``, else
    ``Origin``, with its scheme and port), and no script can change that. A request that changes something must come
    from one of our pages, or from a program, which sends neither header; a program with a session cookie must send one.
    A page of another site can therefore exploit neither a user's login nor, if no account is required, the fact that
    its browser runs on this machine. Pages of [web] cors_origins may send requests, with a token from their script.

    Foreign names: a page of another site may point its own host name at our address (DNS rebinding), and the browser
    then treats it as ours. Requests must therefore be for an IP address or for one of our names.
    """

    def __init__(self, app: ASGIApp, web: Web) -> None:
        self._app = app
        self._allowed = frozenset(
            name.lower() for name in (*web.allowed_hosts, urlsplit(web.public_url).netloc) if name
        )
        self._names = self._allowed | {name.lower() for name in ("localhost", *_machine_names())}
        self._cors_origins = web.cors_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_secure = scope["scheme"] == "https"

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_headers(MutableHeaders(scope=message), is_secure=is_secure)
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
            return origin == own_origin(headers, scheme) or self._is_of_proxy(origin, headers.get("host", "").lower())
        return not _has_session(headers)

    def _is_of_proxy(self, origin: str, host: str) -> bool:
        """Return whether an origin is that of a reverse proxy with HTTPS, under a name of [web] allowed_hosts.

        A proxy that is not in [web] trusted_proxies does not say that the browser used HTTPS, and may not forward the
        name. The port is the default one, that of `allowed_hosts`, or that of the forwarded name.
        """
        name = origin.removeprefix("https://")
        is_forwarded = name == host and host.partition(":")[0] in self._allowed
        return name != origin and (name in self._allowed or is_forwarded)


def is_known_host(host: str, names: Collection[str]) -> bool:
    """Return whether a Host header is an IP address or one of `names`, with or without a port."""
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


def _has_session(headers: Headers) -> bool:
    cookies = headers.get("cookie", "")
    return f"{COOKIE}=" in cookies or f"{SECURE_COOKIE}=" in cookies
