"""Frames of a stack on their grid of times and slices."""

from collections import Counter
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import ConversionRefused
from node.volume.arrange.dimensions import arrange
from node.volume.assemble import assemble
from node.volume.model import Diffusion
from node.volume.reasons import Reason, WarningKind
from tests import make
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


@pytest.mark.parametrize(
    "key", ["temporal_position", "trigger_time", "frame_reference_time", "acquisition_time", "acquisition_number"]
)
def test_planes_that_share_positions_are_times_in_order_of_the_key_that_tells_them_apart(key):
    times = (2.0, 1.0, 3.0)  # in no order of the instances
    frames = [frame(z, **{key: time}) for time in times for z in (0, 5)]
    (grid,) = arrange(frames[::2] + frames[1::2][::-1])
    order = times if key == "acquisition_number" else sorted(times)  # the number only names the times
    assert values(grid, key) == [[time, time] for time in order]


def test_acquisition_numbers_name_times_but_do_not_order_them():
    (grid,) = arrange([frame(0, acquisition_number=number) for number in (15, 14, 13)])
    assert values(grid, "acquisition_number") == [[15], [14], [13]]


def test_a_key_that_says_nothing_is_passed_over():
    (grid,) = arrange([frame(z, temporal_position=1, dimensions=(time,)) for time in (2, 1) for z in (0, 5)])
    assert values(grid, "dimensions") == [[(1,), (1,)], [(2,), (2,)]]


def test_frames_of_several_heart_beats_follow_the_beats_not_their_trigger_times():
    frames = [
        frame(z, trigger_time=trigger, acquisition_time=beat)
        for beat, trigger in enumerate((412.0, 398.0, 405.0))
        for z in (0, 8)
    ]
    (grid,) = arrange(frames)
    assert values(grid, "acquisition_time") == [[0, 0], [1, 1], [2, 2]]


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
@settings(max_examples=120)
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


@pytest.mark.parametrize("seed", range(12))
def test_frames_of_one_whole_instance_are_no_loss_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slices, echoes = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    components = ("MAGNITUDE", "PHASE", "REAL")[: 1 + seed % 3]
    parts = [(component, echo) for component in components for echo in range(echoes)]
    ds = make.enhanced_mr(slices, len(parts), order=rng.permutation(len(parts) * slices))
    seen: Counter[str] = Counter()
    for group in ds.PerFrameFunctionalGroupsSequence:
        place = str(group.PlanePositionSequence[0].ImagePositionPatient)
        component, echo = parts[seen[place]]
        seen[place] += 1
        group.MRImageFrameTypeSequence = [
            make.dataset(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], ComplexImageComponent=component)
        ]
        group.MREchoSequence = [make.dataset(EffectiveEchoTime=5.0 * (echo + 1))]
        group.pop("FrameContentSequence", None)
    ds.pop("DimensionIndexSequence", None)
    volumes = assemble([ds]).volumes
    assert [volume.shape[2:] for volume in volumes] == [(slices,)] * len(parts)
    assert not any(warning.name == WarningKind.INCOMPLETE_VOLUME for volume in volumes for warning in volume.warnings)
