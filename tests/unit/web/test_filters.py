"""How values read on a page."""

import datetime as dt

import pytest
from markupsafe import Markup, escape

from node.extensions.pages.chips import shortfall, verdict_remedy
from node.volume.reasons import REMEDIES
from node.web.pages.filters import breakable, counted, moment, person, shown, sized, spacing
from node.web.pages.rendering import _environment


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("Phantom^Head", "Phantom, Head"),
        ("Smith^John^Quincy^Dr^Jr", "Smith, John Quincy Dr Jr"),
        ("Smith", "Smith"),
        ("^John", "John"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田, 太郎 · やまだ, たろう)"),
        ("=山田^太郎", "山田, 太郎"),
        ("^^^=^^", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_person_name_reads_as_people_write_it(name: str | None, read: str) -> None:
    assert person(name) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("\u202egnp.exe", "[U+202E]gnp.exe"),
        ("two\nlines", "two[U+000A]lines"),
        ("zero\u200bwidth", "zero[U+200B]width"),
        ("naïve 山田 😀", "naïve 山田 😀"),
        (None, ""),
        (3, "3"),
    ],
)
def test_what_would_deceive_the_eye_is_named(text: object, read: str) -> None:
    assert shown(text) == read


@pytest.mark.parametrize(
    ("count", "read"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (99_960_000, "100 MB"), (7e15, "7 PB")],
)
def test_sizes_have_three_digits(count: float, read: str) -> None:
    assert sized(count) == read


def test_numbers_have_their_noun() -> None:
    assert counted(1, "study", "studies") == "1 study"
    assert counted(2, "study", "studies") == "2 studies"
    assert counted(3650.0, "day") == "3\u2009650 days"
    assert counted(0.5, "day") == "0.5 days"
    assert counted(12345, "instance") == "12\u2009345 instances"


def test_moments_are_marked_up_in_utc() -> None:
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
    assert moment(at) == '<time datetime="2026-01-02T03:04:05.678+00:00" data-moment>2026-01-02 03:04 UTC</time>'
    assert moment("2026-01-02 03:04:05.678000") == moment(at)


def test_markup_of_ours_never_takes_what_came_over_the_network_for_markup() -> None:
    uid = breakable("1.2<b>.3")
    assert isinstance(uid, Markup)
    assert escape(uid) == "1<wbr>.2&lt;b&gt;<wbr>.3"


def test_spacing_is_reported_in_millimetres() -> None:
    assert spacing("[0.5, 0.75, 2.5]") == "0.5 × 0.75 × 2.5 mm"


@pytest.mark.parametrize(
    ("missing_at_sender", "remedy"), [(False, "Send the missing instances"), (True, "The sender has no more either")]
)
def test_who_has_no_more_is_not_asked_for_it(missing_at_sender: bool, remedy: str) -> None:
    counts = {"instances": 15, "expected_instances": 150, "missing_instances": 135}
    row = {"certainty": "suspect", "verdict_reason": "15 of 150 instances", "missing_detail": "", "failures": ()}
    row |= {"verdict_rule": "headers", "missing_at_sender": missing_at_sender}
    functions = {"shortfall": shortfall, "verdict_remedy": verdict_remedy}
    parts = _environment().get_template("parts.html").make_module(functions)
    assert remedy in parts.problem(row | counts, REMEDIES)  # type: ignore[attr-defined]
