"""Positions of slices that numbers, locations and stated distances deny."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.arrange.doubtful_places import unrounded
from node.volume.assemble import assemble
from node.volume.geometry import Geometry
from node.volume.reasons import WarningKind
from tests import make, truth
from tests.volumes import axial_frame

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


# Positions that were rounded to whole millimetres, and exact ones that only look like it.


STEP_MM = 1.25


def series(step_mm=STEP_MM, count=14, left_out=(), *, origin=37.5, orientation=make.AXIAL, **attributes):
    """A CT whose positions were rounded, with the true positions."""
    true = make.stack_positions(count, step_mm, (-100, -90, origin), orientation)
    locations = true @ np.cross(orientation[:3], orientation[3:])
    kept = [index for index in range(count) if index not in left_out]
    own = {
        "positions": np.rint(true)[kept],
        "pixels": make.pattern(count, 16, 12)[kept],
        "SliceLocation": [make.decimal(locations[index]) for index in kept],
        "SliceThickness": make.decimal(step_mm),
        "InstanceNumber": [index + 1 for index in kept],
    } | attributes
    return make.ct_series(len(kept), spacing=step_mm, orientation=orientation, **own), true[kept]


def only(datasets, **options):
    (volume,) = [own for own in assemble(datasets, **options).volumes if own.kind == "volume"]
    return volume


def names(volume):
    return [warning.name for warning in volume.warnings]


def places(volume):
    ends = np.array([[0, 0, index, 1] for index in range(volume.voxels.shape[1])])
    return (ends @ volume.affine_lps.T)[:, :3]


@pytest.mark.sample(6)
@pytest.mark.parametrize("step_mm", [0.4, 0.9, 1.25, 1.7, 2.5, 3.3])
@pytest.mark.parametrize("orientation", [make.AXIAL, make.SAGITTAL, make.OBLIQUE])
def test_slice_location_and_thickness_place_rounded_slices(step_mm, orientation):
    datasets, true = series(step_mm, orientation=orientation)
    volume = only(datasets)
    assert (volume.geometry, names(volume)) == (Geometry.REGULAR, [WarningKind.REPAIRED])
    assert volume.spacing_mm[2] == pytest.approx(step_mm)
    assert np.abs(places(volume) - true).max() <= 0.5
    assert np.array_equal(volume.voxels[0], make.pattern(14, 16, 12) - 1024)


def test_slice_location_gives_the_true_place():
    datasets, true = series()
    assert places(only(datasets)) == pytest.approx(true)


@pytest.mark.parametrize("stated", [{"SpacingBetweenSlices": "1.25", "SliceThickness": "2.5"}, {}])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_numbers_and_a_stated_distance_place_rounded_slices(stated, is_reversed):
    datasets, true = series(SliceLocation=None, **stated)
    if is_reversed:
        for ds in datasets:
            ds.InstanceNumber = 20 - ds.InstanceNumber
    volume = only(datasets)
    assert names(volume) == [WarningKind.REPAIRED]
    assert volume.spacing_mm[2] == pytest.approx(STEP_MM)
    assert np.abs(places(volume) - true).max() <= 0.5


@pytest.mark.parametrize("located", [{}, {"SliceLocation": None}])
@pytest.mark.parametrize("step_mm", [1.25, 2.5])
def test_a_slice_that_is_lost_between_rounded_ones_stays_lost(located, step_mm):
    datasets, _ = series(step_mm, left_out=(6,), origin=37.25, **located)
    volume = only(datasets)
    assert set(names(volume)) == {WarningKind.REPAIRED, WarningKind.MISSING_SLICE}
    (lost,) = [warning.detail for warning in volume.warnings if warning.name is WarningKind.MISSING_SLICE]
    assert lost.startswith(f"1 slice between others is missing at {step_mm} mm spacing, after slice 6")


def test_slices_that_are_lost_from_whole_positions_stay_lost_although_the_rest_was_numbered_again():
    datasets, _ = series(1, left_out=(5,), origin=37, SliceLocation=None, SliceThickness="1.25")
    for index, ds in enumerate(datasets, start=1):
        ds.InstanceNumber = index
    volume = only(datasets)
    assert WarningKind.MISSING_SLICE in names(volume)
    assert WarningKind.REPAIRED not in names(volume)


def test_positions_stay_as_they_are_without_repair():
    datasets, _ = series()
    volume = only(datasets, repair=False)
    assert WarningKind.MISSING_SLICE in names(volume)
    assert WarningKind.REPAIRED not in names(volume)


def exact(rng):
    """Exact positions of a random series: even, uneven, with gaps, and whole ones."""
    count = int(rng.integers(3, 25))
    step_mm = float(rng.choice([0.4, 0.625, 0.9, 1, 1.25, 1.5, 2, 3, 5, 7.5]))
    steps = np.full(count - 1, step_mm)
    kind = rng.integers(4)
    if kind == 1:
        steps *= rng.integers(1, 3, count - 1)
    elif kind == 2:
        steps += rng.uniform(-0.3, 0.3, count - 1) * step_mm
    elif kind == 3:
        steps = np.rint(steps + rng.integers(0, 3, count - 1)).clip(1)
    z = np.concatenate(([0], np.cumsum(steps))) + rng.integers(-300, 300)
    orientation = make.AXIAL if rng.random() < 0.7 else make.OBLIQUE
    normal = np.cross(orientation[:3], orientation[3:])
    return z, z[:, None] * normal, orientation, step_mm


@pytest.mark.slow
def test_exact_positions_are_never_moved():
    rng = np.random.default_rng(59)
    for _ in range(4000):
        z, positions, orientation, step_mm = exact(rng)
        thickness = step_mm * float(rng.choice([0.5, 0.8, 0.9, 1, 1, 2]))
        stated = rng.choice([None, step_mm])
        located = rng.random() < 0.6
        frames = [
            axial_frame(
                index + 1,
                np.zeros((2, 2), np.int16),
                tuple(place),
                orientation=np.array(orientation),
                slice_thickness_mm=thickness,
                spacing_between_slices_mm=stated,
                instance_number=index + 1,
                time_key={"slice_location": float(z[index]) if located else None},
            )
            for index, place in enumerate(positions)
        ]
        assert unrounded(frames) is frames, (z, thickness, stated, located)


@pytest.mark.parametrize(("spacing_mm", "is_doubtful"), [(0.06, True), (0.4, False)])
def test_slices_much_nearer_than_pixels_may_be_the_noise_of_one_position(spacing_mm: float, is_doubtful: bool) -> None:
    assert any("one position" in doubt for doubt in doubts(*make.ct_series(2, spacing=spacing_mm))) == is_doubtful
