"""Who a request is of, and where it comes from."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from node.index.rows.records import Share
from node.index.rows.scope import Scope
from node.index.rules.people.accounts import KnownAccount, Role
from node.runtime.budget import Standing
from node.settings.core import Web

Kind = Literal["local", "session", "password", "token", "provider", "job", "link"]
"""By what somebody is known: nothing on this machine, a cookie, a name and a password, a token of the node, one of the
identity provider, the token of a job, a link."""

COOKIE, SECURE_COOKIE = "voxelnode", "__Host-voxelnode"
"""Names of the session cookie; browsers accept the second one only over HTTPS and only from this host."""

DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is of, with a role; `token` is the label of its token, `session` its session, `share` its link.

    `routes`: those that its token is for; empty: all.

    `scope`: what it sees of the index; None: the whole. `projects`: the row ids of its projects, if it has a scope.
    """

    kind: Kind
    name: str
    role: Role
    scope: Scope | None = None
    token: str = ""
    session: int | None = None
    share: Share | None = None
    routes: tuple[str, ...] = ()
    projects: frozenset[int] = field(default=frozenset(), compare=False)

    @property
    def standing(self) -> Standing:
        """The rank where places are taken."""
        return Standing.ADMINISTRATOR if self.role is Role.ADMIN else Standing.PROVEN


LOCAL = Principal("local", "local", Role.ADMIN)
"""Whoever is on this machine if [web] authentication requires no account."""


def scope_of(known: KnownAccount) -> Scope | None:
    """Return what an account sees of the index; None: the whole."""
    return Scope(known.name, groups=known.groups) if known.is_limited else None


def address_of(request: HTTPConnection) -> str:
    """Return the address of the client; behind one of [web] trusted_proxies, the address forwarded by the proxy."""
    return request.client.host if request.client is not None else ""


def is_forwarded(request: HTTPConnection) -> bool:
    """Return whether a proxy forwarded the request: it may come from anywhere even if the connection is local."""
    return any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))


def cookie_name(request: HTTPConnection) -> str:
    """Return the name of the session cookie. Over HTTPS the plain name is ignored: anyone on the network can set it."""
    return SECURE_COOKIE if request.url.scheme in ("https", "wss") else COOKIE


def session_cookie(request: HTTPConnection) -> str:
    """Return the value of the session cookie, or an empty string."""
    return request.cookies.get(cookie_name(request), "")


def has_token(headers: Headers) -> bool:
    """Return whether the `Authorization` header has a token, valid or not."""
    return headers.get("authorization", "").lower().startswith("bearer ")


def own_names(web: Web) -> frozenset[str]:
    """Return the configured host names of the node, some with a port."""
    return frozenset(name.lower() for name in (*web.allowed_hosts, urlsplit(web.public_url).netloc) if name)


def is_own_origin(origin: str, headers: Headers, scheme: str, names: Collection[str]) -> bool:
    """Return whether an origin is that of our own pages; `names` are `own_names`.

    It may be that of a reverse proxy with HTTPS, under a name of [web] allowed_hosts. A proxy that is not in [web]
    trusted_proxies does not say that the browser used HTTPS, and may not forward the name. The port is the default one,
    that of `allowed_hosts`, or that of the forwarded name.
    """
    if origin == _own_origin(headers, scheme):
        return True
    name, host = origin.removeprefix("https://"), headers.get("host", "").lower()
    is_forwarded = name == host and host.partition(":")[0] in names
    return name != origin and (name in names or is_forwarded)


def is_from_cors_origin(headers: Headers, scheme: str, cors_origins: Collection[str]) -> bool:
    """Return whether the request comes from a page of [web] cors_origins, not from one of ours.

    Its script must send a token. Cookies and passwords, which browsers add automatically, do not count, and neither
    does a local connection: the page comes from elsewhere.
    """
    origin = headers.get("origin", "").lower()
    if headers.get("sec-fetch-site") == "same-origin" or origin == _own_origin(headers, scheme):
        return False
    return origin in {cors_origin.lower() for cors_origin in cors_origins}


def _own_origin(headers: Headers, scheme: str) -> str:
    """Return the origin of our own pages in the browser that sent a request (RFC 6454 6.2): no default port."""
    host = headers.get("host", "").lower()
    return f"{scheme}://{host.removesuffix(DEFAULT_PORTS.get(scheme, ''))}"
