"""The wait between two attempts at the same thing: a conversion, a message of a hook, the result of a commitment."""

from __future__ import annotations

FIRST_WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS = 3600.0


def wait_seconds(attempts: int) -> float:
    """Return how long to wait after `attempts` failures: twice as long after each, up to an hour."""
    return min(FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 60), MAX_WAIT_SECONDS)
