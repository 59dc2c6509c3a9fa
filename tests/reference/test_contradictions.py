"""Two sources that contradict each other in plain headers: nothing is written as a fact that one of them denies."""

from __future__ import annotations

from typing import Any

import pytest

from node.volume.assemble import assemble
from node.volume.reasons import WarningKind
from tests import truth
from tests.reference.real_series import judged

EPI = {"ScanningSequence": "EP", "MRAcquisitionType": "2D"}


def clocked(times: int, step_s: float, **attributes: Any) -> truth.Truth:
    """A series in time whose volumes start that many seconds apart."""

    def start(ds: Any, time: int, slice_: int) -> None:
        ds.AcquisitionTime = f"1015{step_s * time:09.6f}"

    return truth.series(times, 5, **attributes).edited(start)


@pytest.mark.parametrize(
    ("clock_s", "repetition_s", "step_s"),
    [
        (2.0, 4.0, None),
        (0.5, 2.0, None),
        (3.0, 2.0, None),
        (2.0, 2.0, 2.0),
        (2.0, 2.04, 2.04),  # a clock of whole seconds
        (1.79, 2.0, 2.0),  # one that runs fast
        (4.0, 2.0, 4.0),  # two repetitions for each volume
    ],
)
def test_a_clock_that_contradicts_the_repetition_leaves_the_step_out(
    clock_s: float, repetition_s: float, step_s: float | None
) -> None:
    series = clocked(6, clock_s, **EPI, RepetitionTime=f"{1000 * repetition_s:g}")
    [volume] = assemble(series.datasets).volumes
    assert volume.time_step_s == step_s
    assert (WarningKind.SLICE_TIMING_DOUBTFUL in {one.name for one in volume.warnings}) == (step_s is None)


@pytest.mark.parametrize(
    ("sequence", "train", "step_s"), [("GR", 1, None), ("SE", 1, None), (r"EP\GR", 1, 0.5), ("GR", 31, 0.5)]
)
def test_the_repetition_of_one_line_is_not_the_step_of_volumes(sequence: str, train: int, step_s: float | None) -> None:
    echoes = {"ScanningSequence": sequence, "EchoTrainLength": train, "MRAcquisitionType": "2D", "EchoTime": "5"}
    [volume] = assemble(truth.series(6, 5, **echoes, RepetitionTime="500").datasets).volumes
    assert volume.time_step_s == step_s


@pytest.mark.parametrize(
    ("modality", "declared", "state"),
    [
        ("PT", {"NumberOfSlices": 7}, "suspect"),
        ("PT", {"NumberOfTimeSlices": 5}, "suspect"),
        ("PT", {"NumberOfSlices": 6}, "complete"),
        ("PT", {"NumberOfSlices": 6, "NumberOfTimeSlices": 4}, "complete"),
        ("MR", {"ImagesInAcquisition": 7}, "suspect"),
        ("MR", {"ImagesInAcquisition": 6}, "complete"),
        ("MR", {"ImagesInAcquisition": 24}, "complete"),
    ],
)
def test_declared_slices_and_times_are_compared_with_what_was_written(
    modality: str, declared: dict[str, int], state: str
) -> None:
    datasets = truth.series(4, 6, modality=modality, clock=True, **declared).datasets
    verdict = judged(datasets, assemble(datasets))
    assert verdict.state == state
    assert state == "complete" or str(max(declared.values())) in verdict.reason


def test_a_hole_in_acquisition_numbers_is_a_lost_time_where_instance_numbers_restart() -> None:
    series = truth.series(7, 5, **EPI).edited(_restarting)
    kept = [ds for ds in series.datasets if ds.AcquisitionNumber != 4]
    whole, holed = assemble(series.datasets), assemble(kept)
    assert (whole.volumes[0].time_step_s, judged(series.datasets, whole).state) == (2.0, "complete")
    assert (holed.volumes[0].time_step_s, judged(kept, holed).state) == (None, "incomplete")
    assert "1 after time 3 by Acquisition Number" in holed.volumes[0].warnings[0].detail


def _restarting(ds: Any, time: int, slice_: int) -> None:
    ds.AcquisitionNumber, ds.InstanceNumber = time + 1, slice_ + 1


@pytest.mark.parametrize(("order", "is_doubted"), [((0, 1, 2, 3, 4), False), ((0, 3, 1, 4, 2), True)])
def test_acquisition_numbers_and_instance_numbers_in_different_orders_leave_the_order_doubtful(
    order: tuple[int, ...], is_doubted: bool
) -> None:
    def number(ds: Any, time: int, slice_: int) -> None:
        ds.AcquisitionNumber, ds.InstanceNumber = time + 1, order[time] * 4 + slice_ + 1

    [volume] = assemble(truth.series(5, 4, modality="PT").edited(number).datasets).volumes
    assert (WarningKind.TIMES_ASSUMED in {one.name for one in volume.warnings}) == is_doubted


@pytest.mark.parametrize(("declared", "state"), [(1, "complete"), (5, "incomplete")])
def test_a_lone_instance_is_not_all_of_several_declared_times(declared: int, state: str) -> None:
    datasets = truth.series(1, 1, NumberOfTemporalPositions=declared).datasets
    assert judged(datasets, assemble(datasets)).state == state


@pytest.mark.parametrize(("slices", "state"), [(12, "complete"), (11, "incomplete")])
def test_a_slice_of_a_whole_stack_under_a_far_number_is_not_missing(slices: int, state: str) -> None:
    series = truth.series(1, 12)
    series.datasets[6].InstanceNumber = 99
    kept = [ds for rank, ds in enumerate(series.datasets) if slices == 12 or rank != 3]
    assert judged(kept, assemble(kept)).state == state


@pytest.mark.parametrize(
    ("echoes", "state"),
    [((1, 2, 3, 4), "complete"), ((1, 3, 4), "suspect"), ((3, 4), "suspect"), ((2,), "complete"), ((0, 2), "complete")],
)
def test_a_hole_in_echo_numbers_is_a_lost_echo(echoes: tuple[int, ...], state: str) -> None:
    datasets = [ds for echo in echoes for ds in truth.series(1, 6, EchoNumbers=echo, EchoTime=4 * echo + 1).datasets]
    for rank, ds in enumerate(datasets):
        ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3", f"1.2.3.{rank + 1}"
    verdict = judged(datasets, assemble(datasets))
    assert verdict.state == state, verdict.reason
