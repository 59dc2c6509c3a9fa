"""What a series says about its own losses: every pattern is called incomplete, and no whole series is."""

import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.uid import RLELossless, generate_uid

from node.completeness import Completeness
from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert
from node.volume.assemble import assemble
from node.volume.reasons import Reason
from node.writers.options import WriteOptions
from tests import make

OPTIONS = WriteOptions(formats=("nifti",), compress=False, thumbnails=False)

Judge = Callable[[Sequence[FileDataset]], Completeness]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Convert a series, and return the verdict on it."""

    return lambda series: converted(series, tmp_path / generate_uid()).completeness


def converted(series: Sequence[FileDataset], folder: Path) -> Converted:
    instances = zip((str(ds.SOPInstanceUID) for ds in series), make.saved(series, folder), strict=True)
    return convert(ConversionJob(tuple(instances), folder, OPTIONS))


def numbered(series: Sequence[FileDataset], numbers: Sequence[int]) -> list[FileDataset]:
    for ds, number in zip(series, numbers, strict=True):
        ds.InstanceNumber = number
    return list(series)


def one_per_time(times: int, step_s: float = 2.0, **options: Any) -> list[FileDataset]:
    """Return an enhanced MR, one instance of four slices for each time, that begin so many seconds apart."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    out = []
    for time in range(times):
        ds = make.enhanced_mr(
            4, **uids, pixels=make.pattern(4, make.ROWS, make.COLUMNS, seed=time), InstanceNumber=time + 1, **options
        )
        ds.FrameOfReferenceUID = (out or [ds])[0].FrameOfReferenceUID
        ds.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence = [make.instance()]
        ds.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0].RepetitionTime = 2000.0
        for group in ds.PerFrameFunctionalGroupsSequence:
            seconds = make.decimal(step_s * time)
            group.FrameContentSequence[0].FrameAcquisitionDateTime = f"202401021015{float(seconds):09.6f}"
            del group.FrameContentSequence[0].TemporalPositionIndex
        out.append(ds)
    return out


def labelled(*starts_s: float, image_type: str = r"ORIGINAL\PRIMARY\ASL\NONE") -> list[FileDataset]:
    """Return images of arterial spin labelling, one instance of four slices for each time, at these moments."""
    series = one_per_time(len(starts_s))
    for ds, start_s in zip(series, starts_s, strict=True):
        ds.ImageType = image_type.split("\\")
        for group in ds.PerFrameFunctionalGroupsSequence:
            seconds = make.decimal(100 * (start_s // 60) + start_s % 60)
            group.FrameContentSequence[0].FrameAcquisitionDateTime = f"2024010210{1500 + float(seconds):011.6f}"
    return series


CALIBRATED = (0.0, *(6.0 + 2.0 * time for time in range(20)))
"""Starts of a pulsed 2-D labelling with a Repetition Time of 2 s, whose first image is the calibration."""


def echoes(slices: int = 4, **options: Any) -> list[FileDataset]:
    """Return two echoes of each slice, numbered in turns."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    first, second = (
        make.mr_series(slices, EchoTime=str(time), EchoNumbers=echo, **(uids | options))
        for echo, time in ((1, 10), (2, 20))
    )
    turns = [ds for pair in zip(first, second, strict=True) for ds in pair]
    return numbered(turns, range(1, len(turns) + 1))


def echoes_in_time() -> list[FileDataset]:
    """Return two echoes of three times of four slices, time by time and in each time echo by echo."""
    first, second = (make.time_series(3, 4, EchoTime=str(time), EchoNumbers=echo) for echo, time in ((1, 10), (2, 20)))
    out = [ds for time in range(3) for echo in (first, second) for ds in echo[4 * time : 4 * time + 4]]
    for ds in out:
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID = out[0].SeriesInstanceUID, out[0].FrameOfReferenceUID
    return numbered(out, range(1, len(out) + 1))


def inversions(count: int) -> list[FileDataset]:
    """Return a stack for each of several inversion times, which the headers count as times."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    stacks = [
        make.mr_series(3, InversionTime=str(100 * (time + 1)), NumberOfTemporalPositions=count, **uids)
        for time in range(count)
    ]
    return numbered([ds for stack in stacks for ds in stack], range(1, 3 * count + 1))


def slice_by_slice(times: int = 3, slices: int = 4) -> list[FileDataset]:
    """Return a time series whose numbers count the times of each slice."""
    series = make.time_series(times, slices)
    return numbered(series, [index % slices * times + index // slices + 1 for index in range(len(series))])


def with_report(series: list[FileDataset], number: int) -> list[FileDataset]:
    """Return a series in which a report has this number, which the images leave to it."""
    uids = {"study_uid": series[0].StudyInstanceUID, "series_uid": series[0].SeriesInstanceUID}
    numbered(series, [one for one in range(1, len(series) + 2) if one != number][: len(series)])
    return [*series, make.structured_report(InstanceNumber=number, **uids)]


WHOLE = {
    "a CT": lambda: make.ct_series(12),
    "an MR with gaps between its slices": lambda: make.mr_series(12, SliceThickness="2", SpacingBetweenSlices="2.5"),
    "a gap in place of the spacing": lambda: make.mr_series(12, SliceThickness="2", SpacingBetweenSlices="0.5"),
    "overlapping slices": lambda: make.ct_series(12, SliceThickness="5", SpacingBetweenSlices="2.5"),
    "a later part of the numbers": lambda: numbered(make.ct_series(12), range(22, 34)),
    "numbers from 0": lambda: numbered(make.ct_series(12), range(12)),
    "numbers by two": lambda: numbered(make.ct_series(12), range(1, 24, 2)),
    "numbers by two without a localizer": lambda: numbered(make.ct_series(12), [*range(1, 12, 2), *range(15, 26, 2)]),
    "numbers by ten": lambda: numbered(make.ct_series(12, SliceThickness=None), range(10, 130, 10)),
    "numbers by two, spacing stated": lambda: numbered(
        make.mr_series(12, SliceThickness="1.2", SpacingBetweenSlices="2.5"), range(1, 24, 2)
    ),
    "descending numbers": lambda: numbered(make.ct_series(12), range(12, 0, -1)),
    "shuffled numbers": lambda: numbered(make.ct_series(12), random.Random(3).sample(range(1, 13), 12)),
    "one number for all": lambda: numbered(make.ct_series(12), [1] * 12),
    "no number": lambda: make.ct_series(12, InstanceNumber=None),
    "a localizer taken out of the middle": lambda: numbered(make.ct_series(12), [*range(1, 7), *range(8, 14)]),
    "localizers taken out of the beginning": lambda: numbered(make.ct_series(12), range(4, 16)),
    "numbers shared with another series": lambda: numbered(make.ct_series(12), [*range(1, 7), *range(32, 38)]),
    "a lone number for the first slice": lambda: numbered(make.ct_series(13), [99, *range(1, 13)]),
    "a lone number within the stack": lambda: numbered(make.ct_series(13), [*range(1, 7), 99, *range(7, 13)]),
    "a lone number far below": lambda: numbered(make.ct_series(13), [*range(101, 107), 1, *range(107, 113)]),
    "two numbers far above": lambda: numbered(make.ct_series(13), [98, *range(1, 12), 99]),
    "a report among the images": lambda: with_report(make.ct_series(12), 3),
    "a report far from the images": lambda: with_report(make.ct_series(60, rows=8, columns=8), 99),
    "a localizer": lambda: numbered(make.localizer(3), range(1, 10)),
    "a localizer that counts anew": lambda: make.localizer(3),
    "a time series": lambda: make.time_series(5, 4),
    "a time series slice by slice": slice_by_slice,
    "a time series with a number between two times": lambda: numbered(
        make.time_series(3, 4), [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]
    ),
    "a time series that counts anew": lambda: numbered(make.time_series(3, 4), [1, 2, 3, 4] * 3),
    "a part of each time": lambda: numbered(make.time_series(3, 4), [1, 2, 3, 4, 41, 42, 43, 44, 81, 82, 83, 84]),
    "announced times": lambda: make.time_series(3, 4, NumberOfTemporalPositions=3),
    "one announced time for each inversion time": lambda: inversions(4),
    "one instance for each time": lambda: one_per_time(6),
    "numbers that count the slices of each instance": lambda: numbered(one_per_time(6, 9.2), range(1, 22, 4)),
    "every second number, the other echo elsewhere": lambda: numbered(one_per_time(6), range(1, 13, 2)),
    "labelling after its calibration": lambda: labelled(*CALIBRATED),
    "labelling that pauses between its delays": lambda: labelled(0, 2, 4, 6, 12, 14, 16, 18, 24, 26, 28, 30),
    "labelling whose numbers count slices": lambda: numbered(labelled(*CALIBRATED), range(1, 82, 4)),
    "perfusion by pairs of images": lambda: numbered(
        labelled(*range(0, 40, 4), image_type=r"DERIVED\PRIMARY\ASL\PERFUSION"), range(2, 21, 2)
    ),
    "echoes": echoes,
    "echo after echo": lambda: numbered(echoes(), [1, 5, 2, 6, 3, 7, 4, 8]),
    "a dynamic PET": lambda: make.time_series(
        2, 4, NumberOfSlices=4, NumberOfTimeSlices=2, NumberOfTemporalPositions=9
    ),
    "a copy": lambda: make.duplicate_series(6),
    "a multi-frame instance": lambda: [make.enhanced_mr(4, 3)],
    "a tilted gantry": lambda: make.tilted_ct_series(8),
    "a derived image with the spacing of its source": lambda: make.mr_series(
        8, ImageType=r"DERIVED\SECONDARY\M", SpacingBetweenSlices="1.25"
    ),
}  # fmt: skip


def test_a_lone_number_outside_of_the_volume_is_suspect_and_counts_nothing(judge: Judge) -> None:
    series = make.ct_series(12)
    uids = {"study_uid": series[0].StudyInstanceUID, "series_uid": series[0].SeriesInstanceUID}
    verdict = judge([*series, make.rgb_capture(InstanceNumber=99, **uids)])
    assert (verdict.state, verdict.rule, verdict.missing) == ("suspect", "instance-numbers", None)
    assert "Instance Number 99 is far from the others, 1-12" in verdict.reason


def test_the_first_times_and_the_last_one_are_no_whole_series(judge: Judge) -> None:
    series = make.time_series(30, 4)
    verdict = judge([*series[:20], *series[-4:]])
    assert (verdict.state, verdict.missing) == ("incomplete", 96)


def test_a_slice_with_a_lone_number_that_lies_far_away_is_missed_by_its_place(judge: Judge) -> None:
    verdict = judge([*(whole := numbered(make.ct_series(99), range(1, 100)))[:12], whole[-1]])
    assert (verdict.state, verdict.rule, verdict.missing) == ("incomplete", "geometry", 86)


@pytest.mark.sample(15)
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_series_is_complete(judge: Judge, name: str) -> None:
    found = judge(WHOLE[name]())
    assert (found.state, found.missing, found.missing_detail) == ("complete", 0, ""), found.reason


LOSSES = {
    "one slice": (lambda: make.ct_series(12), [4], "Instance Number 5"),
    "a run of slices": (lambda: make.ct_series(12), [4, 5, 6], "Instance Numbers 5-7"),
    "every second slice": (lambda: make.ct_series(12), [*range(1, 12, 2)], "Instance Numbers 2, 4, 6, 8, 10"),
    "every third slice is left": (
        lambda: make.ct_series(10, SliceThickness=None), [1, 2, 4, 5, 7, 8], "Instance Numbers 2-3, 5-6, 8-9",
    ),
    "all but the first and the last": (lambda: make.ct_series(20), [*range(1, 19)], "Instance Numbers 2-19"),
    "all but the first and the last of unknown thickness": (
        lambda: make.ct_series(20, SliceThickness=None), [*range(1, 19)], "Instance Numbers 2-19",
    ),
    "the top slice of a stack with shuffled numbers": (
        lambda: numbered(make.ct_series(6), [1, 3, 5, 2, 6, 4]), [5], "Instance Number 4",
    ),
    "one time": (lambda: make.time_series(5, 4), [8, 9, 10, 11], "Instance Numbers 9-12"),
    "one time slice by slice": (slice_by_slice, [4, 5, 6, 7], "Instance Numbers 2, 5, 8, 11"),
    "the last time slice by slice": (slice_by_slice, [8, 9, 10, 11], "Instance Numbers 3, 6, 9"),
    "one slice of one time": (lambda: make.time_series(5, 4), [9], "Instance Number 10"),
    "one instance that is a time": (lambda: one_per_time(6), [2], "Instance Number 3"),
    "an instance whose numbers count slices": (
        lambda: numbered(one_per_time(6, 9.2), range(1, 22, 4)), [2], "Instance Number 9",
    ),
    "one image of labelling": (lambda: labelled(*CALIBRATED), [7], "Instance Number 8"),
    "every second image of labelling": (lambda: labelled(*CALIBRATED), [*range(1, 21, 2)], "Instance Numbers 2, 4, 6"),
    "the middle one of three instances": (lambda: one_per_time(3), [1], "Instance Number 2"),
    "every second instance that is a time": (lambda: one_per_time(7), [1, 3, 5], "Instance Numbers 2, 4, 6"),
    "one slice of an echo": (echoes, [4], "Instance Number 5"),
    "the last slice of the last echo": (echoes, [7], "slices of an echo"),
    "one slice of a localizer": (lambda: numbered(make.localizer(4), range(1, 13)), [4], "Instance Number 5"),
    "the last of announced times": (
        lambda: make.time_series(3, 4, NumberOfTemporalPositions=3), [8, 9, 10, 11], "1 time",
    ),
    "all but one of announced times": (
        lambda: make.time_series(3, 4, NumberOfTemporalPositions=3), [*range(4, 12)], "2 times",
    ),
    "the last slice of a static PET": (
        lambda: make.ct_series(6, NumberOfSlices=6), [5], "1 instance",
    ),
    "slices of several times": (lambda: make.time_series(5, 4), [1, 6, 7, 11, 12, 18], "Instance Numbers 2, 7-8"),
}  # fmt: skip


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_incomplete_and_its_verdict_lists_what_is_missing(judge: Judge, name: str) -> None:
    make_series, lost, listed = LOSSES[name]
    found = judge([ds for index, ds in enumerate(make_series()) if index not in lost])
    assert found.state == "incomplete", found.reason
    assert found.missing
    assert listed in found.missing_detail


def test_slices_farther_apart_than_stated_are_suspect_and_both_distances_are_named(judge: Judge) -> None:
    found = judge(make.mr_series(6, spacing=5.0, SliceThickness="2.5", SpacingBetweenSlices="2.5"))
    assert (found.state, found.rule, found.missing) == ("suspect", "spacing", 5)
    assert "5 mm apart" in found.reason
    assert "is 2.5 mm" in found.reason


def test_a_count_that_agrees_casts_doubt_on_missing_numbers(judge: Judge) -> None:
    found = judge(numbered(make.time_series(2, 4, ImagesInAcquisition=8), [1, 2, 3, 4, 9, 10, 11, 12]))
    assert (found.state, found.rule, found.expected, found.missing) == ("suspect", "times", 8, 4)
    assert "announces 8" in found.reason
    assert "Instance Numbers 5-8 are missing" in found.reason


def test_a_clock_that_jumps_while_numbers_do_not_is_suspect(judge: Judge) -> None:
    series = one_per_time(6)
    for ds in series[4:]:
        for group in ds.PerFrameFunctionalGroupsSequence:
            content = group.FrameContentSequence[0]
            content.FrameAcquisitionDateTime = str(float(content.FrameAcquisitionDateTime) + 2)
    found = judge(series)
    assert found.state == "suspect"
    assert "after time 4 by their starts" in found.reason
    assert "Instance Numbers have no hole" in found.reason


def test_the_sidecar_of_a_series_that_lost_a_time_has_the_start_of_each_time(tmp_path: Path) -> None:
    series = [ds for index, ds in enumerate(make.time_series(5, 4)) if index // 4 != 2]
    [volume] = [file for file in converted(series, tmp_path).files if file.kind == "volume"]
    assert "missing-time" in volume.warnings
    sidecar = json.loads((tmp_path / volume.path).with_suffix(".json").read_text())
    assert sidecar["VolumeTiming"] == [0.0, 2.0, 6.0, 8.0]
    assert (sidecar["time_step_s"], sidecar["completeness"]["state"]) == (None, "incomplete")


def test_the_beginning_of_one_time_and_the_end_of_another_are_no_whole_volume(judge: Judge) -> None:
    series = make.time_series(2, 6)
    for ds in series:
        del ds.AcquisitionTime
    found = judge(series[:2] + series[8:])
    assert found.state == "incomplete"
    assert "Instance Numbers 3-8 are missing" in found.reason


@pytest.mark.parametrize("of_times", [True, False])
def test_an_echo_that_lost_its_end_warns_beside_the_verdict(tmp_path: Path, of_times: bool) -> None:
    series = echoes_in_time() if of_times else echoes(5)
    series = series[:-4] if of_times else series[:-1]
    result = converted(series, tmp_path)
    reported = {file.suffix: "unequal-stacks" in file.warnings for file in result.files if file.kind == "volume"}
    assert reported == {"e1": False, "e2": True}
    assert (result.completeness.state, result.completeness.missing) == ("incomplete", 4 if of_times else 1)
    steps = [json.loads((tmp_path / f"volume_e{echo}.json").read_text())["time_step_s"] for echo in (1, 2)]
    assert steps == ([2.0, None] if of_times else [None, None])


@pytest.mark.parametrize("label", ["AcquisitionTime", "ContentTime", "TriggerTime", "TemporalPositionIdentifier", None])
def test_a_single_slice_of_another_time_is_suspect(judge: Judge, label: str | None) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    times = [{} if label is None else {label: f"{value}0"} for value in (1, 2)]
    first, second = (make.mr_series(count, **uids, **time) for count, time in zip((10, 1), times, strict=True))
    make.set_pixels(second[0], make.pattern(1, make.ROWS, make.COLUMNS, seed=5)[0])
    verdict = judge(numbered([*first, *second], range(1, 12)))
    assert (verdict.state, verdict.rule) == ("suspect", "geometry"), verdict.reason
    assert "1 frame was left out at positions of others" in verdict.reason


def test_positions_of_a_refused_series_that_differ_by_rounding_are_the_same(judge: Judge) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    series = [*make.mr_series(10, **uids), *make.mr_series(10, pixels=make.pattern(10, 16, 12, seed=5), **uids)]
    for index, ds in enumerate(series):
        del ds.InstanceNumber
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, y, make.decimal(round(float(z)) + (0.0051 if index == 10 else 0.0049))]
    assert [refusal.reason for refusal in assemble(series).refusals] == [Reason.SAME_POSITION_TWICE]
    assert judge(series).state == "complete"


@pytest.mark.parametrize(("again", "state"), [(4, "suspect"), (10, "complete")])
def test_a_refused_series_is_suspect_if_only_some_of_its_positions_have_several_frames(
    judge: Judge, again: int, state: str
) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    series = [*make.mr_series(10, **uids), *make.mr_series(again, pixels=make.pattern(again, 16, 12, seed=5), **uids)]
    for ds in series:
        del ds.InstanceNumber
    assert [refusal.reason for refusal in assemble(series).refusals] == [Reason.SAME_POSITION_TWICE]
    verdict = judge(series)
    assert verdict.state == state, verdict.reason
    assert ("4 of 10 positions have more instances" in verdict.reason) == (state == "suspect")


def test_of_a_cut_series_of_several_times_no_more_is_counted_than_its_numbers_allow(tmp_path: Path) -> None:
    whole = make.time_series(4, 15, AcquisitionTime="101500", ImagesInAcquisition=15, NumberOfTemporalPositions=20)
    kept = [0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 30, 38]
    done = converted([whole[index] for index in kept], tmp_path)
    [refusal] = done.refusals
    assert refusal.reason is Reason.INCOMPLETE
    numbers = "25 Instance Numbers (0020,0013) are missing between theirs"
    assert refusal.detail.endswith(f"; {numbers}; send the missing instances")
    verdict = done.completeness
    assert (verdict.state, verdict.expected, verdict.missing) == ("incomplete", 300, 286)
    assert verdict.reason.startswith("incomplete: ")
    assert "; 14 of 300 instances that " in verdict.reason
    assert "Instance Numbers 2, 4, 6, 8, " in verdict.reason


DIVIDED: dict[str, tuple[Any, Any]] = {
    "AcquisitionTime": ("100000", "100130"),
    "AcquisitionNumber": (1, 2),
    "AcquisitionDateTime": ("20240102100000", "20240102100130"),
    "TemporalPositionIdentifier": (1, 2),
    "ConvolutionKernel": ("B30f", "B70f"),
    "FlipAngle": ("5", "20"),
    "InversionTime": ("100", "900"),
}
"""Attributes that divide a stack, and two values."""


@pytest.mark.diagonal
@pytest.mark.parametrize("keyword", DIVIDED)
@pytest.mark.parametrize("first", [0, 3, 6, 8])
def test_a_part_that_was_stopped_early_is_suspect(judge: Judge, keyword: str, first: int) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    make_series = make.ct_series if keyword == "ConvolutionKernel" else make.mr_series
    start = (*make.ORIGIN_MM[:2], make.ORIGIN_MM[2] + make.SPACING_MM * first)
    whole, short = DIVIDED[keyword]
    series = make_series(10, **uids, **{keyword: whole}) + make_series(4, origin=start, **uids, **{keyword: short})
    verdict = judge(numbered(series, range(1, 15)))
    assert verdict.state == "suspect", verdict.reason
    assert "lack slices that others have at the same positions" in verdict.reason
    assert verdict.missing == (6 if first < 8 else 8 + 2)


def with_other_pixels(ds: FileDataset, seed: int) -> FileDataset:
    """The instance with other pixels, under its own SOP Instance UID."""
    return make.set_pixels(deepcopy(ds), make.pattern(1, ds.Rows, ds.Columns, seed=seed)[0])


def test_further_files_of_an_instance_are_counted_in_the_verdict(judge: Judge) -> None:
    [image] = make.ct_series(1)
    verdict = judge([image] * 5)
    assert (verdict.state, verdict.received) == ("complete", 1)
    assert verdict.reason.endswith("; 4 copies of the same content left out")


@pytest.mark.parametrize("slices", [1, 6])
def test_a_series_with_two_contents_under_one_uid_is_not_complete(judge: Judge, slices: int) -> None:
    series = make.ct_series(slices)
    verdict = judge([*series, with_other_pixels(series[0], 7), with_other_pixels(series[0], 8)])
    assert (verdict.state, verdict.rule) == ("suspect", "versions")
    assert "not the same content" in verdict.reason
    assert "left out" not in verdict.reason


@pytest.mark.parametrize("without", [True, False])
def test_the_first_copy_that_can_be_decoded_is_used(without: bool, tmp_path: Path) -> None:
    series = make.ct_series(4, ConvolutionKernel="whole")
    cut = make.changed(deepcopy(series[0]), PixelData=series[0].PixelData[:20], ConvolutionKernel="cut")
    if without:
        del cut.PixelData
    found = converted([cut, cut, *series, series[0]], tmp_path / "cut")
    assert [file.shape for file in found.files if file.shape] == [(make.COLUMNS, make.ROWS, 4)]
    assert [Path(exclusion.file or "").name for exclusion in found.exclusions] == ["0000.dcm", "0001.dcm"]
    assert {exclusion.reason for exclusion in found.exclusions} == {Reason.CUT}
    assert not [exclusion for exclusion in found.exclusions if "send it again" in exclusion.detail]
    assert found.completeness.state == "complete"  # there is nothing to do
    assert found.completeness.reason.endswith("; 1 copy of the same content left out")
    [sidecar] = (json.loads(path.read_text()) for path in (tmp_path / "cut").glob("*.json"))
    assert sidecar["ConvolutionKernel"] == ["whole"]


def test_a_whole_file_is_used_instead_of_one_that_cannot_be_read(tmp_path: Path) -> None:
    series = make.ct_series(4)
    broken = deepcopy(series[1])
    broken.compress(RLELossless, generate_instance_uid=False)
    paths = make.saved([broken, *series], tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[:-60])
    uids = [str(ds.SOPInstanceUID) for ds in (broken, *series)]
    found = convert(ConversionJob(tuple(zip(uids, paths, strict=True)), tmp_path, OPTIONS))
    assert [(Path(one.file or "").name, one.reason) for one in found.exclusions] == [("0000.dcm", Reason.CUT)]
    assert "send it again" not in found.exclusions[0].detail
    assert found.completeness.state == "complete"
    assert [file.warnings for file in found.files if file.shape] == [()]


def test_the_number_of_a_report_beside_images_without_a_place_is_no_hole(judge: Judge) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    pictures = [make.rgb_capture(InstanceNumber=number, **uids) for number in range(1, 61)]
    verdict = judge([*pictures, make.structured_report(**uids, InstanceNumber=99)])
    assert (verdict.state, verdict.missing) == ("complete", 0), verdict.reason
    verdict = judge([*pictures[:30], *pictures[31:], make.structured_report(**uids, InstanceNumber=99)])
    assert (verdict.state, verdict.missing) == ("incomplete", 1), verdict.reason
