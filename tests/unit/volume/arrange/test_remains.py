"""What losses left of several times is no time: it is left out, refused or reported."""

from collections.abc import Sequence

import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import grids, in_turn, warned

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
