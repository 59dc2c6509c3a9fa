"""How a request comes to its route: past shortcuts, and compared with few routes, by the shape of its path."""

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

_Shape = tuple[str, int]


class HttpMiddleware:
    """ASGI middleware around an application: what is no request over HTTP goes through as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._answer if scope["type"] == "http" else self._app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


Shortcut = Callable[[Scope, Receive, Send], Awaitable[bool]]
"""Answers a request as its route would, or returns False."""


class Shortcuts(HttpMiddleware):
    """ASGI middleware: some requests are answered before they are routed, by what a route adds to `app.state`."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        for shortcut in scope["app"].state.shortcuts:
            if await shortcut(scope, receive, send):
                return
        await self._app(scope, receive, send)


def routes_of(request: Request) -> list[Route]:
    """Return the routes that have the path of a request, whatever their methods."""
    path = request.url.path
    return [route for route in request.app.routes if isinstance(route, Route) and route.path_regex.match(path)]


def methods_of(request: Request) -> set[str]:
    """Return the methods of all routes that have the path of a request."""
    return {method for route in routes_of(request) for method in route.methods or ()}


def template_of(scope: Scope) -> str:
    """Return the path of a request with the names of its parameters instead of their values; empty without a route."""
    if "route" not in scope:
        return ""
    names = {str(value): name for name, value in scope.get("path_params", {}).items()}
    if any("/" in value for value in names):
        return str(scope["route"].path)
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in scope["path"].split("/"))


class RoutesByPath:
    """ASGI application: finds the route of a request among the few that have the shape of its path.

    A node has hundreds of routes, and a router compares a path with one after the other: 0.6 ms of the event loop for
    a request. Among the few, their order is that of all routes, so the first that matches is the same. What none of
    them matches is left to `router`, the router of all.
    """

    def __init__(self, router: APIRouter) -> None:
        self._all: ASGIApp = router.app
        of_routes = [(route, _shape_of_route(route)) for route in router.routes]
        self._by_shape = {
            shape: _router([route for route, its in of_routes if its is None or its == shape], self._all)
            for shape in {shape for _, shape in of_routes if shape is not None}
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        few = self._by_shape.get(_shape(scope["path"])) if scope["type"] == "http" else None
        await (few or self._all)(scope, receive, send)


def _router(routes: Sequence[BaseRoute], default: ASGIApp) -> ASGIApp:
    return APIRouter(routes=list(routes), default=default, redirect_slashes=False).app


def _shape(path: str) -> _Shape:
    return path.split("/", 2)[1] if path.startswith("/") else "", path.count("/")


def _shape_of_route(route: BaseRoute) -> _Shape | None:
    """Return the shape of all paths of a route; None: they have several."""
    if not isinstance(route, Route) or ":path}" in route.path or route.path.startswith("/{"):
        return None
    return _shape(route.path)
