"""What contradicts the clock."""

import datetime as dt

import pytest

from node.index.rows.about_keys import ClockLook, Uptime
from node.index.rules.custody.leaving import Receipts
from node.lifecycle.retention import contradiction, uptime

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
LAST = ClockLook(NOW, Uptime("this boot", 1000.0), 10)
NOTHING = Receipts(10, None, None)
HOUR, DAY, YEAR = 3600.0, 86400.0, 365.25 * 86400.0


def after(clock: float, uptime_: float | None, oldest: float | None = None, newest: float | None = None) -> str | None:
    """What is wrong when the clock and the uptime have moved by these seconds; None: the machine was restarted."""
    up = Uptime("this boot", 1000.0 + uptime_) if uptime_ is not None else Uptime("next boot", 5.0)
    first, last = (NOW + dt.timedelta(seconds=s) if s is not None else None for s in (oldest, newest))
    return contradiction(LAST, NOW + dt.timedelta(seconds=clock), up, Receipts(12, first, last))


@pytest.mark.parametrize(
    ("clock", "up"),
    [(60, 60), (60, 65), (60 * DAY, 60 * DAY), (-1800, 60), (HOUR, 2), (6 * DAY, None), (-HOUR / 2, None)],
)
def test_a_clock_that_runs_with_the_machine_is_believed(clock: float, up: float | None) -> None:
    assert after(clock, up, oldest=0, newest=min(clock, 0)) is None


@pytest.mark.parametrize(
    ("clock", "up", "words"),
    [
        (11 * YEAR, 12, "the clock was set forward by 11.0 years"),
        (-3 * YEAR, 12, "the clock was set back by 3.0 years"),
        (HOUR + 120, 60, "the clock was set forward by 1.0 hours"),
        (11 * YEAR, None, "11.0 years later than when it was last seen"),
        (8 * DAY, None, "8.0 days later than when it was last seen"),
        (-2 * HOUR, None, "2.0 hours behind the newest time that it showed"),
    ],
)
def test_a_jump_is_reported(clock: float, up: float | None, words: str) -> None:
    assert words in str(after(clock, up))


def test_receipts_that_the_order_of_events_contradicts_are_reported() -> None:
    assert "received 3.0 years before others" in str(after(60, 60, oldest=-3 * YEAR, newest=10))
    assert "received 2.0 days in the future" in str(after(60, 60, oldest=10, newest=2 * DAY + 60))
    assert after(60, 60, oldest=-DAY / 2, newest=60) is None, "the index was away for half a day"


def test_the_first_look_has_nothing_to_compare_but_the_future() -> None:
    assert contradiction(None, NOW, Uptime("b", 1.0), NOTHING) is None
    assert contradiction(None, NOW, Uptime("b", 1.0), Receipts(1, NOW, NOW)) is None
    ahead = Receipts(1, NOW, NOW + dt.timedelta(days=4000))
    assert "in the future" in str(contradiction(None, NOW, Uptime("b", 1.0), ahead))


def test_without_a_name_of_the_boot_the_clock_is_the_only_source() -> None:
    last = ClockLook(NOW, Uptime("", 0.0), 10)
    later = NOW + dt.timedelta(days=2)
    assert contradiction(last, later, Uptime("", 0.0), NOTHING) is None
    assert "behind" in str(contradiction(last, NOW - dt.timedelta(days=2), Uptime("", 0.0), NOTHING))


def test_this_machine_has_an_uptime() -> None:
    first, second = uptime(), uptime()
    assert first.boot == second.boot
    assert 0 < first.seconds <= second.seconds
