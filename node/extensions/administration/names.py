"""Rules for the names of accounts, and for the routes of their tokens."""

import re
from collections.abc import Sequence

from node.errors import UsageError
from node.web.credentials import GROUPS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def require_name(name: str) -> str:
    """Return `name` if it is a valid account name, else raise UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid account name: use 1 to 64 letters, digits and . _ @ -, "
            "and begin with a letter or digit"
        )
    return name


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
