"""The wait between attempts at a conversion, and at what the ledger of work has."""

from __future__ import annotations

import datetime as dt
import random
from email.utils import parsedate_to_datetime

FIRST_WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS = 3600.0


def wait_seconds(attempts: int) -> float:
    """Return the seconds to wait after `attempts` failures: doubled after each, up to an hour."""
    return min(FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 60), MAX_WAIT_SECONDS)


def jittered_wait_seconds(attempts: int, retry_after: float | None) -> float:
    """Return the seconds to wait after `attempts` failures, randomized so that retries are spread out.

    `retry_after`: wait requested by the other side; the result is not shorter, up to `MAX_WAIT_SECONDS`.
    """
    longest = wait_seconds(attempts)
    wait = random.uniform(longest / 2, longest)
    return max(wait, min(retry_after or 0.0, MAX_WAIT_SECONDS))


def seconds_of_retry_after(text: str | None) -> float | None:
    """Return the wait in seconds from ``Retry-After`` (RFC 9110 10.2.3): a number, or a date, in UTC unless it says so.

    None if there is none, or none that can be read.
    """
    if text is None:
        return None
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())
