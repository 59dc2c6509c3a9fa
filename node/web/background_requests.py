"""Requests that a page makes by itself, again and again, for as long as it is open: nobody has asked for anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.types import Scope

_Route = TypeVar("_Route", bound=Callable[..., object])

_polled: set[object] = set()


def polled(route: _Route) -> _Route:
    """Mark a route that pages ask by themselves: it prolongs no session, and makes no line of the log."""
    _polled.add(route)
    return route


def is_polled(scope: Scope) -> bool:
    """Whether a request, once it is routed, is for such a route."""
    return scope.get("endpoint") in _polled
