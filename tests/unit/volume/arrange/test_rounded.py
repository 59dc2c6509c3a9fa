"""Positions that were rounded to whole millimetres, and exact ones that only look like it."""

import numpy as np
import pytest

from node.volume.arrange.doubtful_places import unrounded
from node.volume.assemble import assemble
from node.volume.geometry import Geometry
from node.volume.reasons import WarningKind
from tests import make
from tests.volumes import axial_frame

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
