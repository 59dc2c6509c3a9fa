"""Frames of a stack on their grid of times and slices."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ConversionRefused
from node.volume.arrange.dimensions import arrange
from node.volume.model import Diffusion
from node.volume.reasons import Reason, WarningKind
from tests.volumes import axial_frame

numbers = count(1)


def frame(z, *, value=None, instance=None, x=0.0, diffusion=None, variant=None, **time_key):
    """A frame of 2 x 2 equal pixels at a height of `z` mm."""
    number = next(numbers)
    pixels = np.full((2, 2), number if value is None else value, np.int16)
    return axial_frame(
        number,
        pixels,
        (x, 0.0, z),
        diffusion=diffusion,
        variant_key=variant or {},
        time_key={"instance": (number if instance is None else instance, 1), **time_key},
    )


def heights(arrangement):
    return [[float(plane.position[2]) for plane in time] for time in arrangement.planes]


def values(arrangement, key):
    return [[plane.time_key[key] for plane in time] for time in arrangement.planes]


def test_planes_lie_in_order_of_position_whatever_their_numbers_say():
    (grid,) = arrange([frame(z) for z in (5, 0, 15, 10)])
    assert heights(grid) == [[0, 5, 10, 15]]
    assert grid.left_out == []


@pytest.mark.parametrize(
    "key",
    ["temporal_position", "trigger_time", "frame_reference_time", "acquisition_time", "acquisition_number"],
)
def test_planes_that_share_positions_are_times_in_order_of_the_key_that_tells_them_apart(key):
    frames = [frame(z, **{key: time}) for time in (1.0, 2.0, 3.0) for z in (0, 5)]
    (grid,) = arrange(frames[::2] + frames[1::2][::-1])
    if key == "acquisition_number":  # its order is that of the instances
        assert [set(row) for row in values(grid, key)] == [{1.0}, {2.0}, {3.0}]
    else:
        assert values(grid, key) == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]


def test_acquisition_numbers_name_times_but_do_not_order_them():
    frames = [frame(0, acquisition_number=number) for number in (15, 14, 13)]
    (grid,) = arrange(frames)
    assert values(grid, "acquisition_number") == [[15], [14], [13]]


def test_a_key_that_says_nothing_is_passed_over():
    frames = [frame(z, temporal_position=1, dimensions=(time,)) for time in (2, 1) for z in (0, 5)]
    (grid,) = arrange(frames)
    assert values(grid, "dimensions") == [[(1,), (1,)], [(2,), (2,)]]


def test_without_any_key_the_instance_number_orders_times():
    (grid,) = arrange([frame(z) for _ in range(3) for z in (0, 5)])
    order = values(grid, "instance")
    assert order == sorted(order)


def test_frames_of_several_heart_beats_follow_the_beats_not_their_trigger_times():
    frames = [
        frame(z, trigger_time=trigger, acquisition_time=beat)
        for beat, trigger in enumerate((412.0, 398.0, 405.0))
        for z in (0, 8)
    ]
    (grid,) = arrange(frames)
    assert values(grid, "acquisition_time") == [[0, 0], [1, 1], [2, 2]]


def test_phases_of_the_heart_follow_their_trigger_times():
    frames = [frame(z, trigger_time=trigger) for trigger in (0.0, 40.0, 80.0) for z in (0, 8)]
    (grid,) = arrange(frames[::-1])
    assert values(grid, "trigger_time") == [[0, 0], [40, 40], [80, 80]]


def test_a_key_that_mixes_diffusion_weightings_is_not_an_order():
    x, y = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    frames = [
        frame(0, acquisition_number=1, diffusion=Diffusion(1000, x)),
        frame(5, acquisition_number=2, diffusion=Diffusion(1000, x)),
        frame(0, acquisition_number=2, diffusion=Diffusion(1000, y)),
        frame(5, acquisition_number=1, diffusion=Diffusion(1000, y)),
    ]
    (grid,) = arrange(frames)
    for time in grid.planes:
        assert np.array_equal(time[0].diffusion.direction_lps, time[1].diffusion.direction_lps)


def test_weightings_that_differ_between_positions_are_no_times():
    frames = [
        frame(z, instance=1, diffusion=weighting)
        for z, direction in ((0, [1.0, 0, 0]), (5, [0, 1.0, 0]))
        for weighting in (Diffusion(0), Diffusion(1000, np.array(direction)))
    ]
    with pytest.raises(ConversionRefused) as refused:
        arrange(frames)
    assert refused.value.reason == Reason.SAME_POSITION_TWICE


def test_equal_times_that_a_key_tells_apart_stay():
    (grid,) = arrange([frame(z, value=0, temporal_position=time) for time in (1, 2) for z in (0, 5)])
    assert len(grid.planes) == 2


def test_other_pixels_at_a_taken_position_are_left_out_and_reported():
    frames = [frame(z) for z in (0, 5, 10)]
    other = frame(5)
    (grid,) = arrange([other, *frames])
    assert grid.left_out == [(other, Reason.SAME_POSITION_TWICE, grid.left_out[0][2])]
    assert [warning.name for warning in grid.warnings] == [WarningKind.SAME_POSITION_TWICE]


def test_two_series_mixed_without_a_trait_are_refused_rather_than_mixed():
    frames = [frame(z, instance=1) for z in (0, 5, 10, 15, 0, 5, 10)]
    with pytest.raises(ConversionRefused) as refused:
        arrange(frames)
    assert refused.value.reason == Reason.SAME_POSITION_TWICE


def test_times_that_nothing_orders_are_refused():
    with pytest.raises(ConversionRefused) as refused:
        arrange([frame(z, instance=1) for _ in range(2) for z in (0, 5)])
    assert refused.value.reason == Reason.SAME_POSITION_TWICE


def test_an_interrupted_last_time_is_left_out_and_reported():
    frames = [frame(z) for _ in range(3) for z in (0, 5, 10, 15)][:10]
    (grid,) = arrange(frames)
    assert heights(grid) == [[0, 5, 10, 15]] * 2
    assert [entry[0] for entry in grid.left_out] == frames[8:]
    assert {entry[1] for entry in grid.left_out} == {Reason.INCOMPLETE}
    assert [warning.name for warning in grid.warnings] == [WarningKind.INCOMPLETE_VOLUME]


@pytest.mark.parametrize("has_positions", [True, False])
def test_a_time_in_the_middle_that_lacks_a_slice_is_left_out_whole(has_positions):
    frames = [
        frame(z, instance=time * 4 + place, **({"temporal_position": time} if has_positions else {}))
        for time in range(4)
        for place, z in enumerate((0, 5, 10, 15))
    ]
    lost = frames.pop(6)
    (grid,) = arrange(frames)
    assert len(grid.planes) == 3
    assert sorted(entry[0].time_key["instance"] for entry in grid.left_out) == [(4, 1), (5, 1), (7, 1)]
    assert lost.time_key["instance"] == (6, 1)


def test_variants_that_are_whole_are_stacks_of_their_own():
    frames = [frame(z, variant={"image_type": kind}) for kind in ("W", "F") for z in (0, 5, 10)]
    grids = arrange(frames)
    assert [heights(grid) for grid in grids] == [[[0, 5, 10]]] * 2
    assert [grid.variant for grid in grids] == ["1", "2"]


def test_thick_and_thin_slices_of_one_scan_are_two_stacks():
    thin = [frame(z, variant={"slice_thickness": 1.0}) for z in range(11)]
    thick = [frame(z, variant={"slice_thickness": 5.0}) for z in (0, 5, 10)]
    assert [heights(grid) for grid in arrange(thin + thick)] == [[list(range(11))], [[0, 5, 10]]]


def test_a_trait_that_alternates_from_slice_to_slice_does_not_divide_a_volume():
    frames = [frame(z, variant={"image_type": z % 2}) for z in range(6)]
    (grid,) = arrange(frames)
    assert heights(grid) == [[0, 1, 2, 3, 4, 5]]


def test_interleaved_acquisitions_that_do_not_fit_together_are_two_stacks():
    frames = [frame(z + shift, acquisition_number=shift) for shift in (0.0, 1.3) for z in (0, 5, 10, 15)]
    assert [heights(grid)[0][0] for grid in arrange(frames)] == [0, 1.3]


def test_a_second_acquisition_of_a_part_is_a_stack_of_its_own_if_there_is_one_whole_time_only():
    frames = [frame(z, acquisition_number=1) for z in range(0, 40, 5)]
    frames += [frame(z, acquisition_number=2) for z in range(10, 30, 5)]
    assert [heights(grid) for grid in arrange(frames)] == [[list(range(0, 40, 5))], [list(range(10, 30, 5))]]


def test_a_part_after_several_whole_times_is_an_interrupted_time():
    frames = [frame(z, acquisition_number=number) for number in (1, 2) for z in range(0, 40, 5)]
    frames += [frame(z, acquisition_number=3) for z in range(0, 20, 5)]
    (grid,) = arrange(frames)
    assert heights(grid) == [list(range(0, 40, 5))] * 2
    assert [warning.name for warning in grid.warnings] == [WarningKind.INCOMPLETE_VOLUME]


def test_volumes_that_follow_the_head_are_stacks_of_their_own():
    frames = [
        frame(z + 0.05 * time, acquisition_number=time, temporal_position=time) for time in range(3) for z in (0, 4, 8)
    ]
    assert [len(grid.planes[0]) for grid in arrange(frames)] == [3, 3, 3]


def test_acquisitions_side_by_side_with_other_spacing_stay_one_stack():
    frames = [frame(z, acquisition_number=1) for z in (0, 2, 4, 6)]
    frames += [frame(z, acquisition_number=2) for z in (11, 16, 21)]
    (grid,) = arrange(frames)
    assert heights(grid) == [[0, 2, 4, 6, 11, 16, 21]]


def test_fields_of_view_moved_against_each_other_are_stacks_of_their_own():
    frames = [frame(z, x=x) for x in (0.0, 120.0) for z in (0, 5, 10)]
    assert [heights(grid) for grid in arrange(frames)] == [[[0, 5, 10]]] * 2


def test_frames_without_a_place_are_times_in_order_of_their_numbers():
    frames = [frame(0, instance=number) for number in (3, 1, 2)]
    for each in frames:
        each.position = each.orientation = None
    (grid,) = arrange(frames)
    assert values(grid, "instance") == [[(1, 1)], [(2, 1)], [(3, 1)]]


@pytest.mark.slow
@settings(max_examples=400)
@given(
    planes=st.lists(
        st.fixed_dictionaries(
            {"z": st.sampled_from([0, 5, 10, 15, 7, 5.002]), "value": st.integers(0, 3)},
            optional={
                "x": st.sampled_from([0.0, 0.02, 80.0]),
                "instance": st.integers(1, 9),
                "acquisition_number": st.integers(1, 3),
                "temporal_position": st.integers(1, 3),
                "trigger_time": st.integers(1, 3),
                "acquisition_time": st.integers(1, 3),
                "variant": st.sampled_from([{"image_type": "W"}, {"image_type": "F"}]),
                "diffusion": st.sampled_from([Diffusion(0), Diffusion(1000, np.array([0, 0, 1.0]))]),
            },
        ),
        min_size=1,
        max_size=24,
    )
)
def test_every_frame_is_on_one_grid_or_left_out_once_whatever_the_frames_are(planes):
    frames = [frame(**plane) for plane in planes]
    try:
        grids = arrange(frames)
    except ConversionRefused:
        return
    placed = [plane for grid in grids for plane in grid.frames] + [
        entry[0] for grid in grids for entry in grid.left_out
    ]
    assert sorted(map(id, placed)) == sorted(map(id, frames))
    for grid in grids:
        assert len(set(map(len, grid.planes))) == 1
        assert all(list(row) == sorted(row) for row in heights(grid))
