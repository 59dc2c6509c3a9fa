"""Check the clock before studies are deleted by age: its newest time is stored, and contradictions are reported.

The second source is the time since the machine started (CLOCK_BOOTTIME), which nobody sets. Across a restart of the
machine there is none: the clock must then be later than it ever was, and not by more than `MAX_ABSENCE`.
"""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

from node.index.engine.about_keys import ClockLook, Uptime
from node.index.nouns.retention import Receipts

TOLERANCE = dt.timedelta(hours=1)
"""Largest difference between the clock and the time since the machine started; a small one is corrected by NTP."""

MAX_ABSENCE = dt.timedelta(days=7)
"""Longest time for which a machine may have been off. After a longer one, a person knows whether the clock is right."""

MAX_LAG = dt.timedelta(days=1)
"""An instance may be in the index this much later than it was received, while an index on a server is away."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def uptime() -> Uptime:
    """Return for how long this machine has been running."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # no second source: every look is like one after a restart of the machine
        return Uptime("", 0.0)
    return Uptime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


def contradiction(last: ClockLook | None, now: dt.datetime, up: Uptime, receipts: Receipts) -> str | None:
    """Return why the clock cannot be believed, or None.

    `last`: the last look that contradicted nothing; None: this is the first. `receipts`: of instances since then.
    """
    if last is not None and (jump := _jump(last, now, up)) is not None:
        return jump
    if receipts.newest is not None and receipts.newest > now + TOLERANCE:
        return f"an instance was received {_ago(receipts.newest - now)} in the future"
    if last is not None and receipts.oldest is not None and receipts.oldest < last.at - MAX_LAG:
        return f"an instance was received {_ago(last.at - receipts.oldest)} before others that came earlier"
    return None


def _jump(last: ClockLook, now: dt.datetime, up: Uptime) -> str | None:
    passed = now - last.at
    if up.boot and up.boot == last.uptime.boot:
        step = passed - dt.timedelta(seconds=up.seconds - last.uptime.seconds)
        if abs(step) > TOLERANCE:
            return f"the clock was set {'forward' if step > dt.timedelta() else 'back'} by {_ago(step)}"
    elif passed < -TOLERANCE:
        return f"the clock is {_ago(passed)} behind the newest time that it showed"
    elif passed > MAX_ABSENCE:
        return (
            f"the clock is {_ago(passed)} later than when it was last seen: the machine was off, or the clock is wrong"
        )
    return None


def _ago(span: dt.timedelta) -> str:
    """Return a length of time in words, in the largest unit that is passed."""
    seconds = abs(span.total_seconds())
    for unit, length in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 60:.0f} minutes"
