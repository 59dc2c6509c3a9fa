"""Figures of the page of the state."""

import datetime as dt

from node.extensions.pages.operation import charts, places
from node.runtime.metrics import MAX_SENDERS, LastWord, LastWords, Recent, Span


def test_minutes_of_the_last_hour_are_counted_and_forgotten() -> None:
    clock = [7200.0]
    hour = Recent(60, 60, lambda: clock[0])
    hour.received(100)
    hour.received(50)
    hour.waiting(3)
    hour.waiting(1)
    clock[0] += 90
    hour.received(1)
    assert [minute for minute in hour.spans() if minute != Span()] == [Span(2, 150, 3), Span(1, 1, None)]
    assert hour.spans()[-2] == Span(2, 150, 3)
    clock[0] += 59 * 60
    assert [minute for minute in hour.spans() if minute != Span()] == [Span(1, 1, None)]
    clock[0] += 3600
    assert hour.spans() == [Span()] * 60


def test_the_last_words_are_those_of_the_last_senders() -> None:
    words, now = LastWords(), dt.datetime.now(dt.UTC)
    words.heard("CT1", "10.0.0.1", "stored an instance", now, stored=1)
    for number in range(MAX_SENDERS - 1):
        words.heard(f"STRANGER{number}", "10.0.0.2", "association refused", now)
    words.heard("CT1", "10.0.0.1", "association released", now, stored=1)
    words.heard("ANOTHER", "10.0.0.3", "association released", now)
    known = words.all()
    assert len(known) == MAX_SENDERS
    assert [one.calling_ae_title for one in known[:2]] == ["ANOTHER", "CT1"]
    assert (known[1].stored, known[1].word) == (2, "association released")
    assert "STRANGER0" not in {one.calling_ae_title for one in known}


def test_a_chart_shows_the_most_as_its_height_and_the_least_as_something() -> None:
    received, day, waiting = charts([Span(1000, 5, None), Span(), Span(1, 1, 2)], [Span(7, 7), Span()])
    assert (day.since, day.bars[0].title) == ("a day ago", "1 hour ago: 7 instances, 7 B")
    assert [bar.height for bar in received.bars] == [54, 1.5]
    assert received.bars[0].title == "2 minutes ago: 1\u2009000 instances, 5 B"
    assert (received.bars[0].x, waiting.bars[0].x) == (0, 240)
    assert waiting.summary == "2 series now, at most 2 in the last hour"
    assert charts([Span()] * 60, [Span()] * 24)[0].bars == ()


NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def test_what_was_received_before_the_start_is_in_its_minutes() -> None:
    hour = Recent(60, 4, lambda: 7200.0)
    hour.received(7)
    for seconds_ago in (30, 59, 61, 3600):
        hour.received(10, seconds_ago)
    hour.received(1)
    assert hour.spans() == [Span(), Span(1, 10), Span(2, 20), Span(2, 8)]


def test_what_was_heard_since_the_start_is_the_last_word() -> None:
    words, before = LastWords(), NOW - dt.timedelta(days=1)
    words.heard("CT1", "10.0.0.1", "association refused", NOW)
    words.recall([LastWord(title, "10.0.0.2", "stored an instance", before, 3) for title in ("MR1", "CT1", "MR2")])
    assert [(one.calling_ae_title, one.word, one.stored) for one in words.all()] == [
        ("CT1", "association refused", 3),
        ("MR2", "stored an instance", 3),
        ("MR1", "stored an instance", 3),
    ]


def test_series_that_wait_for_a_converter_are_reported_when_their_turn_comes() -> None:
    due, later = (NOW - dt.timedelta(seconds=1)).isoformat(), (NOW + dt.timedelta(seconds=1)).isoformat()
    series = [
        {"state": "converting", "due_at": None},
        *({"state": "receiving", "due_at": at} for at in (due, due, later)),
    ]
    assert places(series, None, NOW) == {1: "next", 2: "after 1 other"}
    assert places(series, 40.0, NOW) == {1: "next, in about 40 s", 2: "after 1 other, in about 80 s"}
