"""Series that anonymisers, archives and losses left behind: nothing mixed, nothing dropped in silence."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pydicom import DataElement, FileDataset
from pydicom.uid import generate_uid

from node.volume.assemble import assemble
from node.volume.model import Geometry
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import grids, in_turn, of_one_series, planes, warned

# What anonymisers and archives take away


def test_a_frame_of_reference_of_each_instance_divides_no_volume_and_is_reported() -> None:
    series = make.ct_series(6, FrameOfReferenceUID=[generate_uid() for _ in range(6)])
    assembly = assemble(series)
    assert grids(assembly) == [[planes(series)]]
    assert WarningKind.FRAME_OF_REFERENCE_VARIES in warned(assembly)


def test_two_scans_of_two_frames_of_reference_stay_apart() -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    first = make.ct_series(6, **uids)
    second = make.ct_series(6, pixels=make.pattern(6, 16, 12, seed=2), **uids)
    assert sorted(grids(assemble(first + second))) == sorted([[planes(first)], [planes(second)]])


def test_two_volumes_of_a_frame_of_reference_each_stay_apart() -> None:
    first, second = make.enhanced_mr(4), make.enhanced_mr(4)
    assert len(grids(assemble([first, second]))) == 2


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("lost", [2, 5])
def test_a_slice_without_its_place_is_left_out_and_reported_even_at_the_end(keyword: str, lost: int) -> None:
    series = make.ct_series(6)
    delattr(series[lost], keyword)
    assembly = assemble(series)
    assert grids(assembly) == [[planes([ds for ds in series if ds is not series[lost]])]]
    assert WarningKind.INCOMPLETE_VOLUME in warned(assembly)
    [exclusion] = assembly.exclusions
    assert (exclusion.sop_instance_uid, exclusion.reason) == (series[lost].SOPInstanceUID, Reason.BAD_GEOMETRY)


def test_a_picture_of_another_size_without_a_place_is_a_volume_by_itself() -> None:
    series = make.ct_series(4)
    picture = make.ct_series(1, rows=8, pixels=make.pattern(1, 8, 12))[0]
    del picture.ImagePositionPatient
    picture.SeriesInstanceUID = series[0].SeriesInstanceUID
    assert sorted(map(len, (grid[0] for grid in grids(assemble([*series, picture]))))) == [1, 4]


def test_sections_without_a_position_are_slices_in_the_order_of_their_locations() -> None:
    series = make.ct_series(5, InstanceNumber=[3, 1, 5, 2, 4], SliceLocation=["0", "2.5", "5", "7.5", "10"])
    for ds in series:
        del ds.ImagePositionPatient
    assembly = assemble(series)
    assert grids(assembly) == [[planes(series)]]
    assert assembly.volumes[0].geometry is Geometry.NONE


def test_one_position_with_several_slice_locations_is_refused() -> None:
    series = make.ct_series(5, SliceLocation=["0", "2.5", "5", "7.5", "10"])
    for ds in series:
        ds.ImagePositionPatient = series[0].ImagePositionPatient
    [refusal] = assemble(series).refusals
    assert refusal.reason is Reason.CONTRADICTORY


def test_a_series_that_came_twice_with_a_slice_taken_twice_has_its_copies_left_out() -> None:
    first = make.duplicate_series(5, same_pixels=False)
    again = deepcopy(first)
    for number, ds in enumerate(again, start=7):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = number
    assembly = assemble(first + again)
    assert grids(assembly) == [[planes(first[:5])]]
    assert warned(assembly) == {WarningKind.DUPLICATE_SLICE, WarningKind.SAME_POSITION_TWICE}


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_slice_whose_scaling_is_no_number_is_left_out_and_reported(keyword: str) -> None:
    series = make.ct_series(5)
    series[2][keyword] = DataElement(keyword, "DS", "")
    series[2][keyword]._value = float("nan")
    assembly = assemble(series)
    assert [exclusion.reason for exclusion in assembly.exclusions] == [Reason.CONTRADICTORY]
    assert WarningKind.MISSING_SLICE in warned(assembly)


def test_a_series_of_one_instance_uid_for_all_slices_is_refused() -> None:
    series = make.ct_series(6)
    for ds in series:
        ds.SOPInstanceUID = series[0].SOPInstanceUID
    assembly = assemble(series)
    assert assembly.volumes == ()
    assert Reason.CONTRADICTORY in {refusal.reason for refusal in assembly.refusals}


# Parameters that go from slice to slice


def test_a_parameter_of_each_slice_divides_no_volume_that_lacks_a_slice() -> None:
    series = make.mr_series(6, InversionTime=[str(100 + 50 * index) for index in range(6)])
    del series[2]
    assembly = assemble(series)
    assert grids(assembly) == [[planes(series)]]
    assert WarningKind.MISSING_SLICE in warned(assembly)


def test_a_parameter_of_each_slice_divides_no_series_in_time() -> None:
    series = make.time_series(3, 4)
    for index, ds in enumerate(series):
        ds.InversionTime = str(100 + 50 * (index % 4))
    assert grids(assemble(series)) == [in_turn(series, 4)]


@pytest.mark.parametrize("keyword", ["EchoTime", "InversionTime"])
def test_volumes_of_an_echo_or_inversion_time_each_stay_apart(keyword: str) -> None:
    shared = of_one_series()
    volumes = [
        make.mr_series(4, pixels=make.pattern(4, 16, 12, seed=number), **{keyword: str(10 * number)}, **shared)
        for number in (1, 2, 3)
    ]
    assert grids(assemble(volumes[2] + volumes[0] + volumes[1])) == [[planes(volume)] for volume in volumes]


def test_echo_times_that_are_measured_at_each_slice_divide_no_echo() -> None:
    random, shared, echoes = np.random.default_rng(0), of_one_series(), []
    for number in (1, 2, 3):
        times = [f"{5 * number + random.uniform(-0.04, 0.04):.3f}" for _ in range(6)]
        pixels = make.pattern(6, 16, 12, seed=number)
        echoes.append(make.mr_series(6, EchoTime=times, EchoNumbers=None, pixels=pixels, **shared))
    assembly = assemble([ds for echo in echoes[::-1] for ds in echo])
    assert grids(assembly) == [[planes(echo)] for echo in echoes]
    assert [volume.suffix for volume in assembly.volumes] == ["e1", "e2", "e3"]


def test_thin_slices_of_a_base_and_thick_ones_above_are_uneven_but_none_is_missing() -> None:
    heights = [0, 3, 6, 9, 12, 18, 24, 30]
    series = make.ct_series(
        8, positions=np.array([[-50.0, -40.0, height] for height in heights]), SliceThickness=["3"] * 5 + ["6"] * 3
    )
    assert warned(assemble(series)) & {WarningKind.IRREGULAR_SPACING, WarningKind.MISSING_SLICE} == {
        WarningKind.IRREGULAR_SPACING
    }


# Variants that lost slices


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("ConvolutionKernel", ["B30", "B70"]),
        ("FlipAngle", ["3", "15"]),
        ("ImageType", [r"DERIVED\PRIMARY\DIXON\W", r"DERIVED\PRIMARY\DIXON\F"]),
    ],
)
def test_variants_that_lost_slices_are_volumes_that_tell_it(keyword: str, values: list[str]) -> None:
    shared = of_one_series()
    one, other = (
        make.mr_series(6, pixels=make.pattern(6, 16, 12, seed=seed), **{keyword: value}, **shared)
        for seed, value in enumerate(values)
    )
    assembly = assemble(one[:2] + one[3:] + other)
    assert sorted(grids(assembly)) == sorted([[planes(one[:2] + one[3:])], [planes(other)]])
    has_gap = [
        WarningKind.MISSING_SLICE in {warning.name for warning in volume.warnings} for volume in assembly.volumes
    ]
    assert sorted(has_gap) == [False, True, True]  # with the even one beside


def test_phase_images_without_an_image_type_are_no_second_time_of_their_magnitude() -> None:
    shared = of_one_series(ImageType=None, RescaleSlope="2")
    magnitude = make.mr_series(4, RescaleIntercept="0", **shared)
    phase = make.mr_series(
        4, RescaleIntercept="-4096", pixels=make.pattern(4, 16, 12, seed=3), InstanceNumber=[5, 6, 7, 8], **shared
    )
    assert grids(assemble(magnitude + phase)) == [[planes(magnitude)], [planes(phase)]]


# Order in time


def test_instance_numbers_in_no_order_mix_no_times_and_positions_with_several_frames_are_counted() -> None:
    numbers = np.random.default_rng(3).permutation(12)
    series = make.time_series(3, 4, AcquisitionTime=None)
    for ds, number in zip(series, numbers, strict=True):
        ds.InstanceNumber = int(number) + 1
    [refusal] = assemble(series).refusals
    assert refusal.reason is Reason.SAME_POSITION_TWICE
    [refusal] = assemble(series[:7] + series[8:11]).refusals
    assert refusal.reason is Reason.INCOMPLETE
    assert refusal.detail.startswith("3 of 4 positions have several frames")


@pytest.mark.parametrize("order", ["time by time", "slice by slice", "package by package"])
def test_instance_numbers_that_follow_each_other_give_the_times(order: str) -> None:
    series = make.time_series(3, 4, AcquisitionTime=None)
    turns = [divmod(index, 4) for index in range(12)]
    by_rank = {
        "time by time": lambda turn: turn,
        "slice by slice": lambda turn: turn[::-1],
        "package by package": lambda turn: (turn[1] % 2, turn[0], turn[1]),
    }[order]
    ranks = {turn: rank for rank, turn in enumerate(sorted(turns, key=by_rank))}
    for ds, turn in zip(series, turns, strict=True):
        ds.InstanceNumber = ranks[turn] + 1
    assert grids(assemble(series)) == [in_turn(series, 4)]


def test_a_content_time_that_mixes_times_is_passed_over() -> None:
    series = make.time_series(3, 4, AcquisitionTime=None)
    for ds, second in zip(series, np.random.default_rng(5).permutation(12), strict=True):
        ds.ContentTime = f"1015{second:02d}"
    assert grids(assemble(series)) == [in_turn(series, 4)]


def test_times_that_each_lost_a_slice_at_another_position_are_not_closed_up() -> None:
    series = make.time_series(4, 3, InstanceNumber=1)
    lost = {0 * 3 + 0, 1 * 3 + 1, 2 * 3 + 2}  # three frames stay at each position
    assembly = assemble([ds for index, ds in enumerate(series) if index not in lost])
    assert grids(assembly) in ([], [[planes(series[9:])]])
    assert assembly.refusals or WarningKind.INCOMPLETE_VOLUME in warned(assembly)


def diffusion_series(b_values: Sequence[float], **attributes: Any) -> list[list[FileDataset]]:
    shared = of_one_series(**attributes)
    return [
        make.mr_series(3, pixels=make.pattern(3, 16, 12, seed=number), DiffusionBValue=float(b_value), **shared)
        for number, b_value in enumerate(b_values)
    ]


def test_weightings_that_differ_put_diffusion_volumes_in_order_without_any_number() -> None:
    volumes = diffusion_series([0, 500, 1000], InstanceNumber=1)
    assert grids(assemble([ds for volume in volumes for ds in volume])) == [[planes(volume) for volume in volumes]]


def test_two_unweighted_volumes_without_any_number_are_not_mixed() -> None:
    volumes = diffusion_series([0, 0, 1000], InstanceNumber=1)
    [refusal] = assemble([ds for volume in volumes for ds in volume]).refusals
    assert refusal.reason is Reason.SAME_POSITION_TWICE


def test_a_diffusion_weighting_that_lost_a_slice_is_left_out_alone() -> None:
    volumes = diffusion_series([0, 500, 1000], InstanceNumber=1)
    assembly = assemble([*volumes[0], *volumes[1][1:], *volumes[2]])
    assert grids(assembly) == [[planes(volumes[0]), planes(volumes[2])]]
    assert {exclusion.reason for exclusion in assembly.exclusions} == {Reason.INCOMPLETE}


def test_slices_of_several_weightings_that_share_no_position_are_no_volume() -> None:
    volumes = diffusion_series([0, 1000])
    kept = [volumes[0][:2], volumes[1][2:]]
    assert grids(assemble([ds for volume in kept for ds in volume])) == [[planes(volume)] for volume in kept]


@pytest.mark.parametrize(
    "reported", [{"TemporalPositionIdentifier": [1, 2]}, {"DiffusionBValue": [500.0, 1000.0]}], ids=str
)
def test_what_is_left_of_two_times_is_no_volume_with_a_slice_taken_twice(reported: dict[str, list[Any]]) -> None:
    series = make.time_series(2, 5, AcquisitionTime=None, InstanceNumber=1, **reported)
    [refusal] = assemble([*series[:3], *series[7:]]).refusals  # the third position has both
    assert refusal.reason is Reason.INCOMPLETE


def test_a_weighting_of_each_slice_is_reported() -> None:
    series = make.mr_series(4, DiffusionBValue=[0.0, 250.0, 500.0, 750.0])
    assembly = assemble(series)
    assert grids(assembly) == [[planes(series)]]
    assert WarningKind.PARAMETER_VARIES in warned(assembly)
