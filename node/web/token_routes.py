"""The routes for which a token is good: groups by name, and paths with everything below them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from node.errors import UsageError

GROUPS = {"dicomweb": ("/dicom-web", "/wado"), "rest": ("/api/v1",), "metrics": ("/metrics",)}
"""Groups of routes, with the paths of each."""

MAX_ROUTES, MAX_CHARACTERS = 20, 1000
"""Of one token; `tokens.routes` holds them in one column."""

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def require_routes(routes: Sequence[str]) -> tuple[str, ...]:
    """Return groups and paths without repetition, or raise UsageError if one of them is neither."""
    known = tuple(dict.fromkeys(routes))
    for route in known:
        if route not in GROUPS and not _PATH.fullmatch(route):
            raise UsageError(
                f"{route!r} is neither a group of routes ({', '.join(GROUPS)}) nor a path such as /api/v1/studies"
            )
    if len(known) > MAX_ROUTES or sum(map(len, known)) + len(known) > MAX_CHARACTERS:
        raise UsageError(f"a token is for {MAX_ROUTES} routes at most, with {MAX_CHARACTERS} characters in all")
    return known


def covers(routes: Sequence[str], path: str) -> bool:
    """Return whether a token with these routes is good for a path; without routes it is good for every path."""
    paths = [path for route in routes for path in GROUPS.get(route, (route,))]
    return not routes or any(path == one or path.startswith(f"{one}/") for one in paths)
