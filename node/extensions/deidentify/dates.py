"""Shift dates by whole days (PS3.15 E.3.6). Times of day stay: intervals within a day and between days stay as well."""

from __future__ import annotations

import re
from datetime import date, timedelta

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_DATETIME = re.compile(r"(\d{4})(\d{2})(\d{2})(.*)")


def shifted_date(text: str, days_earlier: int) -> str:
    """Return a DA, also of ACR-NEMA's form with dots; empty if it is not one whole day."""
    return _shifted(_DATE.fullmatch(text.strip()), days_earlier)


def shifted_datetime(text: str, days_earlier: int) -> str:
    """Return a DT with its time and offset from UTC as they are; empty if it is less exact than a day."""
    match = _DATETIME.fullmatch(text.strip())
    day = _shifted(match, days_earlier)
    return day + match[4] if match and day else ""


def _shifted(match: re.Match[str] | None, days_earlier: int) -> str:
    if match is None:
        return ""
    try:
        day = date(int(match[1]), int(match[2]), int(match[3])) - timedelta(days_earlier)
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}".zfill(8)


def written_forms(text: str) -> list[str]:
    """Return a date as people write it into texts; empty if it is none."""
    match = _DATE.fullmatch(text[:8])
    if match is None:
        return []
    year, month, day = match.groups()
    return [
        separator.join(parts)
        for separator in ("", "-", ".", "/")
        for parts in ((year, month, day), (day, month, year), (month, day, year))
    ]
