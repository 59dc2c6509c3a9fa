"""Waits that receivers ask for."""

import datetime as dt
from email.utils import format_datetime

import pytest

from node.runtime.background import jittered_wait_seconds, seconds_of_retry_after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("120", 120.0), ("9" * 20, 999_999_999.0), ("soon", None), ("", None), ("٣", None)],
)
def test_a_number_of_seconds_is_taken_and_what_is_none_is_not(text: str | None, seconds: float | None) -> None:
    assert seconds_of_retry_after(text) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
@pytest.mark.usefixtures("in_tokyo")
def test_a_date_is_in_utc_wherever_the_node_runs(zone: str) -> None:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=600)
    text = format_datetime(moment).replace("+0000", zone)
    assert seconds_of_retry_after(text) == pytest.approx(600, abs=5)
    assert seconds_of_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_waits_double_up_to_an_hour_and_are_never_all_the_same() -> None:
    for attempts, longest in ((1, 30), (2, 60), (5, 480), (7, 1920), (8, 3600), (500, 3600)):
        waits = {jittered_wait_seconds(attempts, None) for _ in range(50)}
        assert longest / 2 <= min(waits) <= max(waits) <= longest
        assert len(waits) > 1
