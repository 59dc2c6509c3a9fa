"""Read a few elements of very many data sets quickly: from the bytes, unless pydicom has converted them.

pydicom builds a `DataElement` on first access, which costs twenty times as much as reading the number. A time series
has 20,000 instances with thirty such elements each. Unreadable values are None (NaN among several numbers).
"""

from __future__ import annotations

import math
import struct
from datetime import date
from functools import lru_cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from node.dicom import values

Numbers = tuple[float, ...]

NEAR_DAY = date(2000, 1, 1).toordinal()
"""Origin of the scale of `instant`, close to the dates of scans, so that a double resolves microseconds."""

CACHED_VALUES, MAX_CACHED_BYTES = 4096, 256
"""Number and maximum size of cached values. Most values are equal in all instances of a series; frames share them."""

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_TEXT_VRS = frozenset({"CS", "LO", "SH", "UI", "TM", "DA", "DT"})


def numbers(ds: Dataset, keyword: str) -> Numbers | None:
    """Return the numbers of an element, NaN for unreadable ones; None if it is absent or empty."""
    tag, vr = _tag(keyword)
    raw = ds.keys().mapping.get(tag)  # type: ignore[attr-defined]  # `values.held`, without the cost of a call
    if raw is None:
        return None
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
        vr = raw.VR or vr
        if vr in ("DS", "IS") or vr in _BINARY:
            parse = _parsed if len(raw.value) <= MAX_CACHED_BYTES else _parsed.__wrapped__
            return parse(raw.value, vr, raw.is_little_endian)
    return _converted(values.value(ds, keyword))


def number(ds: Dataset, keyword: str) -> float | None:
    """Return the first number of an element if it is finite; else None."""
    several = numbers(ds, keyword)
    return several[0] if several and math.isfinite(several[0]) else None


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the texts of an element without padding; empty if it is absent."""
    tag, vr = _tag(keyword)
    raw = ds.keys().mapping.get(tag)  # type: ignore[attr-defined]  # `values.held`, without the cost of a call
    if raw is None:
        return ()
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes) and (raw.VR or vr) in _TEXT_VRS:
        return (_split if len(raw.value) <= MAX_CACHED_BYTES else _split.__wrapped__)(raw.value)
    return values.texts(ds, keyword)


def text(ds: Dataset, keyword: str) -> str | None:
    """Return the first text of an element without padding; None if it is absent or empty."""
    several = texts(ds, keyword)
    return (several[0] or None) if several else None


def item(ds: Dataset | None, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if it is absent or empty."""
    if ds is None or values.held(ds, _tag(keyword)[0]) is None:
        return None
    several = values.items(ds, keyword)
    return several[0] if several else None


@lru_cache(maxsize=CACHED_VALUES)
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
    """Return a date and time (DT, PS3.5 6.2) in seconds on the scale of `instant`; the offset from UTC is ignored."""
    if not date_time:
        return None
    local = date_time.split("+")[0].split("-")[0]
    return instant(local[:8], local[8:]) if len(local) > 8 else None


@lru_cache(maxsize=CACHED_VALUES)
def _parsed(value: bytes, vr: str, is_little_endian: bool) -> Numbers | None:
    """Return the numbers in the bytes of an element; the same object for the same bytes."""
    if vr in ("DS", "IS"):
        parts = value.strip(b" \0").split(b"\\")
        return tuple(map(_float, parts)) if parts != [b""] else None
    order, count = "<" if is_little_endian else ">", len(value) // struct.calcsize(_BINARY[vr])
    return tuple(map(float, struct.unpack_from(f"{order}{count}{_BINARY[vr]}", value))) or None


@lru_cache(maxsize=CACHED_VALUES)
def _split(value: bytes) -> tuple[str, ...]:
    """Return the texts in the bytes of an element; the same objects for the same bytes."""
    parts = value.decode("latin-1").split("\\")
    return tuple(part.strip(" \0") for part in parts) if parts != [""] else ()


@lru_cache(maxsize=512)
def _tag(keyword: str) -> tuple[BaseTag, str]:
    """Return tag and value representation of a keyword of the standard."""
    tag = values.standard_tag(keyword)
    return tag, dictionary_VR(tag)


def _float(part: bytes) -> float:
    """Return a Decimal or Integer String as a number; NaN if invalid (PS3.5 6.2 allows no underscores)."""
    try:
        return math.nan if b"_" in part else float(part.strip(b" \0"))
    except ValueError:
        return math.nan


def _converted(value: Any) -> Numbers | None:
    """Return the numbers in a value that pydicom has converted."""
    if value is None or isinstance(value, (bytes, str)):
        return None
    several = list(value) if hasattr(value, "__iter__") else [value]
    converted = []
    for part in several:
        try:
            converted.append(float(part))
        except (ValueError, TypeError, OverflowError):
            converted.append(math.nan)
    return tuple(converted) or None
