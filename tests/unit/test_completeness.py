"""The verdict on a quiet series: one rule decides, and says which."""

from __future__ import annotations

from typing import Any

import pytest

from node.completeness import (
    CERTAINTIES,
    MPPS,
    Evidence,
    Expectation,
    InstanceCounts,
    Reported,
    completeness_of,
    expectation,
    performed,
)


def series(count: int, **announced: Any) -> list[InstanceCounts]:
    return [InstanceCounts(instance_number=number + 1, **announced) for number in range(count)]


GAP = Evidence("geometry", "missing-slice: 1 slice after slice 3", "a slice after slice 3")
NUMBERS = Evidence("instance-numbers", "Instance Number 4 is missing", "Instance Number 4", 1)
SPACING = Evidence("spacing", "slices lie 5 mm apart, not 2.5 mm", "1 of 2 slices", 4, doubtful=True)
TIMES = Evidence("headers", "2 of 3 times", "1 time", 5)


def verdict(
    instances: list[InstanceCounts], *findings: Evidence, placed: bool = True, times: int = 1, **how: Any
) -> tuple:
    found = completeness_of(expectation(instances, **how), findings, placed=placed, times=times)
    assert found.received == len(instances)
    return found.state, found.rule, found.expected, found.missing


def test_without_a_count_the_geometry_decides() -> None:
    assert verdict(series(5)) == ("complete", "geometry", None, 0)
    assert verdict(series(5), GAP) == ("incomplete", "geometry", None, None)


def test_a_hole_in_instance_number_tells_how_many_a_gap_lacks() -> None:
    instances = series(6)
    del instances[3]
    assert verdict(instances, GAP, NUMBERS) == ("incomplete", "geometry", None, 1)
    assert verdict(instances, GAP) == ("incomplete", "geometry", None, 1)


def test_every_fact_is_in_the_reason_and_all_that_is_missing_is_listed() -> None:
    found = completeness_of(expectation(series(5)), [GAP, NUMBERS, SPACING], placed=True, times=1)
    assert (found.state, found.rule) == ("incomplete", "geometry")
    assert found.reason == f"{GAP.fact}; {NUMBERS.fact}; {SPACING.fact}; 5 instances received"
    assert found.missing_detail == f"{GAP.missing}; {NUMBERS.missing}; {SPACING.missing}"


def test_doubtful_facts_alone_make_a_series_suspect() -> None:
    assert verdict(series(5), SPACING) == ("suspect", "spacing", None, 4)
    assert verdict(series(5), SPACING, NUMBERS) == ("incomplete", "instance-numbers", None, 1)


def test_missing_numbers_of_a_series_with_as_many_instances_as_announced_are_doubtful() -> None:
    assert verdict(series(5, images_in_acquisition=5), NUMBERS) == ("suspect", "instance-numbers", 5, 1)
    assert verdict(series(6, images_in_acquisition=5), NUMBERS) == ("incomplete", "instance-numbers", 5, 1)


def test_fewer_times_than_announced_are_incomplete_unless_the_instances_are_as_many() -> None:
    assert verdict(series(10), TIMES) == ("incomplete", "headers", None, 5)
    assert verdict(series(10, number_of_slices=5, number_of_time_slices=2), TIMES)[0] == "complete"


def test_times_of_which_another_series_may_hold_some_are_not_expected() -> None:
    counts = {"images_in_acquisition": 5, "number_of_temporal_positions": 3}
    assert verdict(series(5, **counts), TIMES)[0] == "incomplete"
    assert verdict(series(5, **counts), TIMES, split=True) == ("complete", "headers", 5, 0)
    assert verdict(series(10, **counts), TIMES, split=True, times=2)[0] == "incomplete"


def test_fewer_instances_than_each_of_several_other_series_of_the_protocol_are_suspect() -> None:
    assert verdict(series(5), siblings=(6, 6)) == ("suspect", "siblings", None, 1)
    assert verdict(series(5), siblings=(6,)) == ("complete", "geometry", None, 0)
    assert verdict(series(5), siblings=(6, 7)) == ("complete", "geometry", None, 0)
    assert verdict(series(5), siblings=(4, 4)) == ("complete", "geometry", None, 0)
    assert verdict(series(5, images_in_acquisition=5), siblings=(6, 6)) == ("complete", "headers", 5, 0)


def test_holes_in_instance_number_count_alone_only_without_geometry() -> None:
    instances = series(6)
    del instances[3]
    assert verdict(instances, placed=False, times=0) == ("incomplete", "instance-numbers", None, 1)
    assert verdict(instances) == ("complete", "geometry", None, 0)


def test_numbers_that_are_not_counted_one_by_one_have_no_holes() -> None:
    every_tenth = [InstanceCounts(instance_number=10 * number) for number in range(5)]
    same = [InstanceCounts(instance_number=1) for _ in range(5)]
    assert expectation(every_tenth).holes == expectation(same).holes == 0


def test_images_in_acquisition_are_expected() -> None:
    assert verdict(series(5, images_in_acquisition=5)) == ("complete", "headers", 5, 0)
    assert verdict(series(4, images_in_acquisition=5)) == ("incomplete", "headers", 5, 1)


def test_images_of_several_acquisitions_are_added_up() -> None:
    two = series(5, images_in_acquisition=5, acquisition_number=1) + series(
        4, images_in_acquisition=5, acquisition_number=2
    )
    assert verdict(two) == ("incomplete", "headers", 10, 1)
    assert verdict([*two, two[-1]]) == ("complete", "headers", 10, 0)


def test_images_in_acquisition_that_count_the_series_are_believed_in_each_acquisition() -> None:
    two = [InstanceCounts(number, acquisition_number=number % 2, images_in_acquisition=6) for number in range(6)]
    assert verdict(two) == ("complete", "headers", 6, 0)


def test_images_in_acquisition_may_count_one_time_or_all_of_them() -> None:
    each, every = {"images_in_acquisition": 4}, {"images_in_acquisition": 12}
    times = {"number_of_temporal_positions": 3}
    assert verdict(series(12, **each, **times), times=3) == ("complete", "headers", 12, 0)
    assert verdict(series(12, **every, **times), times=3) == ("complete", "headers", 12, 0)
    assert verdict(series(8, **each, **times), times=2) == ("incomplete", "headers", 12, 4)


def test_one_time_of_several_is_not_all_of_them() -> None:
    assert verdict(series(4, images_in_acquisition=4, number_of_temporal_positions=3)) == (
        "incomplete", "headers", 12, 8,
    )  # fmt: skip


def test_slices_and_time_slices_of_a_pet_are_multiplied() -> None:
    counts = {"number_of_slices": 5, "number_of_time_slices": 3}
    assert verdict(series(15, **counts), times=3) == ("complete", "headers", 15, 0)
    assert verdict(series(14, **counts), times=3) == ("incomplete", "headers", 15, 1)


def test_images_are_no_instances_where_one_holds_several_frames() -> None:
    multi = series(1, number_of_frames=90, number_of_slices=30, number_of_time_slices=3, images_in_acquisition=90)
    assert verdict(multi) == ("complete", "geometry", None, 0)


def test_series_related_instances_count_instances_of_any_kind() -> None:
    assert verdict(series(1, number_of_frames=90, number_of_series_related_instances=2)) == (
        "incomplete", "headers", 2, 1,
    )  # fmt: skip


def test_more_than_announced_is_complete() -> None:
    assert verdict(series(6, images_in_acquisition=5)) == ("complete", "headers", 5, 0)


def test_a_gap_is_told_although_the_count_agrees_and_the_reason_names_both() -> None:
    found = completeness_of(expectation(series(5, images_in_acquisition=5)), [GAP], placed=True, times=1)
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
    found = completeness_of(known, [finding] if finding else [], placed=True, times=1)
    assert (found.state, found.rule, found.missing) == (state, rule, missing)
    assert words in found.reason


@pytest.mark.parametrize("how", [{"aborted": True}, {"forced": True}])
def test_a_series_cut_short_is_complete_if_the_sender_has_no_more(how: dict[str, bool]) -> None:
    assert verdict(series(5), reported=Reported(5, 5), **how) == ("complete", "c-find", 5, 0)


@pytest.mark.parametrize(("how", "rule"), [({"aborted": True}, "association"), ({"forced": True}, "forced")])
def test_a_series_cut_short_is_incomplete_unless_a_count_says_otherwise(how: dict[str, bool], rule: str) -> None:
    assert verdict(series(5), **how) == ("incomplete", rule, None, None)
    assert verdict(series(5, images_in_acquisition=5), **how) == ("complete", "headers", 5, 0)


def test_what_gave_no_volume_is_judged_by_what_came() -> None:
    assert completeness_of(Expectation(3)).rule == "quiet"
    assert completeness_of(Expectation(0)).state == "complete"


def test_the_list_of_a_performed_procedure_step_decides() -> None:
    stored = [f"1.2.{number}" for number in range(20)]
    complete = completeness_of(Expectation(20, performed=performed(stored, stored)))
    assert (complete.state, complete.rule, complete.expected, complete.missing) == ("complete", "mpps", 20, 0)
    more = completeness_of(Expectation(20, reported=Reported(20, 25), performed=performed(stored[:18], stored)))
    assert (more.state, "2 more that it does not list" in more.reason) == ("complete", True)
    less = completeness_of(Expectation(5, performed=performed(stored, stored[:5])))
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
    assert completeness_of(known).certainty == word
    assert word in CERTAINTIES
