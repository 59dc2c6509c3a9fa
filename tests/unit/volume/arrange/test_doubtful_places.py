"""Positions of slices that numbers, locations and stated distances deny."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.reasons import WarningKind
from tests import make, truth

SLICES = 9
EXCHANGED = (0, 1, 6, 3, 4, 5, 2, 7, 8)
TURNED = (1, 2, 3, 4, 5, 6, 7, 8, 0)
SHUFFLED = (0, 4, 8, 3, 7, 2, 6, 1, 5)


def doubts(*datasets: FileDataset) -> list[str]:
    return [
        warning.detail
        for volume in assemble(datasets).volumes
        for warning in volume.warnings
        if warning.name is WarningKind.POSITIONS_DOUBTFUL
    ]


def located(step_mm: float = make.SPACING_MM, **attributes: Any) -> list[FileDataset]:
    locations = [make.decimal(step_mm * index) for index in range(SLICES)]
    return make.mr_series(SLICES, SliceLocation=locations, **attributes)


def placed(series: list[FileDataset], places: Sequence[int]) -> list[FileDataset]:
    positions = [ds.ImagePositionPatient for ds in series]
    for ds, place in zip(series, places, strict=True):
        ds.ImagePositionPatient = positions[place]
    return series


@pytest.mark.parametrize(("places", "astray"), [(EXCHANGED, 2), (TURNED, 8), (SHUFFLED, 6)])
def test_locations_and_numbers_that_agree_on_another_order_deny_positions(places: Sequence[int], astray: int) -> None:
    [doubt] = doubts(*placed(located(), places))
    assert f"{astray} of {SLICES} slices" in doubt
    assert "Slice Location (0020,1041) and Instance Number (0020,0013)" in doubt


def test_numbers_alone_deny_only_positions_of_a_few_slices() -> None:
    assert len(doubts(*placed(make.mr_series(SLICES), EXCHANGED))) == 1
    assert not doubts(*placed(make.mr_series(SLICES), SHUFFLED))


@pytest.mark.parametrize(("step_mm", "is_denied"), [(make.SPACING_MM, True), (2 * make.SPACING_MM, False)])
def test_slice_location_alone_denies_positions_if_it_has_their_distances(step_mm: float, is_denied: bool) -> None:
    assert len(doubts(*placed(located(step_mm, InstanceNumber=0), SHUFFLED))) == is_denied


@pytest.mark.parametrize("wrong", ["SliceLocation", "InstanceNumber"])
def test_positions_that_one_source_confirms_are_not_denied_by_another_one(wrong: str) -> None:
    series = located()
    values = [ds[wrong].value for ds in series]
    for ds, place in zip(series, EXCHANGED, strict=True):
        ds[wrong].value = values[place]
    assert not doubts(*series)


def test_slices_that_run_against_their_normal_are_not_doubtful() -> None:
    assert not doubts(*placed(located(), range(SLICES)[::-1]))


def test_one_time_with_exchanged_positions_is_enough() -> None:
    series = truth.series(3, SLICES, clock=True).datasets
    placed(series[SLICES : 2 * SLICES], EXCHANGED)
    assert len(doubts(*series)) == 1


def test_frames_of_one_position_have_one_slice_location() -> None:
    series = truth.series(2, 2, clock=True).datasets
    for ds, location in zip(series, (0, 1, 0, 1), strict=True):
        ds.SliceLocation = make.decimal(make.SPACING_MM * location)
    assert not doubts(*series)
    series[1].ImagePositionPatient, series[2].ImagePositionPatient = (
        series[2].ImagePositionPatient,
        series[1].ImagePositionPatient,
    )
    [doubt] = doubts(*series)
    assert "at 2 of 2 slices" in doubt


def test_a_slice_that_was_taken_again_at_the_end_denies_no_positions() -> None:
    series = make.mr_series(SLICES)
    series[-3].InstanceNumber = SLICES + 1
    assert not doubts(*series)


def test_a_table_that_moves_to_and_fro_denies_no_positions() -> None:
    series = truth.series(3, SLICES, clock=True).datasets
    for ds, number in zip(series[SLICES : 2 * SLICES], range(2 * SLICES, SLICES, -1), strict=True):
        ds.InstanceNumber = number
    assert not doubts(*series)
    placed(series[:SLICES], EXCHANGED)
    assert len(doubts(*series)) == 1


def test_in_stack_position_numbers_deny_positions() -> None:
    ds = make.enhanced_mr(SLICES)
    assert not doubts(ds)
    groups = ds.PerFrameFunctionalGroupsSequence
    places = [deepcopy(group.PlanePositionSequence) for group in groups]
    for group, place in zip(groups, EXCHANGED, strict=True):
        group.PlanePositionSequence = places[place]
    [doubt] = doubts(ds)
    assert "In-Stack Position Number (0020,9057)" in doubt


@pytest.mark.parametrize(
    ("located_mm", "spacing", "is_denied"), [(5, "5", True), (5, "2.5", False), (2.5, "5", False), (5, None, False)]
)
def test_locations_and_the_stated_distance_that_agree_deny_that_of_positions(
    located_mm: float, spacing: str | None, is_denied: bool
) -> None:
    found = doubts(*located(located_mm, SpacingBetweenSlices=spacing))
    assert [("2.5 mm" in doubt, "5 mm" in doubt) for doubt in found] == [(True, True)] * is_denied


def test_the_distance_of_tilted_slices_along_the_table_is_theirs() -> None:
    series = make.tilted_ct_series(SLICES)
    step_mm = make.SPACING_MM / np.cos(np.radians(15))
    for index, ds in enumerate(series):
        ds.SliceLocation, ds.SpacingBetweenSlices = make.decimal(index * step_mm), make.decimal(step_mm)
    assert not doubts(*series)


def test_positions_exchanged_in_one_of_several_times_are_denied_by_the_slices_of_the_others() -> None:
    ds = make.enhanced_mr(3, 3)
    first, second, *_ = ds.PerFrameFunctionalGroupsSequence
    places = deepcopy(first.PlanePositionSequence), deepcopy(second.PlanePositionSequence)
    second.PlanePositionSequence, first.PlanePositionSequence = places
    [doubt] = doubts(ds)
    assert "2 of 9 slices" in doubt
