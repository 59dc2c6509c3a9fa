"""When a series is quiet: a pure function of what its senders have done.

A series waits for the quiet time of each of its senders, and for the grace after each association that was not
released; it is due at the latest of these moments. Each sender moves its own: an instance of a quick sender ends
neither the wait for a slow one nor the grace of another sender.

Beside these waits, a series is not quiet while an open association brings it (`node.index.nouns.open_associations`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

Waits = Mapping[str, Mapping[str, str]]
"""By calling AE title: ``quiet_at`` after its last instance, which came at ``received_at``; ``grace_until`` and
``aborted_at`` after an abort."""


def after_received(
    waits: Waits, sender: str, quiet_at: dt.datetime, began_at: dt.datetime, received_at: dt.datetime
) -> Waits:
    """Return the waits after an instance; those that are over are dropped.

    An instance that another host has received before, and adds to the index after the last one, shortens no wait.

    `began_at`: begin of the association. The grace ends only for an association that began after the abort: the sender
    has come back. Another association that was open already brings what it would have brought anyway.
    """
    before = waits.get(sender, {})
    others = {other: its for other, its in waits.items() if other != sender and _end(its) > received_at}
    if "received_at" in before and received_at < (last := dt.datetime.fromisoformat(before["received_at"])):
        quiet_at, received_at = max(quiet_at, dt.datetime.fromisoformat(before["quiet_at"])), last
    wait = {"quiet_at": quiet_at.isoformat(), "received_at": received_at.isoformat()}
    if "aborted_at" in before and began_at < dt.datetime.fromisoformat(before["aborted_at"]):
        wait |= {name: before[name] for name in ("grace_until", "aborted_at")}
    return {**others, sender: wait}


def after_abort(waits: Waits, sender: str, grace_until: dt.datetime, aborted_at: dt.datetime) -> Waits:
    """Return the waits after an association that was not released."""
    grace = {"grace_until": grace_until.isoformat(), "aborted_at": aborted_at.isoformat()}
    return {**waits, sender: {**waits.get(sender, {}), **grace}}


def is_quiet_of(waits: Waits, sender: str, now: dt.datetime) -> bool:
    """Return whether a series waits no more for instances of a sender."""
    quiet_at = waits.get(sender, {}).get("quiet_at")
    return quiet_at is None or dt.datetime.fromisoformat(quiet_at) <= now


def due_at(waits: Waits) -> dt.datetime:
    """Return the latest moment that any sender asks for."""
    return max(map(_end, waits.values()))


def shifted(waits: Waits, step: dt.timedelta) -> Waits:
    """Return the waits after a step of the system clock."""
    return {
        sender: {name: (dt.datetime.fromisoformat(moment) + step).isoformat() for name, moment in wait.items()}
        for sender, wait in waits.items()
    }


def last_sign(waits: Waits) -> dt.datetime | None:
    """Return the last moment at which any sender was heard, or None."""
    heard = (wait[name] for wait in waits.values() for name in ("received_at", "aborted_at") if name in wait)
    return max(map(dt.datetime.fromisoformat, heard), default=None)


def _end(wait: Mapping[str, Any]) -> dt.datetime:
    return max(dt.datetime.fromisoformat(wait[name]) for name in ("quiet_at", "grace_until") if name in wait)
