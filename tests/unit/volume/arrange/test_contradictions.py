"""Two sources that contradict each other in plain headers: nothing is written as a fact that one of them denies."""

from time import process_time
from typing import Any

import numpy as np
import pytest

from node.api import Volume, WarningKind, assemble
from node.volume.arrange.contradictions import settle
from tests import truth
from tests.reference.real_series import judged
from tests.reference.truth_series import ENHANCED_LABELS, LABELS, Case, Series, build
from tests.volumes import axial_frame

EPI = {"ScanningSequence": "EP", "MRAcquisitionType": "2D"}


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
def test_declared_slices_and_times_are_compared_with_files(modality: str, declared: dict[str, int], state: str) -> None:
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


FALSE = ("reverse", "mix", "exchange")
ONE_FILE = "mr-enhanced"
FALSE_KEYS = [
    *(("mr", label, how) for label in LABELS if label not in ("dimensions", "frame-reference") for how in FALSE),
    *(("pt", "frame-reference", how) for how in FALSE),
    *(
        (ONE_FILE, label, how)
        for label in ENHANCED_LABELS
        for how in FALSE
        if (label, how) != ("dimensions", "reverse")
    ),
]
"""Each attribute of the table. The dimensions of an instance order its frames, whatever their own order is."""


@pytest.mark.sample(16)
@pytest.mark.parametrize(("kind", "label", "how"), FALSE_KEYS)
def test_times_by_a_false_attribute_are_right_by_another_one_or_doubted(kind: str, label: str, how: str) -> None:
    keyword = (ENHANCED_LABELS if kind == ONE_FILE else LABELS)[label]
    series = build(Case(kind=kind, times=4, slices=4, labels=(label,), changes=(("lie", keyword, how, 5),)))
    assembly = assemble(series.datasets)
    if assembly.refusals and not assembly.volumes:
        return
    for volume in assembly.volumes:
        told = [[series.planes[one.sop_instance_uid, one.frame_number].time for one in of] for of in _by_time(volume)]
        is_right = told == [[time] * 4 for time in range(4)]
        assert is_right or WarningKind.TIMES_ASSUMED in {one.name for one in volume.warnings}, told


def _by_time(volume: Volume) -> list[list[Any]]:
    return [[one for one in volume.sources if one.time_index == time] for time in range(volume.times)]


def _order(series: Series, volume: Volume) -> list[int]:
    return [series.planes[of[0].sop_instance_uid, of[0].frame_number].time for of in _by_time(volume)]


@pytest.mark.parametrize("numbering", ["times", "slices"])
def test_clock_and_acquisition_number_that_contradict_the_order_of_the_frames_are_doubted(numbering: str) -> None:
    false = (("lie", "FrameAcquisitionDateTime", "reverse", 0), ("lie", "FrameAcquisitionNumber", "reverse", 0))
    labels = ("clock", "FrameAcquisitionNumber")
    series = build(Case(kind=ONE_FILE, times=4, slices=4, labels=labels, numbering=numbering, changes=false))
    [volume] = assemble(series.datasets).volumes
    assert WarningKind.TIMES_ASSUMED in {one.name for one in volume.warnings}


def test_a_temporal_position_that_falls_while_clock_and_numbers_rise_loses() -> None:
    false = (("lie", "TemporalPositionIdentifier", "reverse", 0),)
    series = build(Case(kind="mr", times=4, slices=3, labels=("temporal", "clock"), changes=false))
    [volume] = assemble(series.datasets).volumes
    [doubt] = [one.detail for one in volume.warnings if one.name is WarningKind.TIMES_ASSUMED]
    assert _order(series, volume) == [0, 1, 2, 3]
    assert "Temporal Position" in doubt
    assert "Acquisition Time (0008,0032)" in doubt


@pytest.mark.parametrize("numbered", [True, False])
def test_the_end_of_summer_time_is_no_other_order(numbered: bool) -> None:
    def stamp(ds: Any, time: int, slice_: int) -> None:
        second = 9000 + 30 * time - (3600 if time >= 3 else 0)
        at = f"20241027{second // 3600:02d}{second % 3600 // 60:02d}{second % 60:02d}"
        winter = "+0100" if time >= 3 else "+0200"
        if numbered:
            ds.AcquisitionDateTime = at + winter
        else:
            ds.AcquisitionDate, ds.AcquisitionTime, ds.TimezoneOffsetFromUTC = at[:8], at[8:], winter
        ds.InstanceNumber = None

    series = truth.series(6, 3, RepetitionTime="30000").edited(stamp)
    volume = truth.whole(assemble(series.datasets), series)
    assert volume.times_s == (0.0, 30.0, 60.0, 90.0, 120.0, 150.0)
    assert volume.warnings == ()


def test_moments_of_frames_without_an_offset_are_on_the_clock_of_their_instance() -> None:
    series = build(Case(kind=ONE_FILE, times=4, slices=3, labels=("FrameReferenceDateTime", "instances")))
    for ds in series.datasets:
        ds.TimezoneOffsetFromUTC = "+0200"
        time = series.planes[str(ds.SOPInstanceUID), 1].time
        second, offset = (9000 + 30 * time, "") if time < 2 else (5400 + 30 * time, "+0100")
        at = f"20241027{second // 3600:02d}{second % 3600 // 60:02d}{second % 60:02d}"
        for frame in ds.PerFrameFunctionalGroupsSequence:
            frame.FrameContentSequence[0].FrameReferenceDateTime = at + offset
        ds.InstanceNumber = 5 - ds.InstanceNumber  # false
    [volume] = assemble(series.datasets).volumes
    assert _order(series, volume) == [0, 1, 2, 3]
    assert volume.times_s == (0.0, 30.0, 60.0, 90.0)


@pytest.mark.parametrize("phases", [(4, 4), (4, 3)])
def test_phases_of_several_encodings_that_nothing_names_are_doubted(phases: tuple[int, int]) -> None:
    def phase(ds: Any, time: int, slice_: int) -> None:
        ds.TriggerTime = str(100 * (time if time < phases[0] else time - phases[0]))

    for volume in assemble(truth.series(sum(phases), 4).edited(phase).datasets).volumes:
        assert WarningKind.TIMES_ASSUMED in {one.name for one in volume.warnings}


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_twenty_thousand_frames_are_settled_at_once() -> None:
    pixels = np.zeros((2, 2), np.int16)
    bins = [
        [
            axial_frame(
                time * 40 + slice_,
                pixels,
                (0, 0, slice_),
                time_key={
                    "instance": (time * 40 + slice_ + 1, 1),
                    "acquisition_time": 2.0 * time,
                    "temporal_position": float(time),
                    "content_time": 500.0 - time,
                },
            )
            for time in range(500)
        ]
        for slice_ in range(40)
    ]
    began = process_time()
    settle("temporal_position", bins)
    assert process_time() - began < 2.0  # of a processor that has other work: 0.1 s of an idle one


def test_parts_with_unequal_numbers_of_phases_are_reported() -> None:
    def phase(ds: Any, time: int, slice_: int) -> None:
        ds.TriggerTime = str(100 * (time % 5))
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "M" if time < 5 else "PCA"]

    series = truth.series(8, 4).edited(phase)
    assembly = assemble(series.datasets)
    assert [volume.times for volume in assembly.volumes] == [5, 3]
    assert WarningKind.UNEQUAL_STACKS in {one.name for volume in assembly.volumes for one in volume.warnings}
    assert judged(series.datasets, assembly).state == "suspect"


@pytest.mark.parametrize("clock", [(0, 1, 2, 3), (3, 2, 1, 0), None])
def test_numbers_of_pictures_without_a_position_are_compared_with_their_clock(clock: tuple[int, ...] | None) -> None:
    def unplaced(ds: Any, time: int, slice_: int) -> None:
        del ds.ImagePositionPatient
        if clock is not None:
            ds.AcquisitionTime = f"10150{clock[time]}"

    [volume] = assemble(truth.series(4, 1).edited(unplaced).datasets).volumes
    assert volume.times == 4
    is_false = clock is not None and clock[0] > clock[-1]
    assert (WarningKind.TIMES_ASSUMED in {one.name for one in volume.warnings}) == is_false


OF_TIMES: dict[str, tuple[Any, Any]] = {
    "InstanceNumber": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "TriggerTime": ("0", "400"),
    "NominalPercentageOfCardiacPhase": (10.0, 50.0),
    "AcquisitionTime": ("101500", "101504"),
    "AcquisitionNumber": (1, 2),
    "ContentTime": ("101500", "101504"),
}


@pytest.mark.diagonal
@pytest.mark.parametrize("is_crossed", [True, False])
@pytest.mark.parametrize("keyword", OF_TIMES)
@pytest.mark.parametrize("variant", ["SliceThickness", "FlipAngle"])
def test_volumes_of_a_variant_that_have_slices_of_several_times_are_reported(
    variant: str, keyword: str, is_crossed: bool
) -> None:
    def vary(ds: Any, time: int, slice_: int) -> None:
        ds.InstanceNumber = 2 * slice_ + time + 1 if keyword == "InstanceNumber" else None
        if keyword != "InstanceNumber":
            setattr(ds, keyword, OF_TIMES[keyword][time])
        is_other = (time + slice_) % 2 if is_crossed else time
        setattr(ds, variant, ("2", "5")[is_other])

    volumes = assemble(truth.series(2, 4).edited(vary).datasets).volumes
    assert len(volumes) == 2
    for volume in volumes:
        assert (WarningKind.PARAMETER_VARIES in {one.name for one in volume.warnings}) == is_crossed


def test_only_the_clock_of_an_export_does_not_deny_the_volumes_of_a_variant() -> None:
    def vary(ds: Any, time: int, slice_: int) -> None:
        ds.FlipAngle = ("2", "5")[time]
        ds.AcquisitionTime = f"10150{time}"
        ds.ContentTime = f"10160{(time + slice_) % 2}"

    volumes = assemble(truth.series(2, 4).edited(vary).datasets).volumes
    assert [volume.warnings for volume in volumes] == [(), ()]


@pytest.mark.parametrize(
    ("modality", "numbers", "is_reported"),
    [
        ("CT", (1, 2, 2, 1), True),
        ("CT", (1, 1, 2, 2), False),
        ("CT", (3, 2, 2, 1), False),
        ("CT", (1, 4, 2, 3), False),
        ("PT", (1, 2, 2, 1), True),
        ("PT", (1, 1, 2, 2), False),
        ("MR", (1, 1, 2, 2), True),
    ],
)
def test_acquisitions_that_come_back_along_the_patient_are_reported(
    modality: str, numbers: tuple[int, ...], is_reported: bool
) -> None:
    def number(ds: Any, time: int, slice_: int) -> None:
        ds.AcquisitionNumber = numbers[slice_]

    [volume] = assemble(truth.series(1, 4, modality=modality).edited(number).datasets).volumes
    assert (WarningKind.PARAMETER_VARIES in {one.name for one in volume.warnings}) == is_reported


@pytest.mark.parametrize(
    ("phases_ms", "is_doubted"),
    [
        (((0, 400, 600), (0, 200, 600)), True),  # another phase of each slice was lost
        (((0, 200, 600), (0, 204, 600)), False),  # measured
        (((0, 200, 400), (7, 211, 409)), False),  # counted for each slice by itself
        (((0, 200, 400), (0, 200, 400)), False),
    ],
)
def test_slices_that_share_some_phases_but_not_all_are_doubted(
    phases_ms: tuple[tuple[int, ...], ...], is_doubted: bool
) -> None:
    def phase(ds: Any, time: int, slice_: int) -> None:
        ds.TriggerTime, ds.InstanceNumber = str(phases_ms[slice_ % 2][time]), None

    [volume] = assemble(truth.series(3, 2).edited(phase).datasets).volumes
    assert volume.times == 3
    assert (WarningKind.TIMES_ASSUMED in {one.name for one in volume.warnings}) == is_doubted


@pytest.mark.parametrize(
    ("variant", "values", "step_s"),
    [
        ("FlipAngle", "2525", None),
        ("FlipAngle", "2255", 2.0),
        ("SliceThickness", "2525", None),
        ("ImageType", [r"ORIGINAL\PRIMARY\M\ND", r"ORIGINAL\PRIMARY\M\DIS2D"] * 2, 2.0),
    ],
)
def test_the_repetition_is_not_the_step_of_times_between_which_others_were_excited(
    variant: str, values: Any, step_s: float | None
) -> None:
    def vary(ds: Any, time: int, slice_: int) -> None:
        setattr(ds, variant, values[time])

    volumes = assemble(truth.series(4, 4, **EPI).edited(vary).datasets).volumes
    assert [volume.time_step_s for volume in volumes] == [step_s, step_s]
