"""When a series is quiet: a pure function of what its senders have done.

A series waits for the quiet time of each of its senders, and for the grace after each association that was not
released; it is due at the latest of these moments. Each sender moves its own: an instance of a quick sender ends
neither the wait for a slow one nor the grace of another sender.

Beside these waits, a series is not quiet while an open association brings it (`node.index.rules.series.waits`).
"""

import datetime as dt
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Awaited(NamedTuple):
    """What a series awaits of one sender.

    `quiet_at`, `received_at`: end of the quiet time after its last instance, and when that was received; None: it has
        sent none.
    `grace_until`, `aborted_at`: end of the grace after its last association that was not released, and when that ended;
        None: there is none. `aborted`: the place of that end; see `is_later`.
    """

    quiet_at: dt.datetime | None = None
    received_at: dt.datetime | None = None
    grace_until: dt.datetime | None = None
    aborted_at: dt.datetime | None = None
    aborted: str | None = None

    @property
    def end(self) -> dt.datetime:
        """When the series awaits the sender no more."""
        return max(moment for moment in (self.quiet_at, self.grace_until) if moment is not None)


Waits = Mapping[str, Awaited]
"""What a series awaits, by the calling AE titles of its senders."""

_NOTHING = Awaited()
_MOMENTS = Awaited._fields[:-1]


def is_later(begun: str, ended: str | None) -> bool:
    """Return whether an association began after another one had ended.

    Places are numbers of what one process did, ``PROCESS:NUMBER``: a clock may be set in between.

    `ended`: the place of the end, and the begins of the associations that brought the series then, also of other
        hosts; what another process begins comes after it.
    """
    process, _, number = begun.partition(":")
    known = (place.partition(":") for place in (ended or "").split())
    return all(other != process or int(number) > int(last) for other, _, last in known)


def after_received(
    waits: Waits, sender: str, quiet_at: dt.datetime, begun: Collection[str], received_at: dt.datetime
) -> Waits:
    """Return the waits after an instance; those that are over are dropped.

    An instance that another host has received before, and adds to the index after the last one, shortens no wait.

    `begun`: begins of its associations. The grace ends only for one that began after the abort: the sender has come
    back with the series. Another association that was open already brings what it would have brought anyway.
    """
    before = waits.get(sender, _NOTHING)
    others = {other: its for other, its in waits.items() if other != sender and its.end > received_at}
    if before.quiet_at is not None and before.received_at is not None and received_at < before.received_at:
        quiet_at, received_at = max(quiet_at, before.quiet_at), before.received_at
    is_back = before.aborted_at is None or any(is_later(one, before.aborted) for one in begun)
    grace = (None, None, None) if is_back else before[2:]
    return {**others, sender: Awaited(quiet_at, received_at, *grace)}


def after_abort(
    waits: Waits, sender: str, grace_until: dt.datetime, aborted_at: dt.datetime, aborted: str | None = None
) -> Waits:
    """Return the waits after an association that was not released."""
    before = waits.get(sender, _NOTHING)
    return {**waits, sender: before._replace(grace_until=grace_until, aborted_at=aborted_at, aborted=aborted)}


def is_quiet_of(waits: Waits, sender: str, now: dt.datetime) -> bool:
    """Return whether a series waits no more for instances of a sender."""
    quiet_at = waits.get(sender, _NOTHING).quiet_at
    return quiet_at is None or quiet_at <= now


def due_at(waits: Waits) -> dt.datetime:
    """Return the latest moment that any sender asks for."""
    return max(its.end for its in waits.values())


def shifted(waits: Waits, step: dt.timedelta) -> Waits:
    """Return the waits after a step of the system clock."""
    return {
        sender: its._replace(**{name: moment + step for name in _MOMENTS if (moment := getattr(its, name)) is not None})
        for sender, its in waits.items()
    }


def last_sign(waits: Waits) -> dt.datetime | None:
    """Return the last moment at which any sender was heard, or None."""
    heard = (moment for its in waits.values() for moment in (its.received_at, its.aborted_at) if moment is not None)
    return max(heard, default=None)


def is_due(due_at: str | dt.datetime | None, now: dt.datetime) -> bool:
    """Return whether a series in state ``receiving`` has been quiet: it waits for a converter, and for nothing else."""
    due = dt.datetime.fromisoformat(due_at) if isinstance(due_at, str) else due_at
    return due is not None and due.replace(tzinfo=dt.UTC) <= now
