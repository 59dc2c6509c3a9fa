"""One log line for each answered request, and its duration for `/metrics`.

The line contains the route, such as ``/studies/{study_instance_uid}``, and never the path or query, which contain UIDs
and names.
"""

from __future__ import annotations

from time import perf_counter

import structlog
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.metrics import Metrics
from node.web.access import address_of
from node.web.background_requests import is_background

log = structlog.get_logger()

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLog:
    """ASGI middleware: logs method, route, status, seconds, account and address."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
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
            method=method,
            route=route,
            status=status,
            seconds=round(seconds, 4),
            account=account.name if account is not None else "",
            address=address_of(request),
        )


def template_of(scope: Scope) -> str:
    """Return the path of a request with the names of its parameters instead of their values; empty without a route."""
    if "route" not in scope:
        return ""
    names = {str(value): name for name, value in scope.get("path_params", {}).items()}
    if any("/" in value for value in names):
        return str(scope["route"].path)
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in scope["path"].split("/"))
