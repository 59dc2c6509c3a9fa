"""Axes, positions and affines of stacks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.volume.geometry import (
    cluster_numbers,
    cluster_orientations,
    is_even,
    missing_slices,
    place_planes,
    position_labels,
    position_numbers,
    position_tolerance,
    stack_axes,
)
from node.volume.model import Geometry
from node.volume.reasons import WarningKind
from tests.make import AXIAL, CORONAL, OBLIQUE, stack_positions
from tests.volumes import axial_frame, volume

SPACING = (0.75, 0.5)

angles = st.floats(-np.pi, np.pi)
lengths = st.floats(0.1, 10.0)


@st.composite
def orientations(draw):
    """Any turn of the patient, as (6,) direction cosines."""
    a, b, c = (draw(angles) for _ in range(3))
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return (x @ y @ z)[:2].ravel()


def placed(positions, orientation=AXIAL, pixel_spacing=SPACING):
    axes = stack_axes(np.array([orientation]))
    return place_planes(np.asarray(positions, float), axes, pixel_spacing, 3.0)


@pytest.mark.slow
@given(
    orientation=orientations(),
    count=st.integers(2, 40),
    spacing=lengths,
    pixel_spacing=st.tuples(lengths, lengths),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    shear=st.tuples(*[st.floats(-2, 2)] * 2),
)
def test_the_affine_puts_each_corner_where_positions_say(orientation, count, spacing, pixel_spacing, origin, shear):
    positions = stack_positions(count, spacing, origin, orientation, shear)
    placement = placed(positions, orientation, pixel_spacing)
    for index in {0, count // 2, count - 1}:
        for row, column in ((0, 0), (0, 99), (77, 0), (77, 99)):
            truth = (
                positions[index]
                + orientation[:3] * column * pixel_spacing[1]
                + orientation[3:] * row * pixel_spacing[0]
            )
            assert placement.affine_lps @ [column, row, index, 1] == pytest.approx([*truth, 1], abs=1e-6)
    drift = np.abs(np.array(shear) * (count - 1) / [pixel_spacing[1], pixel_spacing[0]]).max()
    if not 0.099 < drift < 0.101:
        assert placement.geometry is (Geometry.SHEARED if drift > 0.1 else Geometry.REGULAR)
    assert placement.step_mm == pytest.approx(spacing)


@pytest.mark.slow
@given(orientations(), st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_rounded_positions_and_cosines_stay_within_a_hundredth_of_a_millimetre(orientation, count, seed):
    noise = np.random.default_rng(seed)
    rounded = orientation + noise.uniform(-5e-7, 5e-7, 6)
    positions = stack_positions(count, 2.5, (1, 2, 3), orientation) + noise.uniform(-5e-4, 5e-4, (count, 3))
    placement = placed(positions, rounded)
    assert placement.geometry is Geometry.REGULAR
    corner = placement.affine_lps @ [255, 255, count - 1, 1]
    truth = positions[-1] + orientation[:3] * 255 * 0.5 + orientation[3:] * 255 * 0.75
    assert np.linalg.norm(corner[:3] - truth) < 0.01


def test_a_tilted_stack_is_sheared_and_reported_with_its_angle():
    placement = placed(stack_positions(10, 2.5, (0, 0, 0), AXIAL, (0.0, 2.5 * np.tan(np.radians(18.5)))))
    assert placement.geometry is Geometry.SHEARED
    assert [warning.name for warning in placement.warnings] == [WarningKind.GANTRY_TILT]
    assert "18.50 degrees" in placement.warnings[0].detail


def test_a_missing_slice_keeps_the_usual_step_and_the_first_plane():
    positions = np.delete(stack_positions(10, 2.5, (5, 6, 7), OBLIQUE), 4, axis=0)
    placement = placed(positions, OBLIQUE)
    assert placement.geometry is Geometry.IRREGULAR
    assert placement.spacing_mm[2] == pytest.approx(2.5)
    assert placement.affine_lps[:3, 3] == pytest.approx(positions[0])
    assert [warning.name for warning in placement.warnings] == [WarningKind.MISSING_SLICE]
    assert "1 slice between others is missing at 2.5 mm spacing, after slice 4" in placement.warnings[0].detail


@pytest.mark.parametrize("step_mm", [0.02, 0.01, 0.005])
def test_a_missing_slice_of_a_microscopic_stack_stretches_nothing(step_mm):
    positions = np.delete(stack_positions(12, step_mm, (0, 0, 0), AXIAL), 5, axis=0)
    placement = placed(positions, pixel_spacing=(step_mm, step_mm))
    assert placement.spacing_mm[2] == pytest.approx(step_mm)
    assert [warning.name for warning in placement.warnings] == [WarningKind.MISSING_SLICE]


def test_planes_of_a_microscopic_stack_are_not_taken_for_one_position():
    heights_mm = np.array([0.0, 0.01, 0.01, 0.02, 0.03])
    assert position_numbers(heights_mm, position_tolerance((0.01, 0.01))).tolist() == [0, 1, 1, 2, 3]


def test_steps_that_are_no_multiples_of_the_usual_one_are_irregular():
    distances = np.cumsum([0, 5.9, 5.9, 13.2, 5.9, 25.9, 3.2, 11.0])
    placement = placed(distances[:, None] * np.array([0, 0, 1.0]))
    assert placement.geometry is Geometry.IRREGULAR
    assert [warning.name for warning in placement.warnings] == [WarningKind.IRREGULAR_SPACING]


def test_planes_that_wander_within_themselves_are_irregular():
    positions = stack_positions(6, 2.5, (0, 0, 0), AXIAL)
    positions[3, 0] += 1.0
    placement = placed(positions)
    assert placement.geometry is Geometry.IRREGULAR
    assert [warning.name for warning in placement.warnings] == [WarningKind.IRREGULAR_SPACING]


def test_a_single_plane_gets_the_given_spacing_along_its_normal():
    placement = placed([[1.0, 2.0, 3.0]], CORONAL)
    assert placement.geometry is Geometry.SINGLE
    assert placement.affine_lps[:3, 2] == pytest.approx([0, 3, 0])


def test_the_jitter_of_scanners_does_not_divide_an_orientation():
    jitter = np.random.default_rng(0).uniform(-6.5e-8, 6.5e-8, (50, 6))
    both = np.concatenate([np.array(AXIAL) + jitter, np.array(CORONAL) + jitter])
    assert cluster_orientations(both).tolist() == [0] * 50 + [1] * 50


def test_a_turn_of_two_degrees_is_another_orientation():
    turned = (np.cos(0.035), np.sin(0.035), 0, -np.sin(0.035), np.cos(0.035), 0)
    assert cluster_orientations(np.array([AXIAL, turned, AXIAL])).tolist() == [0, 1, 0]


def test_numbers_cluster_by_the_gaps_between_them():
    assert cluster_numbers(np.array([3.0, 1.0, 1.004, 3.005, 2.0]), 0.01).tolist() == [2, 0, 0, 2, 1]


@pytest.mark.parametrize(
    ("steps", "even"), [([5.0, 5.0, 5.04], True), ([5.0, 5.0, 5.06], False), ([0.5, 0.5, 0.509], True), ([1.0], True)]
)
def test_distances_are_even_within_one_percent_or_a_hundredth_of_a_millimetre(steps, even):
    assert is_even(np.cumsum([0.0, *steps])) is even


def stacked(heights):
    places = np.zeros((len(heights), 3))
    places[:, 2] = heights
    return place_planes(places, stack_axes(np.array([AXIAL])), (1.0, 1.0), 1.0)


@pytest.mark.parametrize(("noise_mm", "geometry"), [(0.02, Geometry.REGULAR), (0.06, Geometry.IRREGULAR)])
@pytest.mark.parametrize("seed", range(5))
def test_noise_of_each_plane_is_no_uneven_stack_within_a_small_share_of_the_distance(noise_mm, geometry, seed):
    placement = stacked(np.arange(40) * 2.5 + noise_mm * np.random.default_rng(seed).choice([-1, 1], 40))
    assert placement.geometry is geometry
    assert abs(placement.affine_lps[2, 2] - 2.5) < 0.005


def test_distances_that_grow_are_an_uneven_stack():
    assert stacked(np.cumsum(np.linspace(2.45, 2.55, 40))).geometry is Geometry.IRREGULAR


def test_noise_hides_no_missing_slice():
    heights = np.arange(40) * 2.5 + 0.02 * np.random.default_rng(1).choice([-1, 1], 40)
    placement = stacked(np.delete(heights, (7, 20)))
    assert [warning.name for warning in placement.warnings] == ["missing-slice"]
    assert "after slices 7, 19" in placement.warnings[0].detail


@pytest.mark.parametrize("missing", [(2,), (1, 3, 5, 8)])
def test_gaps_are_counted_by_the_distance_of_slices_that_are_next_to_each_other(missing):
    heights = [2.5 * index for index in range(10 if len(missing) > 1 else 4) if index not in missing]
    placement = place_planes(
        np.array([[0.0, 0.0, height] for height in heights]), stack_axes(np.array([AXIAL])), (1.0, 1.0), 1.0
    )
    assert WarningKind.MISSING_SLICE in [warning.name for warning in placement.warnings]
    assert placement.spacing_mm[2] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("along", "step_mm", "missing"),
    [
        ((0, 2.5), None, []),
        ((0, 2.5, 5, 7.5), None, []),
        ((0, 2.5, 5, 10), 2.5, [0, 0, 1]),
        ((0, 2.5, 5, 10.04), 2.5, [0, 0, 1]),  # a hundredth of a step for each step
        ((0, 2.5, 5, 10.06), None, []),
        ((0, 2.5, 5, 12.57), 2.5, [0, 0, 2]),
        ((0, 2.5, 5, 12.58), None, []),
        ((0, 0.02, 0.04, 0.083), 0.02, [0, 0, 1]),  # a tenth of a step, where that is less than 0.01 mm
        ((0, 0.02, 0.04, 0.085), None, []),
        ((0, 5, 10, 12.5), 2.5, [1, 1, 0]),  # the smallest distance is the step
        ((0, 5, 12.5, 15), 2.5, [1, 2, 0]),
        ((0, 7.5, 15, 17.5), None, []),  # but not where as many are missing as there are
        ((0, 2.5, 5, 25), 2.5, [0, 0, 7]),  # of the median any number
    ],
)
def test_slices_are_missing_where_distances_are_multiples_within_tolerance(along, step_mm, missing):
    found = missing_slices(np.array(along, float))
    assert (found is None) == (step_mm is None)
    if found is not None:
        assert found[0] == pytest.approx(step_mm)
        assert found[1].tolist() == missing


@pytest.mark.parametrize(
    ("pixel_spacing", "heights", "labels"),
    [
        ((0.02, 0.02), (0.010, 0.0, 0.005), [2, 0, 1]),  # a tenth of a pixel
        ((0.02, 0.5), (0.010, 0.0, 0.005), [2, 0, 1]),
        ((0.75, 0.5), (2.510, 0.0, 2.505), [1, 0, 1]),
        (None, (2.510, 0.0, 2.505), [1, 0, 1]),  # not stated
        (None, (2.530, 0.0, 2.505), [2, 0, 1]),
    ],
)
def test_frames_share_a_position_within_a_tenth_of_a_pixel(pixel_spacing, heights, labels):
    pixels = np.zeros((2, 2), np.int16)
    frames = [
        axial_frame(number, pixels, (0, 0, height), pixel_spacing=pixel_spacing)
        for number, height in enumerate(heights)
    ]
    distances, found = position_labels(frames)
    assert found.tolist() == labels
    assert distances == pytest.approx(heights)


@pytest.mark.parametrize(
    ("row", "column", "name"),
    [
        ((1, 0, 0), (0, 1, 0), "axial"),
        ((0, -1, 0), (1, 0, 0), "axial"),
        ((1, 0, 0), (0, 0, -1), "coronal"),
        ((0, 1, 0), (0, 0, -1), "sagittal"),
        ((1, 0, 0), (0, 0.9, 0.435), "axial"),
        ((1, 0, 0), (0, 0.8, 0.6), "oblique"),
    ],
)
def test_slices_have_the_orientation_of_the_nearest_plane(
    row: tuple[float, float, float], column: tuple[float, float, float], name: str
) -> None:
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = np.multiply(row, 0.7), np.multiply(column, 0.5)
    assert volume(affine_lps=affine).orientation == name
    assert replace(volume(), affine_lps=None).orientation is None
