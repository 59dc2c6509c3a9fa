"""The verdict on a quiet series: one rule decides, and says which."""

from dataclasses import replace
from typing import Any

import pytest

from node.completeness import (
    CERTAINTIES,
    MPPS,
    Evidence,
    Expectation,
    Findings,
    Reported,
    expectation,
    performed,
    verdict_of,
)
from node.dicom.counts import InstanceCounts


def series(count: int, **announced: Any) -> list[InstanceCounts]:
    return [InstanceCounts(instance_number=number + 1, **announced) for number in range(count)]


GAP = Evidence("geometry", "missing-slice: 1 slice after slice 3", "a slice after slice 3")
NUMBERS = Evidence("instance-numbers", "Instance Number 4 is missing", "Instance Number 4", 1)
SPACING = Evidence("spacing", "slices lie 5 mm apart, not 2.5 mm", "1 of 2 slices", 4, doubtful=True)
PLACED = Findings(placed=True, times=1)
TIMES = Evidence("headers", "2 of 3 times", "1 time", 5)


def verdict(
    instances: list[InstanceCounts], *findings: Evidence, placed: bool = True, times: int = 1, **how: Any
) -> tuple:
    found = verdict_of(expectation(instances, **how), Findings(findings, placed, times))
    assert found.received == len(instances)
    return found.state, found.rule, found.expected, found.missing


LOST_4TH = [one for one in series(6) if one.instance_number != 4]
IMAGES_5 = {"images_in_acquisition": 5}
IMAGES_5_TIMES_3 = {"images_in_acquisition": 5, "number_of_temporal_positions": 3}
FIVE_NUMBERS = Evidence("instance-numbers", "Instance Numbers 2-6 are missing", "Instance Numbers 2-6", 5)
LOST_FIVE = [one for one in series(9, **IMAGES_5) if one.instance_number in (1, 7, 8, 9)]
LOST_FIVE_OF_TIMES = [replace(one, number_of_temporal_positions=2) for one in LOST_FIVE]
IMAGES_4_TIMES_3 = {"images_in_acquisition": 4, "number_of_temporal_positions": 3}
IMAGES_12_TIMES_3 = {"images_in_acquisition": 12, "number_of_temporal_positions": 3}
SLICES_5_TIMES_3 = {"number_of_slices": 5, "number_of_time_slices": 3}
OF_TWO_ACQUISITIONS = series(5, **IMAGES_5, acquisition_number=1) + series(4, **IMAGES_5, acquisition_number=2)
OF_EACH_ACQUISITION = [
    InstanceCounts(number, acquisition_number=number % 2, images_in_acquisition=6) for number in range(6)
]
OF_UNEQUAL_ACQUISITIONS = series(6, images_in_acquisition=6, acquisition_number=1) + series(
    4, images_in_acquisition=4, acquisition_number=2
)
OF_THE_GREATER_ACQUISITION = series(4, images_in_acquisition=6, acquisition_number=1) + series(
    2, images_in_acquisition=4, acquisition_number=2
)
MULTIFRAME = series(1, number_of_frames=90, number_of_slices=30, number_of_time_slices=3, images_in_acquisition=90)
OF_ANY_KIND = series(1, number_of_frames=90, number_of_series_related_instances=2)

VERDICTS: dict[str, tuple[list[InstanceCounts], list[Evidence], dict[str, Any], tuple[Any, ...]]] = {
    "without a count the geometry decides": (series(5), [], {}, ("complete", "geometry", None, 0)),
    "a gap": (series(5), [GAP], {}, ("incomplete", "geometry", None, None)),
    "a gap, of which a number tells the size": (LOST_4TH, [GAP, NUMBERS], {}, ("incomplete", "geometry", None, 1)),
    "a gap, of which a hole tells the size": (LOST_4TH, [GAP], {}, ("incomplete", "geometry", None, 1)),
    "a doubtful fact alone": (series(5), [SPACING], {}, ("suspect", "spacing", None, 4)),
    "a doubtful fact beside another": (series(5), [SPACING, NUMBERS], {}, ("incomplete", "instance-numbers", None, 1)),
    "numbers missing of as many as announced": (
        series(5, **IMAGES_5), [NUMBERS], {}, ("suspect", "instance-numbers", 5, 1),
    ),
    "numbers missing of more than announced": (
        series(6, **IMAGES_5), [NUMBERS], {}, ("incomplete", "instance-numbers", 5, 1),
    ),
    "fewer times than announced": (series(10), [TIMES], {}, ("incomplete", "headers", None, 5)),
    "fewer times, but as many instances": (
        series(10, number_of_slices=5, number_of_time_slices=2), [TIMES], {}, ("complete", "headers", 10, 0),
    ),
    "fewer times than announced in a whole series": (
        series(5, **IMAGES_5_TIMES_3), [TIMES], {}, ("incomplete", "headers", 15, 10),
    ),
    "one time, others may be in another series": (
        series(5, **IMAGES_5_TIMES_3), [TIMES], {"split": True}, ("complete", "headers", 5, 0),
    ),
    "two times, others may be in another series": (
        series(10, **IMAGES_5_TIMES_3), [TIMES], {"split": True, "times": 2}, ("incomplete", "headers", 15, 5),
    ),
    "fewer than each of two siblings": (series(5), [], {"siblings": (6, 6)}, ("suspect", "siblings", None, 1)),
    "fewer than one sibling": (series(5), [], {"siblings": (6,)}, ("complete", "geometry", None, 0)),
    "fewer than siblings that differ": (series(5), [], {"siblings": (6, 7)}, ("complete", "geometry", None, 0)),
    "more than siblings": (series(5), [], {"siblings": (4, 4)}, ("complete", "geometry", None, 0)),
    "a count against siblings": (series(5, **IMAGES_5), [], {"siblings": (6, 6)}, ("complete", "headers", 5, 0)),
    "a hole in the numbers without geometry": (
        LOST_4TH, [], {"placed": False, "times": 0}, ("incomplete", "instance-numbers", None, 1),
    ),
    "a hole in the numbers that geometry denies": (LOST_4TH, [], {}, ("complete", "geometry", None, 0)),
    "as many images as announced": (series(5, **IMAGES_5), [], {}, ("complete", "headers", 5, 0)),
    "fewer images than announced": (series(4, **IMAGES_5), [], {}, ("incomplete", "headers", 5, 1)),
    "more images than announced": (series(6, **IMAGES_5), [], {}, ("complete", "headers", 5, 0)),
    "images of acquisitions are added up": (OF_TWO_ACQUISITIONS, [], {}, ("incomplete", "headers", 10, 1)),
    "all images of two acquisitions": (
        [*OF_TWO_ACQUISITIONS, OF_TWO_ACQUISITIONS[-1]], [], {}, ("complete", "headers", 10, 0),
    ),
    "images of the series, in each acquisition": (OF_EACH_ACQUISITION, [], {}, ("complete", "headers", 6, 0)),
    "all images of two acquisitions that differ": (
        OF_UNEQUAL_ACQUISITIONS, [], {}, ("complete", "headers", 10, 0),
    ),
    "fewer images of two acquisitions that differ": (
        OF_UNEQUAL_ACQUISITIONS[:-1], [], {}, ("incomplete", "headers", 10, 1),
    ),
    "as many images as the greater of two counts": (
        OF_THE_GREATER_ACQUISITION, [], {}, ("complete", "headers", 6, 0),
    ),
    "images of one time": (series(12, **IMAGES_4_TIMES_3), [], {"times": 3}, ("complete", "headers", 12, 0)),
    "images of all times": (series(12, **IMAGES_12_TIMES_3), [], {"times": 3}, ("complete", "headers", 12, 0)),
    "two of three times": (series(8, **IMAGES_4_TIMES_3), [], {"times": 2}, ("incomplete", "headers", 12, 4)),
    "a count that the missing numbers contradict": (
        LOST_FIVE, [FIVE_NUMBERS], {}, ("incomplete", "instance-numbers", None, 5),
    ),
    "the count of all times, where numbers contradict that of one": (
        LOST_FIVE_OF_TIMES, [FIVE_NUMBERS], {}, ("incomplete", "headers", 10, 6),
    ),
    "one of three times": (series(4, **IMAGES_4_TIMES_3), [], {}, ("incomplete", "headers", 12, 8)),
    "slices by time slices": (series(15, **SLICES_5_TIMES_3), [], {"times": 3}, ("complete", "headers", 15, 0)),
    "less than slices by time slices": (
        series(14, **SLICES_5_TIMES_3), [], {"times": 3}, ("incomplete", "headers", 15, 1),
    ),
    "images are no instances of several frames": (MULTIFRAME, [], {}, ("complete", "geometry", None, 0)),
    "series related instances are of any kind": (OF_ANY_KIND, [], {}, ("incomplete", "headers", 2, 1)),
}  # fmt: skip


@pytest.mark.parametrize(("instances", "findings", "how", "expected"), VERDICTS.values(), ids=VERDICTS)
def test_one_rule_decides(
    instances: list[InstanceCounts], findings: list[Evidence], how: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert verdict(instances, *findings, **how) == expected


@pytest.mark.parametrize(
    ("instances", "findings", "how", "expected"),
    [
        (series(5), [], {"aside": 1}, ("incomplete", "conflict", 6, 1)),
        (LOST_4TH, [NUMBERS], {"aside": 1}, ("incomplete", "conflict", 6, 1)),
        (series(5), [], {"aside": 2, "performed": performed("abcdefghi", "abcde")}, ("incomplete", "conflict", 9, 4)),
        (series(3, **IMAGES_5), [], {"aside": 1}, ("incomplete", "conflict", 5, 2)),
        (series(5), [], {"versions": 3}, ("suspect", "versions", None, 0)),
        (LOST_4TH, [NUMBERS], {"versions": 3}, ("incomplete", "instance-numbers", None, 1)),
        (series(5), [], {"aside": 1, "lost": 2}, ("incomplete", "acknowledged", 7, 2)),
    ],
)
def test_what_was_set_aside_is_named(
    instances: list[InstanceCounts], findings: list[Evidence], how: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert verdict(instances, *findings, **how) == expected
    found = verdict_of(expectation(instances, **how), Findings(tuple(findings), placed=True, times=1))
    is_told = "set aside" in found.reason
    assert is_told == ("lost" not in how), found.reason
    if how.get("aside") == 1 and findings:
        assert "Instance Number" not in found.reason, "that is the one that was set aside"
    if instances == series(3, **IMAGES_5):
        assert found.reason.endswith("3 of 5 instances that Images in Acquisition (0020,1002) announces")


def test_every_fact_is_in_the_reason_and_all_that_is_missing_is_listed() -> None:
    found = verdict_of(expectation(series(5)), Findings((GAP, NUMBERS, SPACING), placed=True, times=1))
    assert (found.state, found.rule) == ("incomplete", "geometry")
    assert found.reason == f"{GAP.fact}; {NUMBERS.fact}; {SPACING.fact}; 5 instances received"
    assert found.missing_detail == f"{GAP.missing}; {NUMBERS.missing}; {SPACING.missing}"


def test_numbers_that_are_not_counted_one_by_one_have_no_holes() -> None:
    every_tenth = [InstanceCounts(instance_number=10 * number) for number in range(5)]
    same = [InstanceCounts(instance_number=1) for _ in range(5)]
    assert expectation(every_tenth).holes == expectation(same).holes == 0


def test_a_gap_is_reported_although_the_count_agrees_and_the_reason_names_both() -> None:
    found = verdict_of(expectation(series(5, images_in_acquisition=5)), Findings((GAP,), placed=True, times=1))
    assert (found.state, found.rule, found.expected, found.missing) == ("incomplete", "geometry", 5, None)
    assert "missing-slice" in found.reason
    assert "announces 5" in found.reason


@pytest.mark.parametrize(
    ("reported", "finding", "announced", "state", "rule", "missing", "words"),
    [
        (Reported(5, 5), None, None, "complete", "c-find", 0, "5 of 5 instances that the sender has (C-FIND)"),
        (Reported(5, 7, 2, ("1.2", "1.3")), None, None, "incomplete", "c-find", 2, "missing: 1.2, 1.3"),
        (Reported(5, 7, 2, ("1.2", "1.3")), None, 5, "incomplete", "c-find", 2, "5 of 7 instances"),
        (Reported(5, 7), None, None, "suspect", "c-find", 2, "5 of 7 instances that the sender has"),
        (Reported(5, 7, 0), None, None, "complete", "c-find", 0, "which counts 7"),
        (Reported(5, 5), GAP, None, "incomplete", "geometry", None, "the sender has 5 as well"),
        (Reported(5, 5), NUMBERS, None, "suspect", "instance-numbers", 1, "the sender has 5 as well"),
        (Reported(5, 5), None, 9, "suspect", "headers", 4, "5 of 9 instances that Images in Acquisition"),
        (Reported(5, 7), GAP, None, "incomplete", "geometry", None, "5 of 7 instances that the sender has"),
        (Reported(5, 3), None, None, "complete", "geometry", 0, "the sender has 3 (C-FIND)"),
        (Reported(5, 0), None, 5, "complete", "headers", 0, "the sender has 0 (C-FIND)"),
        (Reported(5, problem="does not answer C-FIND"), None, None, "complete", "geometry", 0, "does not answer"),
        (Reported(4, 4), None, None, "complete", "geometry", 0, "did not announce a count"),
    ],
)
def test_what_the_sender_has_decides_only_with_a_second_source(
    reported: Reported, finding: Evidence | None, announced: int | None, state: str, rule: str, missing: int, words: str
) -> None:
    known = expectation(series(5, images_in_acquisition=announced), reported=reported)
    found = verdict_of(known, Findings((finding,) if finding else (), placed=True, times=1))
    assert (found.state, found.rule, found.missing) == (state, rule, missing)
    assert words in found.reason


@pytest.mark.parametrize("how", [{"aborted": "sender"}, {"forced": True}])
def test_a_series_cut_short_is_complete_if_the_sender_has_no_more(how: dict[str, Any]) -> None:
    assert verdict(series(5), reported=Reported(5, 5), **how) == ("complete", "c-find", 5, 0)


@pytest.mark.parametrize(("how", "rule"), [({"aborted": "sender"}, "association"), ({"forced": True}, "forced")])
def test_a_series_cut_short_is_incomplete_unless_a_count_says_otherwise(how: dict[str, Any], rule: str) -> None:
    assert verdict(series(5), **how) == ("incomplete", rule, None, None)
    assert verdict(series(5, images_in_acquisition=5), **how) == ("complete", "headers", 5, 0)


@pytest.mark.parametrize(("how", "rule"), [({"aborted": "sender"}, "association"), ({"forced": True}, "forced")])
def test_a_weak_fact_hides_no_end_that_was_cut_short(how: dict[str, Any], rule: str) -> None:
    for doubts in ({"siblings": (6, 6)}, {"is_part": True}):
        found = verdict_of(expectation(series(5), **doubts, **how), PLACED)
        assert (found.state, found.rule) == ("incomplete", rule)
        assert verdict_of(expectation(series(5), **doubts), PLACED).reason in found.reason
    later = verdict_of(expectation(series(5), siblings=(6, 6), aborted="cut"), Findings(placed=True))
    assert (later.state, later.rule, later.missing) == ("incomplete", "association", 1)
    assert later.reason.startswith("the association of the sender ended in the middle of an instance, after 5 ")
    assert "2 other series" in later.reason


def test_what_gave_no_volume_is_judged_by_what_came() -> None:
    assert verdict_of(Expectation(3)).rule == "quiet"
    assert verdict_of(Expectation(0)).state == "complete"


def test_the_list_of_a_performed_procedure_step_decides() -> None:
    stored = [f"1.2.{number}" for number in range(20)]
    complete = verdict_of(Expectation(20, performed=performed(stored, stored)))
    assert (complete.state, complete.rule, complete.expected, complete.missing) == ("complete", "mpps", 20, 0)
    more = verdict_of(Expectation(20, reported=Reported(20, 25), performed=performed(stored[:18], stored)))
    assert (more.state, "2 more that it does not list" in more.reason) == ("complete", True)
    less = verdict_of(Expectation(5, performed=performed(stored, stored[:5])))
    assert (less.state, less.missing, less.expected_source) == ("incomplete", 15, MPPS)
    assert less.reason.endswith("and 5 more")
    assert sum(f"{uid}" in less.reason.replace(",", "").split() for uid in stored) == 10


@pytest.mark.parametrize(
    ("known", "word"),
    [
        (Expectation(5, announced=((5, "a header"),)), "verified"),
        (Expectation(5, reported=Reported(5, 5)), "verified"),
        (Expectation(5, performed=performed(["1.2"], ["1.2"])), "verified"),
        (Expectation(5), "no gap seen"),
        (Expectation(4, siblings=(5, 5)), "suspect"),
        (Expectation(4, reported=Reported(4, 5, 1)), "incomplete"),
    ],
)
def test_only_a_count_that_was_announced_verifies(known: Expectation, word: str) -> None:
    assert verdict_of(known).certainty == word
    assert word in CERTAINTIES
