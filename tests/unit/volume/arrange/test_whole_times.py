"""Times of which frames were lost: what is left is never a mixture of times, whatever told them apart."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import FileDataset

from node.errors import ConversionRefused
from node.volume.arrange.dimensions import arrange
from node.volume.arrange.times import _are_of_several_times
from node.volume.arrange.whole_times import _ranks
from node.volume.assemble import assemble
from node.volume.model import Diffusion, Frame
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import grids, in_turn, warned
from tests.volumes import axial_frame

KEYS = ("none", "each slice its time", "each volume its time", "temporal position")


def frame(time: int, place: int, number: int, key: str) -> Frame:
    """A frame of 2 x 2 pixels that hold its time; `key` says what else does."""
    time_key = {
        "none": {},
        "each slice its time": {"acquisition_time": 1000.0 + number},
        "each volume its time": {"acquisition_time": 1000.0 + 60 * time},
        "temporal position": {"temporal_position": time + 1.0},
    }[key]
    pixels = np.array([[time, place], [number, 0]], np.int16)
    return axial_frame(number, pixels, (0.0, 0.0, 3.0 * place), time_key={"instance": (number, 1), **time_key})


def times_of(frames: list[Frame]) -> list[list[int]]:
    """The true times of the frames of each volume that comes of them."""
    return [[int(plane.read()[0, 0]) for plane in time] for grid in arrange(frames) for time in grid.planes]


def times_or_refusal(frames: list[Frame]) -> list[list[int]]:
    """As `times_of`; nothing where the frames are refused for what they lack."""
    try:
        return times_of(frames)
    except ConversionRefused as refused:
        if refused.reason in (Reason.INCOMPLETE, Reason.SAME_POSITION_TWICE):
            return []
        raise


def in_time(times: int, slices: int, key: str, *, descending: bool = False, first: int = 1) -> list[Frame]:
    """All slices of a time are numbered before those of the next."""
    order = range(slices - 1, -1, -1) if descending else range(slices)
    return [
        frame(time, place, first + time * slices + rank, key)
        for time in range(times)
        for rank, place in enumerate(order)
    ]


@pytest.mark.slow
@given(data=st.data())
def test_what_is_left_of_a_series_with_a_hole_holds_one_time_in_each_volume(data: st.DataObject) -> None:
    times, slices = data.draw(st.integers(3, 5)), data.draw(st.integers(3, 6))
    key, descending = data.draw(st.sampled_from(KEYS)), data.draw(st.booleans())
    frames = in_time(times, slices, key, descending=descending)
    begin = data.draw(st.integers(0, len(frames) - 1))
    length = data.draw(st.integers(1, slices + 1))
    left = frames[:begin] + frames[begin + length :]
    assert all(len(set(time)) == 1 for time in times_or_refusal(left))


@pytest.mark.parametrize("key", KEYS)
def test_a_first_time_that_lacks_its_first_slices_is_left_out(key: str) -> None:
    [grid] = arrange(in_time(3, 4, key)[2:])
    assert [[int(plane.read()[0, 0]) for plane in time] for time in grid.planes] == [[1] * 4, [2] * 4]
    assert [warning.name for warning in grid.warnings] == [WarningKind.INCOMPLETE_VOLUME]
    assert len(grid.left_out) == 2


@pytest.mark.parametrize("key", KEYS)
def test_a_part_cut_out_of_a_series_gives_its_whole_times_alone(key: str) -> None:
    [grid] = arrange(in_time(3, 4, key)[2:10])  # two frames at every position, but of other times at some
    assert [[int(plane.read()[0, 0]) for plane in time] for time in grid.planes] == [[1] * 4]
    assert [warning.name for warning in grid.warnings] == [WarningKind.INCOMPLETE_VOLUME]


@pytest.mark.parametrize("lost", range(12))
def test_numbers_that_count_the_times_of_each_slice_tell_which_time_lacks_one(lost: int) -> None:
    frames = [frame(time, place, place * 3 + time + 1, "none") for place in range(4) for time in range(3)]
    del frames[lost]
    assert times_of(frames) == [[time] * 4 for time in range(3) if time != lost % 3]


@pytest.mark.parametrize("first", [0, 1, 4, 101])
def test_a_whole_series_is_whole_wherever_its_numbers_begin(first: int) -> None:
    assert times_of(in_time(3, 4, "none", first=first)) == [[time] * 4 for time in range(3)]


@pytest.mark.parametrize("first", [1, 4, 101])
def test_an_interrupted_last_time_is_left_out_wherever_the_numbers_begin(first: int) -> None:
    assert times_of(in_time(3, 4, "none", first=first)[:-2]) == [[0] * 4, [1] * 4]


def test_numbers_that_skip_those_of_another_stack_count_the_same() -> None:
    frames = [frame(time, place, 1 + 2 * (time * 4 + place), "none") for time in range(3) for place in range(4)]
    assert times_of(frames) == [[time] * 4 for time in range(3)]
    assert times_of(frames[2:]) == [[1] * 4, [2] * 4]


def test_clocks_of_whole_seconds_that_agree_by_chance_are_no_times() -> None:
    frames = []
    for time in range(6):
        for place in range(3):
            plane = frame(time, place, time * 3 + place + 1, "none")
            plane.time_key["acquisition_time"] = float(int(1.5 * time + 0.5 * place))
            frames.append(plane)
    assert times_of(frames) == [[time] * 3 for time in range(6)]


# Times that an attribute repeats


def of_two_acquisitions(swapped: tuple[int, int], key: str, *, lost: int | None = None) -> list[Frame]:
    """Two acquisitions of two times, at three positions; each acquisition counts its times by `key` from the first.

    Two frames have each other's Instance Numbers.
    """
    numbers = list(range(1, 13))
    first, second = swapped
    numbers[first], numbers[second] = numbers[second], numbers[first]
    return [
        axial_frame(
            number,
            np.full((2, 2), index // 3, np.int16),
            (0.0, 0.0, 3.0 * (index % 3)),
            time_key={"instance": (number, 1), "acquisition_number": index // 6, key: index // 3 % 2},
        )
        for index, number in enumerate(numbers)
        if index != lost
    ]


@pytest.mark.parametrize(
    ("bins", "ranked"),
    [
        ([{3: 1, 1: 2, 2: 3}], [3, 1, 2]),
        ([{3: 1, 1: 3, 2: 5}, {3: 2, 1: 4, 2: 6}], [3, 1, 2]),
        ([{1: 2, 2: 3}, {2: 1, 1: 4}], [1, 2]),  # Instance Numbers tell another order at each position
        ([{5: 1, 3: 2}, {4: 3, 5: 4}], [5, 3, 4]),
    ],
)
def test_instance_numbers_order_acquisitions_unless_they_differ_between_positions(
    bins: list[dict[int, int]], ranked: list[int]
) -> None:
    frames = [
        [
            axial_frame(instance, np.zeros((2, 2), np.int16), (0.0, 0.0, 3.0 * place), time_key=key)
            for acquisition, instance in of_place.items()
            for key in [{"instance": (instance, 1), "acquisition_number": acquisition}]
        ]
        for place, of_place in enumerate(bins)
    ]
    ranks = _ranks(frames, "acquisition_number")
    assert sorted(ranks, key=ranks.__getitem__) == ranked


@pytest.mark.parametrize(
    ("b_values", "are_several"),
    [
        ([1000, 1000, None, None], False),  # nothing says that the last two share a weighting
        ([1000, 1000, 0, 0], True),
        ([1000, 1000, 2000, None], False),
        ([None] * 4, False),
        ([0] * 4, False),
    ],
)
def test_only_known_weightings_assign_frames_to_several_times(b_values: list[float | None], are_several: bool) -> None:
    bins = [
        [
            axial_frame(
                place,
                np.zeros((2, 2), np.int16),
                (0.0, 0.0, 3.0 * place),
                diffusion=None if b_value is None else Diffusion(b_value),
            )
        ]
        for place, b_value in enumerate(b_values)
    ]
    assert _are_of_several_times(bins) is are_several


REPEATED = ("temporal_position", "time_slice", "frame_reference_time", "acquisition_time")


@pytest.mark.parametrize("key", REPEATED)
def test_instance_numbers_order_acquisitions_that_count_their_times_alike(key: str) -> None:
    assert times_of(of_two_acquisitions((0, 0), key)) == [[time] * 3 for time in range(4)]


@pytest.mark.diagonal
@pytest.mark.parametrize("key", REPEATED)
@pytest.mark.parametrize("swapped", [(1, 4), (4, 7), (1, 7)])
def test_instance_numbers_put_no_frames_into_one_time_that_other_attributes_tell_apart(
    swapped: tuple[int, int], key: str
) -> None:
    with pytest.raises(ConversionRefused, match=r"Instance Numbers .* that differ in .*; send the instances"):
        arrange(of_two_acquisitions(swapped, key))


@pytest.mark.parametrize("lost", [0, 9, 11])
def test_nor_do_numbers_of_times_that_lost_a_frame(lost: int) -> None:
    mixed = {len(set(time)) for time in times_or_refusal(of_two_acquisitions((4, 7), "acquisition_time", lost=lost))}
    assert mixed <= {1}


def announced(frames: list[Frame], times: int) -> list[Frame]:
    return [replace(one, time_key={**one.time_key, "temporal_positions": times}) for one in frames]


@pytest.mark.parametrize(("slices", "step"), [(15, 2), (10, 3), (5, 3)])
def test_of_numbers_with_a_step_announced_times_tell_that_frames_between_were_lost(slices: int, step: int) -> None:
    left = in_time(6, slices, "none")[::step]
    assert times_or_refusal(announced(left, 6)) == []
    [grid] = arrange(announced(left, 6 // step))
    assert grid.warnings == ()
    [grid] = arrange(left)
    assert [warning.name for warning in grid.warnings] == [WarningKind.INCOMPLETE_VOLUME]


def test_temporal_positions_are_believed_before_numbers_that_go_slice_by_slice() -> None:
    kept = {0: (1, 2), 1: (0, 2), 2: (0, 1), 3: (1, 2), 4: (0, 1)}
    left = [
        replace(one, time_key={**one.time_key, "temporal_position": time + 1, "temporal_positions": 3})
        for place, times in kept.items()
        for time in times
        for one in [frame(time, place, 3 * place + time + 1, "none")]
    ]
    with pytest.raises(ConversionRefused, match="what is left of several times") as refused:
        arrange(left)
    assert refused.value.reason == Reason.INCOMPLETE


@pytest.mark.parametrize(("slices", "step", "is_told"), [(8, 3, True), (7, 2, True), (8, 1, False)])
def test_a_volume_whose_numbers_count_slices_of_several_times_is_told(slices: int, step: int, is_told: bool) -> None:
    [grid] = arrange(in_time(step, slices, "none")[::step])
    assert len(grid.planes) == 1
    told = [f"belong to {step} times" in warning.detail for warning in grid.warnings]
    assert told == ([True] if is_told else [])


# What losses left of several times is no time: it is left out, refused or reported.


TIMES, SLICES = 4, 5


def series_in_time(numbers_between: int = 0, *, clock_s: float | None = None) -> list[FileDataset]:
    """Return a series without times; between two of them so many numbers are those of others.

    `clock_s`: seconds from slice to slice, and twice that from the last slice of a time to the first one of the next.
    """
    repetition_ms = 1000 * (clock_s or 0.4) * (SLICES + 1)
    series = make.time_series(TIMES, SLICES, AcquisitionTime=None, RepetitionTime=f"{repetition_ms:g}")
    for index, ds in enumerate(series):
        time = index // SLICES
        ds.InstanceNumber = index + 1 + time * numbers_between
        if clock_s is not None:
            ds.AcquisitionTime = f"1015{(index + time) * clock_s:09.6f}"
    return series


def without(series: Sequence[FileDataset], first: int, last: int) -> list[FileDataset]:
    """Return a series without the instances from `first` to `last`."""
    return [ds for index, ds in enumerate(series) if not first <= index <= last]


@pytest.mark.diagonal
@pytest.mark.parametrize("between", [0, 3, 40])
@pytest.mark.parametrize("lost", [(2, 6), (7, 11), (12, 16), (3, 12)])
def test_the_beginning_of_one_time_and_the_end_of_another_are_left_out(between: int, lost: tuple[int, int]) -> None:
    series = series_in_time(between)
    left = without(series, *lost)
    kept = {str(ds.SOPInstanceUID) for ds in left}
    assembly = assemble(left)
    assert grids(assembly) == [[time for time in in_turn(series, SLICES) if kept.issuperset(uid for uid, _ in time)]]
    assert {exclusion.reason for exclusion in assembly.exclusions} == {Reason.INCOMPLETE}


def test_a_clock_of_each_slice_tells_remains_as_well() -> None:
    series = series_in_time(clock_s=0.4)
    for ds in series:
        ds.InstanceNumber = 1
    assembly = assemble(without(series, 7, 11))
    assert [len(grid) for grid in grids(assembly)] == [2]
    assert len(assembly.exclusions) == SLICES


def test_remains_alone_are_refused() -> None:
    series = series_in_time()
    left = [ds for index, ds in enumerate(series) if index in (0, 6, 7, 8, 9, 10, 16, 17, 18, 19)]
    assert [refusal.reason for refusal in assemble(left).refusals] == [Reason.INCOMPLETE]


@pytest.mark.parametrize("numbers_between", [0, 7])
@pytest.mark.parametrize("clock_s", [None, 0.4])
def test_a_whole_series_has_no_remains(numbers_between: int, clock_s: float | None) -> None:
    assembly = assemble(series_in_time(numbers_between, clock_s=clock_s))
    assert [len(grid) for grid in grids(assembly)] == [TIMES]
    assert warned(assembly) == set()


def slice_by_slice(numbers_between: int = 0) -> list[FileDataset]:
    series = series_in_time()
    for index, ds in enumerate(series):
        time, place = divmod(index, SLICES)
        ds.InstanceNumber = place * (TIMES + numbers_between) + time + 1
    return series


@pytest.mark.parametrize("numbers_between", [0, TIMES])
def test_numbers_that_go_through_the_times_of_each_slice_are_believed(numbers_between: int) -> None:
    assembly = assemble(slice_by_slice(numbers_between))
    assert [len(grid) for grid in grids(assembly)] == [TIMES]
    assert warned(assembly) == set()


@pytest.mark.parametrize("lost", [(4, 5, 9, 13, 17), (4, 6, 9, 13, 17)])
def test_slices_that_may_be_of_another_time_than_their_neighbours_are_reported(lost: tuple[int, ...]) -> None:
    series = slice_by_slice(1)
    assembly = assemble(
        [
            ds
            for ds in series
            if (int(ds.InstanceNumber or 0) - 1) // 5 * 4 + int(ds.InstanceNumber or 0) % 5 not in lost
        ]
    )
    assert assembly.refusals or WarningKind.INCOMPLETE_VOLUME in warned(assembly)


# One frame at each position


@pytest.mark.parametrize(("pause_s", "said"), [(2.0, True), (0.1, False)])
def test_slices_of_two_times_with_a_pause_between_them_are_reported(pause_s: float, said: bool) -> None:
    series = make.mr_series(6)
    for index, ds in enumerate(series):
        ds.InstanceNumber = index + 1 + (6 if index > 2 else 0)
        ds.AcquisitionTime = f"1015{0.4 * index + (pause_s if index > 2 else 0.0):09.6f}"
    assert (WarningKind.INCOMPLETE_VOLUME in warned(assemble(series))) == said


def test_slices_of_two_times_of_a_dynamic_pet_are_reported() -> None:
    series = make.time_series(2, 4, modality="PT", SeriesType=r"DYNAMIC\IMAGE", NumberOfSlices=4, NumberOfTimeSlices=2)
    for index, ds in enumerate(series):
        ds.ImageIndex = index + 1
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
    assert WarningKind.PARAMETER_VARIES in warned(assemble(series[:2] + series[6:]))
    assert WarningKind.PARAMETER_VARIES not in warned(assemble(series))
