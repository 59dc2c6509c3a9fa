"""The hours in which a route sends, such as ``20:00-06:00``, in the time zone of the machine."""

from __future__ import annotations

import datetime as dt


def seconds_until_open(between: str | None, now: dt.datetime) -> float:
    """Return the seconds until a route may send; 0 if it may now.

    Parameters
    ----------
    between : str or None
        ``HH:MM-HH:MM``, the end excluded; an end before the beginning is that of the next day. None: always.
    now : aware datetime
    """
    if between is None:
        return 0.0
    begin, end = (dt.time.fromisoformat(text) for text in between.split("-"))
    local = now.astimezone()
    time = local.time()
    is_open = begin <= time < end if begin < end else time >= begin or time < end
    if is_open:
        return 0.0
    opening = local.replace(hour=begin.hour, minute=begin.minute, second=0, microsecond=0)
    if opening <= local:
        opening += dt.timedelta(days=1)
    return (opening - local).total_seconds()
