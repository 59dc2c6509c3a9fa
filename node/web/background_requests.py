"""Requests that an open page repeats by itself: they are no activity of a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.types import Scope

_Route = TypeVar("_Route", bound=Callable[..., object])

_background_routes: set[object] = set()


def background_request(route: _Route) -> _Route:
    """Mark a route that pages poll: it extends no session and writes no log line."""
    _background_routes.add(route)
    return route


def is_background(scope: Scope) -> bool:
    """Return whether a request, once it is routed, is for such a route."""
    return scope.get("endpoint") in _background_routes
