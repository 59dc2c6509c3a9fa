"""Read single values of a data set, where one that is unreadable is None, and times on one scale."""

from __future__ import annotations

import math
from datetime import date
from functools import lru_cache

from pydicom import Dataset

from node.dicom import values
from node.dicom.values import items, stated_numbers

NEAR_DAY = date(2000, 1, 1).toordinal()
"""Origin of the scale of `instant`, close to the dates of scans, so that a double resolves microseconds."""


def number(ds: Dataset, keyword: str) -> float | None:
    """Return the first number of an element if it is finite; else None."""
    several = stated_numbers(ds, keyword)
    return several[0] if several and math.isfinite(several[0]) else None


def text(ds: Dataset, keyword: str) -> str | None:
    """Return the first text of an element without padding; None if it is absent or empty."""
    return values.text(ds, keyword) or None


def item(ds: Dataset | None, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if it is absent or empty."""
    several = () if ds is None else items(ds, keyword)
    return several[0] if several else None


@lru_cache(maxsize=4096)
def seconds_of_day(time: str | None) -> float | None:
    """Return a time in seconds since midnight (TM, PS3.5 6.2: HHMMSS.FFFFFF, possibly without its last parts)."""
    if not time:
        return None
    whole, _, fraction = time.replace(":", "").partition(".")
    if not whole.isdecimal() or len(whole) > 6 or (fraction and not fraction.isdecimal()):
        return None
    whole = whole.ljust(6, "0")
    return int(whole[:2]) * 3600 + int(whole[2:4]) * 60 + int(whole[4:]) + float(f"0.{fraction or 0}")


def instant(day: str | None, time: str | None) -> float | None:
    """Return a date (DA) and time (TM) in seconds on one scale; without a date, since midnight."""
    seconds = seconds_of_day(time)
    if seconds is None or not day:
        return seconds
    try:
        days = date(int(day[:4]), int(day[4:6]), int(day[6:8])).toordinal() - NEAR_DAY
        return days * 86400 + seconds
    except ValueError:
        return seconds


def instant_of(date_time: str | None) -> float | None:
    """Return a date and time (DT, PS3.5 6.2) in seconds on the scale of `instant`, as its own clock shows it."""
    local = _without_offset(date_time or "")
    return instant(local[:8], local[8:]) if len(local) > 8 else None


def time_of_day(date_time: str | None) -> float | None:
    """Return the time of a date and time (DT) in seconds since midnight, as its own clock shows it."""
    return seconds_of_day(_without_offset(date_time or "")[8:] or None)


def offset_s(date_time: str | None) -> float | None:
    """Return how far the clock of a date and time (DT), or of ``+0100`` alone, is ahead of UTC; None if unstated."""
    suffix = (date_time or "").strip()[len(_without_offset(date_time or "")) :]
    if len(suffix) != 5 or not suffix[1:].isdecimal():
        return None
    return (-60.0 if suffix[0] == "-" else 60.0) * (60 * int(suffix[1:3]) + int(suffix[3:]))


def _without_offset(date_time: str) -> str:
    return date_time.strip().split("+")[0].split("-")[0]
