"""Times that were lost as a whole: the volume warns, and has no fixed step between its times."""

from collections.abc import Sequence

import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.model import Volume
from node.volume.reasons import WarningKind
from tests import make
from tests.volumes import only


def gaps(volume: Volume) -> list[str]:
    """What a volume says about its times."""
    kinds = (WarningKind.MISSING_TIME, WarningKind.IRREGULAR_TIME_STEPS)
    return [f"{warning.name}: {warning.detail}" for warning in volume.warnings if warning.name in kinds]


def without(series: Sequence[FileDataset], *times: int, slices: int = 4) -> list[FileDataset]:
    return [ds for index, ds in enumerate(series) if index // slices not in times]


def started(starts_s: Sequence[float]) -> list[FileDataset]:
    """Return a time series without Instance Numbers whose times start then."""
    clock = [f"1015{start:09.6f}" for start in starts_s]
    return make.time_series(len(starts_s), 4, AcquisitionTime=clock, InstanceNumber=None)


def test_a_series_that_lacks_nothing_has_its_repetition_as_step() -> None:
    volume = only(*make.time_series(5, 4))
    assert (gaps(volume), volume.time_step_s) == ([], 2.0)


def test_a_lost_time_leaves_a_hole_in_the_numbers_and_in_the_clock() -> None:
    volume = only(*without(make.time_series(6, 4), 3))
    assert gaps(volume) == [
        "missing-time: times seem to be missing: 1 after time 3 by Instance Number (0020,0013); "
        "1 after time 3 by their starts"
    ]
    assert (volume.times, volume.time_step_s) == (5, None)
    assert volume.times_s == (0.0, 2.0, 4.0, 8.0, 10.0)


def test_numbers_alone_tell_of_lost_times() -> None:
    volume = only(*without(make.time_series(7, 4, AcquisitionTime=None), 2, 3))
    assert gaps(volume) == ["missing-time: times seem to be missing: 2 after time 2 by Instance Number (0020,0013)"]
    assert volume.time_step_s is None


@pytest.mark.parametrize(("second_s", "step_s"), [(2.0, 2.0), (9.7, None), (8.0, None)])
def test_two_times_far_apart_whose_slices_take_a_repetition_lack_a_step(second_s: float, step_s: float | None) -> None:
    """The clock of the first volume of an fMRI may be that of a scan before it: nothing tells what the step is."""
    series = make.time_series(2, 4)
    for index, ds in enumerate(series):
        time, slice_ = divmod(index, 4)
        ds.AcquisitionTime = f"1015{second_s * time + 0.5 * slice_:09.6f}"
    volume = only(*series)
    assert volume.time_step_s == step_s
    assert bool(gaps(volume)) == (step_s is None)
    assert volume.times_s == (0.0, second_s)


def test_the_middle_one_of_three_times_is_missed() -> None:
    assert gaps(only(*without(make.time_series(3, 4), 1)))


def test_a_time_that_lost_a_slice_and_is_left_out_leaves_a_hole_too() -> None:
    series = make.time_series(6, 4)
    del series[9]
    volume = only(*series)
    assert (volume.times, volume.time_step_s) == (5, None)
    [gap] = gaps(volume)
    assert "1 after time 2 by Instance Number" in gap


def test_temporal_positions_tell_of_lost_times() -> None:
    positions = {"TemporalPositionIdentifier": [1, 2, 3, 4, 5, 6], "AcquisitionTime": None, "InstanceNumber": None}
    volume = only(*without(make.time_series(6, 4, **positions), 1, 4))
    assert gaps(volume) == [
        "missing-time: times seem to be missing: "
        "2 after times 1, 3 by Temporal Position Identifier (0020,0100)"
    ]  # fmt: skip
    assert volume.time_step_s is None


@pytest.mark.parametrize(
    ("starts_s", "reported"),
    [
        ((0, 2, 4, 6, 8), None),
        ((0, 2, 4, 8, 10), "missing-time: times seem to be missing: 1 after time 3 by their starts"),
        ((0, 2.02, 4, 10.05, 12), "missing-time: times seem to be missing: 2 after time 3 by their starts"),
        ((0, 2, 4, 7.3, 9.3), "irregular-time-steps: longer steps than usual follow times 3"),  # a pause
        ((0, 2, 5, 9, 14), None),  # steps of a plan
        ((0, 2, 4, 6, 10, 14), None),
        ((0, 8, 16, 20, 24, 28, 32), None),
        ((0, 2, 4, 6, 10), "missing-time: times seem to be missing: 1 after time 4 by their starts"),
        ((0, 2, 10), "missing-time: times seem to be missing: 3 after time 2 by their starts"),  # the repetition is 2 s
        ((0, 3, 10), None),  # too few to know which step is usual
    ],
)
def test_long_steps_between_steady_ones_are_reported(starts_s: tuple[float, ...], reported: str | None) -> None:
    volume = only(*started(starts_s))
    assert gaps(volume) == ([reported] if reported else [])
    assert volume.time_step_s is None or reported is None


@pytest.mark.parametrize(
    ("acquired", "starts_s", "step_s", "reported"),
    [
        ("3D", (0, 0, 34, 34, 68, 68), None, "irregular-time-steps: the clock has 3 starts for 6 times"),
        ("3D", (0, 0, 0, 0, 0, 0), None, None),  # the clock of the series
        ("3D", (0, 17, 34, 51, 68, 85), 17.0, None),
        ("2D", (0, 0, 4, 4, 8, 8), 2.0, None),  # the repetition is 2 s
    ],
)
def test_label_and_control_that_start_together_by_the_clock_have_no_step_if_a_volume_takes_several_repetitions(
    acquired: str, starts_s: tuple[float, ...], step_s: float | None, reported: str | None
) -> None:
    clock = [f"10{15 + start // 60}{start % 60:02d}.00" for start in starts_s]
    positions = [1, 2, 3, 4, 5, 6]
    series = make.time_series(
        6, 4, AcquisitionTime=clock, MRAcquisitionType=acquired, TemporalPositionIdentifier=positions
    )
    volume = only(*series)
    assert (volume.times, volume.time_step_s) == (6, step_s)
    assert [gap.split(", such as")[0] for gap in gaps(volume)] == ([reported] if reported else [])


def test_numbers_of_another_stack_are_not_missing() -> None:
    first, second = make.time_series(4, 4, EchoTime="10"), make.time_series(4, 4, EchoTime="20")
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        other.SeriesInstanceUID, other.FrameOfReferenceUID = one.SeriesInstanceUID, one.FrameOfReferenceUID
        time, place = divmod(index, 4)
        one.InstanceNumber, other.InstanceNumber = 8 * time + place + 1, 8 * time + place + 5
    volumes = assemble(first + second).volumes
    assert [gaps(volume) for volume in volumes] == [[], []]


def test_numbers_that_leave_out_as_many_after_each_time_are_no_hole() -> None:
    series = make.time_series(4, 4)
    for index, ds in enumerate(series):
        time, place = divmod(index, 4)
        ds.InstanceNumber = 8 * time + place + 1
    assert gaps(only(*series)) == []


def test_longer_frames_of_a_dynamic_series_are_no_hole() -> None:
    clock, durations_ms = ["101500", "101505", "101510", "101515", "101525"], [5000, 5000, 5000, 10_000, 10_000]
    of_pet = {"modality": "PT", "EchoTime": None, "RepetitionTime": None, "InstanceNumber": None}
    assert gaps(only(*make.time_series(5, 4, AcquisitionTime=clock, ActualFrameDuration=durations_ms, **of_pet))) == []


@pytest.mark.parametrize(
    ("repetition_ms", "reported"),
    [
        ("2000", ["missing-time: times seem to be missing: 1 after time 3 by their starts"]),
        ("4.2", ["irregular-time-steps: longer steps than usual follow times 3"]),
    ],
)
def test_a_pause_between_numbers_without_a_hole_is_a_lost_time_only_of_a_continuous_scan(
    repetition_ms: str, reported: list[str]
) -> None:
    clock = ["101500", "101502", "101504", "101508", "101510", "101512"]
    volume = only(*make.time_series(6, 4, RepetitionTime=repetition_ms, AcquisitionTime=clock))
    assert gaps(volume) == reported
    assert volume.time_step_s is None
