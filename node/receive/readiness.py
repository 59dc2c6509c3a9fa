"""Readiness: is everything that is received stored, indexed and converted, and if not, why?

The node and its pages ask `reasons_not_ready`. Commands read what a running node writes into its root every three
seconds: why it is not ready, and its counters.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.archive.root import MOUNT
from node.archive.space import disks_of, lack_for_senders
from node.index.rows.sqlite_file import LOCKED

if TYPE_CHECKING:
    from node.receive.apply import Applier
    from node.receive.ingest import Ingest
    from node.settings.core import Role
    from node.settings.model import Settings

MAX_LAG_SECONDS = 60.0
"""Longer than that, received instances are not found by queries and not converted: somebody should look."""

NEEDED: Mapping[Role, frozenset[str]] = {
    "receive": frozenset({"intake", "listener", "tls listener", "drain"}),
    "convert": frozenset({"intake", "object store", "index", "server of the index", "cluster", "worker", "drain"}),
    "web": frozenset({"index", "cluster", "web", "drain"}),
}
"""The parts without which a host does not do what a role is for."""

_RESTART = "see the log; restart the node"

REMEDIES = {
    "intake": "free space on its disk; it resumes by itself",
    "journal": "end what locks the index, or free space on its disk; have what `voxelnode lost list` names sent again",
    "object store": "instances stay on the local disk until it works; correct [storage], the bucket or its rights",
    "server of the index": "start PostgreSQL, or mend the way to it; the node goes on by itself",
    "cluster": "start PostgreSQL, or mend the way to it; the node goes on by itself",
    "drain": "start the host again once it has ended",
}
"""What helps if a part is not ready."""

_REMEDIES_BY_REASON = {
    LOCKED: "end that program; the node goes on by itself",
    MOUNT: "mount it; a restart is not needed",
    "intake has stopped": _RESTART,
}
"""What helps if a reason has these words, whichever part has it."""

NEEDED_TO_ACKNOWLEDGE = frozenset({"index", "server of the index", "cluster"})
"""Further parts that a receiver needs, unless it acknowledges from its own journal."""


LIVE_FILE = "status.json"
"""File in the root of a running node with its recent counters, for other processes."""

MAX_AGE_SECONDS = 15.0
"""A running node writes its state every three seconds."""

LATE_SECONDS = 5.0
"""Once its state is older, a node is asked whether it hangs."""


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
        "index": None if ingest.index.thread.is_alive else "the writer of the index has stopped: restart the node",
        "journal": _lag(ingest.applier)
        or (f"{ingest.gaps[0]}; `voxelnode lost list` lists the gaps" if ingest.gaps else None),
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
    return next(by_reason, REMEDIES.get(part, _RESTART))


def _lag(applier: Applier) -> str | None:
    seconds = applier.lag_seconds
    if seconds <= MAX_LAG_SECONDS:
        return None
    return (
        f"{applier.waiting} received instances have not been in the index for {seconds:.0f} s: they are safe in the "
        "journal; look for a program that locks index.sqlite, for room on the disk, and at the log"
    )


def write_counters(
    counters: Mapping[str, Any], root: Path, reasons: Mapping[str, str], facts: Mapping[str, Any] | None = None
) -> None:
    """Write the counters to a file for `read_counters`; an error is ignored, since the node works without the file.

    `counters`: what `node.runtime.metrics.Metrics.snapshot` returns.
    `reasons`: why the node is not ready, by part.
    `facts`: what commands cannot know from their own settings: those of the node may be others.
    """
    content = {
        "at": dt.datetime.now(dt.UTC).isoformat(),
        "reasons": dict(reasons),
        "counters": dict(counters),
        **(facts or {}),
    }
    text = json.dumps(content).encode()
    part = root / f"{LIVE_FILE}.part"
    try:
        part.write_bytes(text)
        os.replace(part, root / LIVE_FILE)
    except OSError:
        with suppress(OSError), open(root / LIVE_FILE, "r+b", buffering=0) as file:
            file.write(text)  # a full disk may still take what replaces the same bytes
            file.truncate()


def remove_counters(root: Path) -> None:
    """Remove the counters file when the node has stopped."""
    (root / LIVE_FILE).unlink(missing_ok=True)


def read_counters(root: Path) -> dict[str, Any] | None:
    """Return the counters of the node running on a root, and their age, or None if no node is running.

    ``age_seconds``, ``reasons`` and ``counters``, by the names of `Metrics.snapshot`, and the facts.
    """
    try:
        content = json.loads((root / LIVE_FILE).read_bytes())
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(content["at"])
        seconds = round(age.total_seconds(), 1)
        return {**content, "reasons": content["reasons"], "counters": content["counters"], "age_seconds": seconds}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_locked(root: Path) -> bool:
    """Return whether a process holds the lock of a root, as a node that starts does, without trying to take it."""
    with suppress(OSError):
        device = os.stat(root)
        place = f"{os.major(device.st_dev):02x}:{os.minor(device.st_dev):02x}:{device.st_ino}"
        return any(place in line.split() for line in Path("/proc/locks").read_text().splitlines())
    return False


def running(live: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what `read_counters` has of a node that runs; empty if none does, it hangs, or wrote nothing for long."""
    if live is None or live["age_seconds"] > MAX_AGE_SECONDS or live.get("has_ended") or live.get("hangs"):
        return {}
    return live


def readiness_of(live: Mapping[str, Any] | None, root: Path | None) -> str:
    """Return a description of whether the running node is ready, from what it wrote last.

    `root`: its root, if it may have written nothing yet.
    """
    if live is None and root is not None and is_locked(root):
        return "not yet: the node is starting, or a command works on the root"
    if live is None:
        return "no node is running"
    if live.get("has_ended"):
        return "no node is running: the last one was killed"
    if not running(live):
        why = "ago, and does not answer: it hangs" if live.get("hangs") else "ago; it hangs, or cannot write"
        return f"unknown: the node wrote its state {live['age_seconds']:.0f} s {why}"
    return "; ".join(f"no, {part}: {reason}" for part, reason in live["reasons"].items()) or "yes"


def intake_of(settings: Settings, live: Mapping[str, Any] | None) -> str:
    """Return a description of whether a node on this root currently accepts instances.

    A running node knows (`live`), but for what its disk lacks since it has written its state.
    """
    root = settings.storage.root.absolute()
    now = running(live)
    if live is not None and not now and not live.get("has_ended"):
        return "unknown"
    if found := "; ".join(why for part, why in now.get("reasons", {}).items() if part in NEEDED["receive"]):
        return found
    try:
        lack = lack_for_senders(disks_of(root), now.get("low_bytes", settings.storage.low_bytes))
    except OSError as error:
        return f"{error.filename or root}: {error.strerror}; check the disk and its mount"
    if lack is not None:
        return f"{lack[0]}: {lack[1]}; remove files from its disk"
    return "open" if now else "closed until a node runs"
