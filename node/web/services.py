"""The parts of the node used by routes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from node.archive.filesystem import Archive
from node.audit.audit_log import Audit
from node.children.decoder import Decoder
from node.index.database import Index
from node.index.rows.records import Refused
from node.receive.ingest import Ingest
from node.receive.results import Results
from node.receive.stored_files import RecentlyVerified
from node.runtime.metrics import Metrics
from node.settings.core import Role
from node.settings.model import Settings
from node.web.principal import DEFAULT_PORTS, is_forwarded


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running node; `actions` are those of `node.control.actions.Actions`."""

    settings: Settings
    archive: Archive
    index: Index
    ingest: Ingest
    metrics: Metrics
    audit: Audit
    actions: Mapping[str, Callable[..., Mapping[str, Any]]]
    decoder: Decoder
    results: Results
    verified: RecentlyVerified = field(default_factory=RecentlyVerified)
    not_ready: Callable[[Role | None], dict[str, str]] = lambda role: {}
    """Returns why the node is not ready for a role, or for all: see `node.receive.readiness.reasons_not_ready`."""
    dicom_port: Callable[[], int] | None = None
    """The port on which DICOM is received, which is only known once the node listens; None: that of the settings."""
    on_refusal: Callable[[Refused], None] = lambda refused: None
    """Called with each refused instance (see `node.receive.senders`)."""


def _services(request: HTTPConnection) -> Services:
    services: Services = request.app.state.services
    return services


Node = Annotated[Services, Depends(_services)]
"""Parameter of a route: the node."""


def public_url(request: Request) -> str:
    """Return the URL of this node as the client of a request reaches it, without a trailing slash.

    It is [web] public_url if that is set. Otherwise it is the address of the request. Some clients leave the port out
    of the Host header although it is not the default one; the port of the listening socket replaces it, unless a proxy
    forwarded the request, since clients reach the proxy at a port of its own.
    """
    services: Services = request.app.state.services
    if services.settings.web.public_url:
        return services.settings.web.public_url
    scheme, host = request.url.scheme, request.url.netloc
    server = request.scope.get("server")
    has_port = ":" in host.rpartition("]")[2]  # an IPv6 address has colons of its own
    if server is None or has_port or is_forwarded(request):
        return f"{scheme}://{host}"
    port = f":{server[1]}"
    return f"{scheme}://{host}{port if port != DEFAULT_PORTS[scheme] else ''}"
