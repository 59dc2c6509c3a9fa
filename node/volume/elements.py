"""Read single values of a data set, where one that is unreadable is None, and times on one scale."""

import re
from datetime import date
from functools import lru_cache
from typing import NamedTuple, Self

from pydicom import Dataset

from node.dicom import values
from node.dicom.values import items
from node.errors import VoxelnodeError

NEAR_DAY = date(2000, 1, 1).toordinal()
"""Origin of the scale of `instant`, close to the dates of scans, so that a double resolves microseconds."""

DAY_S = 86400
DAY_DIGITS = 8
"""Characters of a date at the beginning of a DT."""

OFFSETS_S = (-12 * 3600, 14 * 3600)
"""The offsets from UTC that there are (PS3.5 6.2)."""


def text(ds: Dataset, keyword: str) -> str | None:
    """Return the first text of an element without padding; None if it is absent or empty."""
    return values.text(ds, keyword) or None


def item(ds: Dataset | None, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if it is absent or empty."""
    several = () if ds is None else items(ds, keyword)
    return several[0] if several else None


def groups_of(ds: Dataset, frame_number: int) -> list[Dataset]:
    """Return the functional groups of one frame, from 1: its own, then those of all frames (PS3.3 C.7.6.16.2)."""
    per_frame = values.value(ds, "PerFrameFunctionalGroupsSequence") or ()
    return [*per_frame[frame_number - 1 : frame_number], *items(ds, "SharedFunctionalGroupsSequence")[:1]]


class Instant(NamedTuple):
    """A moment as the clock of its writer showed it.

    `second_s`: seconds since midnight. `day`: after `NEAR_DAY`; None if only the time of day is stated. `offset_s`: how
    far the clock is ahead of UTC; None if that is not stated.
    """

    second_s: float
    day: int | None = None
    offset_s: float | None = None

    @property
    def clock_s(self) -> float:
        """Seconds on one scale, by the moment's own clock; without a day, since midnight."""
        return self.second_s if self.day is None else self.day * DAY_S + self.second_s

    @property
    def utc_s(self) -> float:
        """The same by UTC; if the offset is unknown, by the moment's own clock."""
        return self.clock_s - (self.offset_s or 0.0)

    def since(self, other: Self) -> float:
        """Return the seconds since another moment, by UTC; if neither states its offset, by the clock of both.

        If only one has a day, the times of day count.

        Raises ClocksUnknown: only one of them states its offset from UTC. PS3.3 C.12.1.1.8: it may be any.
        """
        if (self.offset_s is None) != (other.offset_s is None):
            raise ClocksUnknown
        is_of_day = (self.day is None) != (other.day is None)
        return self.utc_s - other.utc_s - (DAY_S * ((self.day or 0) - (other.day or 0)) if is_of_day else 0)


class ClocksUnknown(VoxelnodeError):
    """Two moments cannot be compared: one of them states the offset of its clock from UTC, the other does not."""


@lru_cache(maxsize=4096)
def instant(
    date_time: str | None = None, day: str | None = None, time: str | None = None, zone: str | None = None
) -> Instant | None:
    """Return the moment of a date and time, which are in one value or in two; None without a time. Nothing else does.

    Every moment of a data set is made here, so that two of them are compared by their offsets, or not at all.

    `date_time`: a value of DT (PS3.5 6.2: YYYYMMDDHHMMSS.FFFFFF&ZZXX, possibly without its last parts). Without a time
        of day, it counts as absent. `day`, `time`: of DA and TM, if there is no DT. `zone`: Timezone Offset From UTC
        (0008,0201) of the data set, which is that of every value without an offset of its own (PS3.3 C.12.1.1.8); one
        with an offset that cannot be has an unknown one.
    """
    whole = (date_time or "").strip()
    digits = re.split("[+-]", whole, maxsplit=1)[0]
    if len(digits) > DAY_DIGITS and (seconds := _seconds_of_day(digits[DAY_DIGITS:])) is not None:
        return Instant(seconds, _day(digits[:DAY_DIGITS]), offset_s(whole[len(digits) :] or zone))
    seconds = _seconds_of_day((time or "").strip())
    return None if seconds is None else Instant(seconds, _day(day or ""), offset_s(zone))


def stated_instant(
    ds: Dataset, date_time: str = "", day: str = "", time: str = "", *, of: Dataset | None = None
) -> Instant | None:
    """Return the moment that elements with these keywords state, which `instant` makes.

    `of`: the data set of which `ds` is an item; it has the Timezone Offset From UTC (0008,0201).
    """
    stated = (text(ds, keyword) if keyword else None for keyword in (date_time, day, time))
    return instant(*stated, text(ds if of is None else of, "TimezoneOffsetFromUTC"))


def offset_s(zone: str | None) -> float | None:
    """Return how far a clock is ahead of UTC, of an offset such as ``+0100``; None if it is unstated or impossible."""
    digits = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", (zone or "").strip(), re.ASCII)
    if digits is None:
        return None
    away = (-60.0 if digits[1] == "-" else 60.0) * (60 * int(digits[2]) + int(digits[3]))
    return away if OFFSETS_S[0] <= away <= OFFSETS_S[1] else None


def _seconds_of_day(time: str) -> float | None:
    """Return a time in seconds since midnight (TM, PS3.5 6.2: HHMMSS.FFFFFF, possibly without its last parts)."""
    # 60 is a leap second.
    parts = re.fullmatch(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d*)?)?)?", time, re.ASCII)
    if parts is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()[:3])
    return hours * 3600 + minutes * 60 + seconds + float(f"0{parts[4] or '.0'}")


def _day(day: str) -> int | None:
    """Return a date (DA, also as YYYY.MM.DD) in days after `NEAR_DAY`; None if it is unstated or does not exist."""
    digits = day.strip().replace(".", "")
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal() - NEAR_DAY
    except ValueError:
        return None
