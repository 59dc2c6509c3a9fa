"""The language of selectors: what fits, what does not and why, and what is refused before any series is looked at."""

import datetime as dt
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.selector import MAX_LENGTH, WrongSelector, compile_selector, without
from node.selector.fields import FIELDS

FACTS: dict[str, Any] = {name: [] if field.several else None for name, field in FIELDS.items()} | {
    "modality": "CT",
    "series_description": "Thorax 0.6 B70f",
    "slices": 60,
    "slice_spacing_mm": 0.625,
    "verdict": "complete",
    "weighting": "T2",
    "warnings": ["gantry-tilt", "missing-slice"],
    "calling_ae_titles": ["CT1 "],
    "study_date": dt.date(2026, 1, 31),
    "last_received_at": dt.datetime(2026, 2, 1, 8, tzinfo=dt.UTC),
}
MISSING = {name: [] if field.several else None for name, field in FIELDS.items()}


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ('modality == "CT"', True),
        ("modality == 'ct'", True),
        ('modality != "CT"', False),
        ('modality in ["PT", "CT"] and slices >= 50 and slice_spacing_mm < 1', True),
        ('modality == "MR" or slices == 60', True),
        ('modality == "MR" and slices == 60 or verdict == "complete"', True),
        ('modality == "MR" and (slices == 60 or verdict == "complete")', False),
        ('not modality == "MR"', True),
        ('not not (modality == "MR")', False),
        ('modality not in ["MR", "PT"]', True),
        ('series_description == "*thorax*"', True),
        ('series_description == "thorax*f"', True),
        ('series_description == "*thorax"', False),
        ('series_description == "thorax 0.? b?0*"', True),
        ('series_description == "?"', False),
        ('series_description == "*b70f*b70f*"', False),
        ('weighting == "t2"', True),
        ('weighting == "T2*"', False),
        ('weighting == "*2*"', True),
        ('warnings == "missing-slice"', True),
        ('warnings != "missing-slice"', False),
        ('warnings not in ["slope-varies"]', True),
        ("warnings == null", False),
        ("failures == null", True),
        ('calling_ae_titles in ["CT1", "CT2"]', True),
        ('study_date >= "2026-01-31" and study_date < "2026-02-01"', True),
        ('last_received_at > "2026-02-01T07:59" and last_received_at < "2026-02-01T09:00+00:30"', True),
        ("slices == -60", False),
        ({"modality": "CT", "slices": ">=50", "verdict": "complete"}, True),
        ({"modality": ["MR", "PT"]}, False),
        ({"modality": ["MR", "CT"], "slices": 60, "slice_spacing_mm": "<= 0.7"}, True),
        ({"series_description": "*thorax*", "warnings": "!=slope-varies"}, True),
        ({"study_date": dt.date(2026, 1, 31)}, True),
        ({"study_date": ">=2026-02-01"}, False),
    ],
)
def test_it_selects_what_it_says(where: Any, fits: bool) -> None:
    selector = compile_selector(where)
    assert selector.matches(FACTS) is fits
    assert bool(selector.why_not(FACTS)) is not fits


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_value_never_raises_and_fits_only_what_is_negated(name: str) -> None:
    field = FIELDS[name]
    examples = {"text": '"x*"', "number": "1", "date": '"2026-01-01"', "moment": '"2026-01-01T00:00"'}
    operator = "<" if field.type == "moment" else "=="
    assert not compile_selector(f"{name} {operator} {examples[field.type]}").matches(MISSING)
    assert compile_selector(f"not {name} {operator} {examples[field.type]}").matches(MISSING)
    assert compile_selector(f"{name} == null").matches(MISSING)
    assert not compile_selector(f"{name} != null").matches(MISSING)
    if operator == "==":
        assert compile_selector(f"{name} != {examples[field.type]}").matches(MISSING)


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ('modalty == "CT"', 'at character 1: unknown field "modalty", did you mean "modality"?'),
        ('modality == "CT" and slice > 3', 'at character 22: unknown field "slice", did you mean "slices"?'),
        ('modality = "CT"', "at character 10: = is not an operator, write =="),
        ('modality <> "CT"', "at character 10: <> is not an operator, write !="),
        ('modality == "CT" && slices > 3', "at character 18: && is not an operator, write and"),
        ('!(modality == "CT")', "at character 1: ! is not an operator, write not"),
        ("modality == CT", 'at character 13: a value is expected, not CT; write text in quotes, as "CT"'),
        ('modality == "CT', 'at character 13: the text that begins with " does not end'),
        ("modality > 'CT'", "at character 12: modality is a text, which has no order"),
        ("modality == 3", 'modality is a text: write its value in quotes, as "3"'),
        ('slices == "3"', "at character 11: slices is a number; '3' is not"),
        ("slices > null", "null has no order: write slices == null"),
        ('verdict == "compleet"', '"compleet" is not a value of verdict, did you mean "complete"?'),
        ('study_date == "31.1.2026"', 'study_date is a date: write it as "2026-01-31"'),
        ('study_date >= "2026-11"', 'study_date is a date: write it as "2026-11-01"'),
        ('BodyPartExamined == "HEAD"', 'unknown field "BodyPartExamined", did you mean "body_part"?'),
        ('body_part_examined == "HEAD"', 'unknown field "body_part_examined", did you mean "body_part"?'),
        ('ReferringPhysicianName == "X"', 'did you mean "referring_physician_name"?'),
        ('study_date >= "2026"', 'study_date is a date: write it as "2026-01-01"'),
        ('last_received_at == "2026-01-31"', "last_received_at is a moment: compare it by <, <=, > or >="),
        ("slices > 3 and", "at the end: a field is expected"),
        ("", "at the end: a field is expected"),
        ('(modality == "CT"', "at the end: the parenthesis at character 1 is not closed: write )"),
        ('modality in "CT"', 'at character 13: in is followed by a list, such as ["CT", "PT"]'),
        ('modality in ["CT"', "at the end: the list at character 13 is not closed: write ]"),
        ('modality not == "CT"', "at character 14: not is followed by in here"),
        ("slices", "at the end: after slices comes ==, !=, <"),
        ('modality == "CT" slices > 3', "at character 18: slices does not belong here"),
        ('modality == "CT" AND slices > 3', 'AND does not belong here, did you mean "and"?'),
        ("slices > 5e3", "at character 10: not a number"),
        ("modality.__class__ == 'x'", "at character 9: '.' has no meaning here"),
        ('"CT" == modality', 'at character 1: a field is expected, not "CT"'),
        ("slices > 3; DROP TABLE images", "at character 11: ';' has no meaning here"),
        ("(" * 500 + "slices > 3" + ")" * 500, "parentheses and not within one another"),
        ("not " * 400 + "slices > 3", "parentheses and not within one another"),
        ("x" * (MAX_LENGTH + 1), f"an expression has at most {MAX_LENGTH} characters"),
        ('modality == "' + "*a" * 50 + '"', "more than 9 asterisks"),
        ({}, "an empty table selects nothing in particular"),
        ({"modalty": "CT"}, 'unknown field "modalty", did you mean "modality"?'),
        ({"slices": ">=fifty"}, "slices: 'fifty' after >= is not a number"),
        ({"slices": "50"}, "slices: slices is a number; '50' is not"),
        ({"modality": True}, "modality: True is not a text, a number or a date"),
        ({"modality": []}, "modality: a list has 1 to 100 values"),
        ({"modality": {"is": "CT"}}, "is not a text, a number or a date"),
        ({"verdict": ["complete", "ok"]}, '"ok" is not a value of verdict'),
        ({"modality": ">CT"}, "modality is a text, which has no order"),
    ],
)
def test_what_is_wrong_is_refused_with_the_place_and_the_remedy(where: Any, problem: str) -> None:
    with pytest.raises(WrongSelector) as refusal:
        compile_selector(where)
    assert problem in str(refusal.value)


def test_the_clauses_that_fail_are_reported_with_their_values() -> None:
    selector = compile_selector(
        'modality == "MR" and slices >= 50 and (verdict == "suspect" or body_part == "CHEST") and not slices > 5'
    )
    assert selector.why_not(FACTS) == [
        ('modality == "MR"', 'modality is "CT"'),
        ('verdict == "suspect"', 'verdict is "complete"'),
        ('body_part == "CHEST"', "body_part is null"),
        ("not slices > 5", "slices is 60"),
    ]
    table = compile_selector({"slices": ">=100", "modality": ["MR", "PT"], "warnings": "lossy"})
    assert table.why_not(FACTS) == [
        ("slices >= 100", "slices is 60"),
        ('modality in ["MR", "PT"]', 'modality is "CT"'),
        ('warnings == "lossy"', 'warnings is ["gantry-tilt", "missing-slice"]'),
    ]


@pytest.mark.parametrize(
    ("where", "may"),
    [
        ('weighting == "T1"', True),
        ('modality == "CT" and weighting == "T1" and warnings == "lossy"', True),
        ('modality == "MR" and weighting == "T1"', False),
        ('modality == "MR" or slices > 5', True),
        ('modality == "MR" or modality == "PT"', False),
        ("volumes == 1 and not verdict == null", True),
        ('not (modality == "CT" or slices > 5)', False),
        ('not (modality == "CT" and verdict == null)', True),
        ("echo_time_ms > 20", False),
        ('state == "refused"', False),
    ],
)
def test_an_open_series_may_fit_a_clause_about_what_its_conversion_tells(where: str, may: bool) -> None:
    """Of an earlier conversion, it has an echo time."""
    open_series = MISSING | {"modality": "CT", "state": "receiving", "volumes": 0, "echo_time_ms": 12.0}
    selector = compile_selector(where)
    assert not selector.matches(open_series)
    assert selector.may_match(open_series) is may
    assert ("not converted yet" in [instead for _, instead in selector.why_not(open_series)]) or not may
    assert not selector.may_match(open_series | {"state": "converted"})


def test_what_others_select_can_be_left_out() -> None:
    ct, thick = compile_selector({"modality": "CT"}), compile_selector("slices > 3")
    assert without(None, []) is None
    rest = without(ct, [thick])
    assert rest.fields == {"modality", "slices"}
    for modality, slices, fits in (("CT", 1, True), ("CT", 5, False), ("MR", 1, False), ("CT", None, True)):
        facts = {"modality": modality, "slices": slices}
        assert rest.matches(facts) is fits
        assert bool(rest.why_not(facts)) is not fits
    default = without(None, [ct, thick])
    assert default.matches({"modality": "MR", "slices": None})
    assert default.why_not({"modality": "CT", "slices": 1}) == [("not ({'modality': 'CT'})", 'modality is "CT"')]


def test_it_reads_only_the_fields_that_it_names() -> None:
    selector = compile_selector('modality == "CT" and (slices > 3 or not warnings == "lossy")')
    assert selector.fields == {"modality", "slices", "warnings"}
    assert selector.matches({"modality": "CT", "slices": 4, "warnings": []})


def test_a_hostile_pattern_takes_no_longer_than_a_harmless_one() -> None:
    pattern = "*".join(["a" * 20 + "?"] * 9) + "b"
    selector = compile_selector(f'series_description == "{pattern}"')
    began = process_time()
    assert not selector.matches({"series_description": "a" * 10_000})
    assert process_time() - began < 5


@pytest.mark.slow
@given(st.text(max_size=60) | st.text("()[] ,=<>!\"'andortifCT*?.-0123456789slices", max_size=60))
def test_any_text_is_compiled_or_refused(text: str) -> None:
    try:
        selector = compile_selector(text)
    except WrongSelector:
        return
    assert selector.matches(FACTS) is not bool(selector.why_not(FACTS))
