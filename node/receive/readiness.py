"""Readiness: is everything that is received stored, indexed and converted, and if not, why?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from node.archive.root import MOUNT
from node.index.engine.sqlite_file import LOCKED
from node.settings.core import Role

if TYPE_CHECKING:
    from node.receive.apply import Applier
    from node.receive.ingest import Ingest

MAX_LAG_SECONDS = 60.0
"""Longer than that, received instances are not found by queries and not converted: somebody should look."""

NEEDED: Mapping[Role, frozenset[str]] = {
    "receive": frozenset({"intake", "listener", "tls listener", "drain"}),
    "convert": frozenset({"intake", "object store", "index", "server of the index", "cluster", "worker", "drain"}),
    "web": frozenset({"index", "cluster", "web", "drain"}),
}
"""The parts without which a host does not do what a role is for."""

_RESTART = "see the log; restart the node"

_REMEDIES = {
    "intake": "free space on its disk; it resumes by itself",
    "journal": "end what locks the index, or free space on its disk; have what `voxelnode lost list` names sent again",
    "object store": "instances stay on the local disk until it works; correct [storage], the bucket or its rights",
    "server of the index": "start PostgreSQL, or mend the way to it; the node goes on by itself",
    "cluster": "start PostgreSQL, or mend the way to it; the node goes on by itself",
    "drain": "start the host again once it has ended",
}
_REMEDIES_BY_REASON = {
    LOCKED: "end that program; the node goes on by itself",
    MOUNT: "mount it; a restart is not needed",
    "intake has stopped": _RESTART,
}
"""What helps if a reason has these words, whichever part has it."""

NEEDED_TO_ACKNOWLEDGE = frozenset({"index", "server of the index", "cluster"})
"""Further parts that a receiver needs, unless it acknowledges from its own journal."""


def reasons_not_ready(
    ingest: Ingest, parts: Mapping[str, Callable[[], str | None]], role: Role | None = None
) -> dict[str, str]:
    """Return why a node is not ready, by part; empty if it is.

    `parts`: each returns what is wrong with one of the other parts of the node, or None. `role`: look only at what this
    role needs; None: at everything that a person should look at.
    """
    intake = ingest.archive.intake
    shortage = f"an error for lack of room, less than a minute ago: {intake.shortage}" if intake.shortage else None
    reasons = {
        "intake": ingest.refusal() or shortage,
        "index": None if ingest.index.is_alive else "the writer of the index has stopped: restart the node",
        "journal": _lag(ingest.applier) or _gap(ingest.gaps),
        **{name: trouble() for name, trouble in parts.items()},
    }
    found = {name: reason for name, reason in reasons.items() if reason is not None}
    remote = ingest.archive.remote
    if remote is not None and remote.is_away and (role is not None or remote.foreign):
        found["object store"] = remote.foreign or "it does not answer"
    elif remote is not None and remote.unkept is not None:
        found["object store"] = f"it cannot be relied on: {remote.unkept}; the files stay here"
    if role is None:
        return found
    needed = NEEDED[role]
    if role == "receive" and ingest.acknowledgement is not None:
        needed |= NEEDED_TO_ACKNOWLEDGE
    return {name: reason for name, reason in found.items() if name in needed}


def remedy_of(part: str, reason: str) -> str:
    """Return what a person does about a part that is not ready."""
    by_reason = (remedy for words, remedy in _REMEDIES_BY_REASON.items() if words in reason)
    return next(by_reason, _REMEDIES.get(part, _RESTART))


def _gap(gaps: Sequence[str]) -> str | None:
    return f"{gaps[0]}; `voxelnode lost list` lists the gaps" if gaps else None


def _lag(applier: Applier) -> str | None:
    seconds = applier.lag_seconds
    if seconds <= MAX_LAG_SECONDS:
        return None
    return (
        f"{applier.waiting} received instances have not been in the index for {seconds:.0f} s: they are safe in the "
        "journal; look for a program that locks index.sqlite, for room on the disk, and at the log"
    )
