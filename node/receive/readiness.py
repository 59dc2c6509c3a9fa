"""Readiness: is everything that is received stored, indexed and converted, and if not, why?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from node.receive.apply import Applier
from node.receive.ingest import Ingest

MAX_LAG_SECONDS = 60.0
"""Longer than that, received instances are not found by queries and not converted: somebody should look."""


def reasons_not_ready(ingest: Ingest, parts: Mapping[str, Callable[[], str | None]]) -> dict[str, str]:
    """Return why a node is not ready, by part; empty if it is.

    Parameters
    ----------
    parts : mapping of name to callable
        Each returns what is wrong with one of the other parts of the node, or None.
    """
    intake = ingest.archive.intake
    shortage = f"an error for lack of room, less than a minute ago: {intake.shortage}" if intake.shortage else None
    reasons = {
        "intake": ingest.refusal() or shortage,
        "index": None if ingest.index.is_alive else "the writer of the index has stopped: restart the node",
        "journal": _lag(ingest.applier),
        **{name: trouble() for name, trouble in parts.items()},
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _lag(applier: Applier) -> str | None:
    seconds = applier.lag_seconds
    if seconds <= MAX_LAG_SECONDS:
        return None
    return (
        f"{applier.lag} received instances have not been in the index for {seconds:.0f} s: they are safe in the "
        "journal; look for a program that locks index.sqlite, for room on the disk, and at the log"
    )
