"""Requests that open pages and probes repeat automatically, which do not count as user activity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.types import Scope

_Route = TypeVar("_Route", bound=Callable[..., object])

_background_routes: set[object] = set()


def background_request(route: _Route) -> _Route:
    """Mark a route that programs poll: its requests extend no session and write no log line."""
    _background_routes.add(route)
    return route


def is_background(scope: Scope) -> bool:
    """Return whether a request, already routed, is for a route marked by `background_request`."""
    return scope.get("endpoint") in _background_routes
