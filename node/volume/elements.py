"""Values of a few elements of very many data sets, fast: straight from the bytes where pydicom has not touched them.

pydicom builds a `DataElement` on first access, at twenty times the cost of reading the number; a time series has
twenty thousand instances with thirty such elements each. What cannot be read is None (or NaN among several numbers).
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
"""Where the scale of `instant` begins: near the days of scanners, so that a double holds microseconds."""

VALUES, SHORT_BYTES = 4096, 256
"""So many values, of at most so many bytes, are remembered: most are the same in all instances of a series, and their
frames share them then."""

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_TEXT_VRS = frozenset({"CS", "LO", "SH", "UI", "TM", "DA", "DT"})


def numbers(ds: Dataset, keyword: str) -> Numbers | None:
    """Return the numbers of an element, NaN for each that is none; None where it is absent or empty."""
    tag, vr = _tag(keyword)
    raw = values.held(ds, tag)
    if raw is None:
        return None
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
        vr = raw.VR or vr
        if vr in ("DS", "IS") or vr in _BINARY:
            parse = _parsed if len(raw.value) <= SHORT_BYTES else _parsed.__wrapped__
            return parse(raw.value, vr, raw.is_little_endian)
    return _converted(values.value(ds, keyword))


def number(ds: Dataset, keyword: str) -> float | None:
    """Return the first number of an element if it is finite; else None."""
    found = numbers(ds, keyword)
    return found[0] if found and math.isfinite(found[0]) else None


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the texts of an element without padding; empty where there is none."""
    tag, vr = _tag(keyword)
    raw = values.held(ds, tag)
    if raw is None:
        return ()
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes) and (raw.VR or vr) in _TEXT_VRS:
        return (_split if len(raw.value) <= SHORT_BYTES else _split.__wrapped__)(raw.value)
    return values.texts(ds, keyword)


def text(ds: Dataset, keyword: str) -> str | None:
    """Return the first text of an element without padding; None where it is absent or empty."""
    found = texts(ds, keyword)
    return (found[0] or None) if found else None


def item(ds: Dataset | None, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None where there is none."""
    if ds is None or values.held(ds, _tag(keyword)[0]) is None:
        return None
    found = values.items(ds, keyword)
    return found[0] if found else None


def seconds_of_day(time: str | None) -> float | None:
    """Return a time (TM, PS3.5 6.2: HHMMSS.FFFFFF, from the right as much as is known) in seconds since midnight."""
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
    """Return a date and time (DT, PS3.5 6.2) in seconds on the scale of `instant`; the offset from UTC is left out."""
    if not date_time:
        return None
    local = date_time.split("+")[0].split("-")[0]
    return instant(local[:8], local[8:]) if len(local) > 8 else None


@lru_cache(maxsize=VALUES)
def _parsed(value: bytes, vr: str, is_little_endian: bool) -> Numbers | None:
    """The numbers in the bytes of an element; the same object for the same bytes."""
    if vr in ("DS", "IS"):
        parts = value.strip(b" \0").split(b"\\")
        return tuple(map(_float, parts)) if parts != [b""] else None
    order, count = "<" if is_little_endian else ">", len(value) // struct.calcsize(_BINARY[vr])
    return tuple(map(float, struct.unpack_from(f"{order}{count}{_BINARY[vr]}", value))) or None


@lru_cache(maxsize=VALUES)
def _split(value: bytes) -> tuple[str, ...]:
    """The texts in the bytes of an element; the same objects for the same bytes."""
    parts = value.decode("latin-1").split("\\")
    return tuple(part.strip(" \0") for part in parts) if parts != [""] else ()


@lru_cache(maxsize=512)
def _tag(keyword: str) -> tuple[BaseTag, str]:
    """The tag of a keyword of the standard, and its value representation."""
    tag = values.standard_tag(keyword)
    return tag, dictionary_VR(tag)


def _float(part: bytes) -> float:
    """A Decimal String or Integer String as a number; NaN where it is none (PS3.5 6.2: underscores are Python's)."""
    try:
        return math.nan if b"_" in part else float(part.strip(b" \0"))
    except ValueError:
        return math.nan


def _converted(value: Any) -> Numbers | None:
    """The numbers in a value that pydicom has converted."""
    if value is None or isinstance(value, (bytes, str)):
        return None
    several = list(value) if hasattr(value, "__iter__") else [value]
    out = []
    for each in several:
        try:
            out.append(float(each))
        except (ValueError, TypeError, OverflowError):
            out.append(math.nan)
    return tuple(out) or None
