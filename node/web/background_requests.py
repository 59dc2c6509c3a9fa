"""Requests that a page makes by itself, again and again, for as long as it is open: nobody has asked for anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.types import Scope

_Route = TypeVar("_Route", bound=Callable[..., object])

_background_routes: set[object] = set()


def background_request(route: _Route) -> _Route:
    """Mark a route that pages ask by themselves: it prolongs no session, and makes no line of the log."""
    _background_routes.add(route)
    return route


def is_background(scope: Scope) -> bool:
    """Whether a request, once it is routed, is for such a route."""
    return scope.get("endpoint") in _background_routes
