"""What a running node tells commands by a file in its root: its counters, and why it is not ready."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

LIVE_FILE = "status.json"
"""File in the root of a running node with its recent counters, for other processes."""


MAX_AGE_SECONDS = 15.0
"""A running node writes its state every three seconds."""

LATE_SECONDS = 5.0
"""Once its state is older, a node is asked whether it hangs."""


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
