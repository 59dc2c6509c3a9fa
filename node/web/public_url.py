"""The URL of the node as its clients reach it."""

from __future__ import annotations

from fastapi import Request

from node.web.principal import DEFAULT_PORTS, is_forwarded
from node.web.services import Services


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
