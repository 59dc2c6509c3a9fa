"""The wait between attempts at a conversion, a message to a hook, or the report of a commitment."""

from __future__ import annotations

FIRST_WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS = 3600.0


def wait_seconds(attempts: int) -> float:
    """Return the seconds to wait after `attempts` failures: doubled after each, up to an hour."""
    return min(FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 60), MAX_WAIT_SECONDS)
