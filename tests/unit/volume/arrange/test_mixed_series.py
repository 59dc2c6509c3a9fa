"""Series into which a sender mixed what is not one volume: each part by itself, none in another's place."""

from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, EnhancedPETImageStorage, generate_uid

from node.dicom.values import number
from node.volume.assemble import assemble
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import grids, in_turn, of_one_series, planes, warned


def parts(count: int, slices: int = 5, **attributes: list[Any]) -> list[list[FileDataset]]:
    """Return volumes at the same places, with numbers that go on and one value of each attribute for each."""
    shared = of_one_series()
    return [
        make.mr_series(
            slices,
            pixels=make.pattern(slices, 16, 12, seed=part + 1),
            InstanceNumber=[part * slices + index + 1 for index in range(slices)],
            **shared,
            **{name: values[part] for name, values in attributes.items()},
        )
        for part in range(count)
    ]


WATER, FAT = r"DERIVED\PRIMARY\DIXON\WATER", r"DERIVED\PRIMARY\DIXON\FAT"


# Contrasts that lost slices


def test_times_of_two_contrasts_of_which_one_lost_a_slice_are_not_one_series_in_time() -> None:
    water, fat, water_again, fat_again = parts(4, ImageType=[WATER, FAT, WATER, FAT])
    assembly = assemble([*water, *fat[:2], *fat[3:], *water_again, *fat_again])
    assert grids(assembly) == [[planes(water), planes(water_again)], [planes(fat_again)]]
    assert {exclusion.reason for exclusion in assembly.exclusions} == {Reason.INCOMPLETE}


def test_a_contrast_that_lost_a_slice_is_a_volume_that_tells_it_though_numbers_count_the_contrasts() -> None:
    water, fat = parts(2, ImageType=[WATER, FAT])
    assembly = assemble([*water[:2], *water[3:], *fat])
    assert grids(assembly) == [[planes([*water[:2], *water[3:]])], [planes(fat)]]
    assert WarningKind.MISSING_SLICE in warned(assembly)


def test_two_contrasts_that_both_lost_slices_are_no_volume_of_both() -> None:
    water, fat = parts(2, slices=6, ImageType=[WATER, FAT])
    left = [water[:1] + water[2:], fat[:3] + fat[5:]]
    assert grids(assemble([*left[0], *left[1]])) == [[planes(part)] for part in left]


def test_a_flip_angle_of_each_time_that_lost_a_slice_divides_as_it_does_whole() -> None:
    volumes = parts(3, FlipAngle=["3", "10", "15"])
    left = [*volumes[0], *volumes[1][1:], *volumes[2]]
    assert grids(assemble(left)) == [[planes(volumes[0])], [planes(volumes[1][1:])], [planes(volumes[2])]]


def test_a_measured_repetition_time_of_each_time_divides_no_series_that_lost_a_slice() -> None:
    volumes = parts(4, RepetitionTime=["801", "803", "799", "802"])
    left = [*volumes[0], *volumes[1], *volumes[2][:3], *volumes[2][4:], *volumes[3]]
    assert grids(assemble(left)) == [[planes(volumes[0]), planes(volumes[1]), planes(volumes[3])]]


# Stations and beds


@pytest.mark.parametrize("overlap", [1, 2])
def test_stations_that_overlap_are_volumes_of_their_own(overlap: int) -> None:
    shared = of_one_series()
    stations = [
        make.mr_series(
            6,
            origin=(-50.0, -40.0, 30.0 + 2.5 * (6 - overlap) * station),
            pixels=make.pattern(6, 16, 12, seed=station),
            AcquisitionNumber=station + 1,
            InstanceNumber=[station * 6 + index + 1 for index in range(6)],
            **shared,
        )
        for station in range(3)
    ]
    assembly = assemble([ds for station in stations for ds in station])
    assert grids(assembly) == [[planes(station)] for station in stations]


def ct_chunk(first: int, seed: int, shared: dict[str, Any], **attributes: Any) -> list[FileDataset]:
    """Return six slices of a grid from number `first` on."""
    return make.ct_series(
        6, origin=(-50.0, -40.0, 2.5 * first), pixels=make.pattern(6, 16, 12, seed=seed), **shared, **attributes
    )


def test_kernels_of_acquisitions_that_overlap_are_not_mixed() -> None:
    shared = of_one_series()
    sharp, smooth = (
        [*ct_chunk(0, seed, shared, ConvolutionKernel=kernel), *ct_chunk(5, seed + 5, shared, ConvolutionKernel=kernel)]
        for seed, kernel in enumerate(("B70", "B30"))
    )
    assembly = assemble(sharp + smooth)
    kernels = {plane: kernel for kernel, part in enumerate((sharp, smooth)) for plane in planes(part)}
    assert sorted([kernels[plane] for plane in grid] for [grid] in grids(assembly)) == [[0] * 11, [1] * 11]
    assert warned(assembly) == {WarningKind.SAME_POSITION_TWICE}


def test_acquisitions_of_which_some_overlap_and_some_follow_each_other_are_volumes_of_their_own() -> None:
    shared = of_one_series()
    chunks = [ct_chunk(first, first, shared, AcquisitionNumber=1 + first) for first in (0, 6, 11)]
    assembly = assemble([ds for chunk in chunks for ds in chunk])
    assert sorted(grids(assembly)) == sorted([planes(chunk)] for chunk in chunks)


# Diffusion


WEIGHTED: dict[str, list[dict[str, Any]]] = {
    "directions": [
        {"DiffusionBValue": 0.0},
        {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": [1.0, 0, 0]},
        {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": [0, 1.0, 0]},
        {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": [0, 0, 1.0]},
    ],
    "two unweighted ones, which their numbers tell apart": [
        {"DiffusionBValue": b_value} for b_value in (0.0, 1000.0, 0.0, 500.0)
    ],
}


@pytest.mark.parametrize("weightings", WEIGHTED)
def test_a_diffusion_volume_that_lost_a_slice_leaves_the_others_in_their_order(weightings: str) -> None:
    volumes = parts(4)
    for volume, weighting in zip(volumes, WEIGHTED[weightings], strict=True):
        for ds in volume:
            ds.update(make.dataset(**weighting))
    assembly = assemble([*volumes[0], *volumes[1], *volumes[2][:3], *volumes[2][4:], *volumes[3]])
    assert grids(assembly) == [[planes(volumes[0]), planes(volumes[1]), planes(volumes[3])]]


# Times that lost slices


def test_heart_phases_that_each_slice_lost_elsewhere_are_not_closed_up() -> None:
    phases = [str(40 * time) for time in range(6)]
    series = make.time_series(6, 2, AcquisitionTime=None, InstanceNumber=1, TriggerTime=phases)
    lost = (series[2], series[7])
    assembly = assemble([ds for ds in series if ds not in lost])
    assert grids(assembly) == [[in_turn(series, 2)[time] for time in (0, 2, 4, 5)]]
    assert WarningKind.INCOMPLETE_VOLUME in warned(assembly)


def test_heart_phases_of_a_rate_of_each_slice_are_all_of_the_phases() -> None:
    series = make.time_series(5, 3, AcquisitionTime=None)
    for index, ds in enumerate(series):
        ds.TriggerTime = str((index // 3) * (36, 40, 45)[index % 3])
    assert grids(assemble(series)) == [in_turn(series, 3)]


@pytest.mark.parametrize("keyword", ["TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime"])
def test_a_slice_of_another_time_is_never_taken_for_one_of_a_whole_time(keyword: str) -> None:
    series = make.time_series(2, 4, AcquisitionTime=None, **{keyword: ["1", "2"]})
    for index, ds in enumerate(series):
        ds.InstanceNumber = 8 - index  # the other time comes first
    assembly = assemble([*series[:4], series[5]])
    assert grids(assembly) == [[planes(series[:4])]]
    assert [exclusion.sop_instance_uid for exclusion in assembly.exclusions] == [series[5].SOPInstanceUID]


def test_numbers_that_go_through_the_times_of_each_slice_keep_the_holes_of_lost_ones() -> None:
    series = make.time_series(6, 2, AcquisitionTime=None)
    for index, ds in enumerate(series):
        time, place = divmod(index, 2)
        ds.InstanceNumber = place * 6 + time + 1
    lost = (series[8], series[3])
    assembly = assemble([ds for ds in series if ds not in lost])
    assert grids(assembly) == [[in_turn(series, 2)[time] for time in (0, 2, 3, 5)]]


Grids = list[list[list[tuple[str, int]]]]


def volumes_in_an_instance_each(numbers: list[int], orders: list[list[int]]) -> tuple[list[FileDataset], Grids]:
    """Return enhanced instances of one time each, whose frames come in another order in each, and their one grid."""
    frame_of_reference = generate_uid()
    series = [
        make.enhanced_mr(
            4, order=order, series_uid="1.2.3", pixels=make.pattern(4, 16, 12, seed=seed), InstanceNumber=number
        )
        for seed, (number, order) in enumerate(zip(numbers, orders, strict=True))
    ]
    for ds in series:
        ds.FrameOfReferenceUID = frame_of_reference
    times = [
        [(str(ds.SOPInstanceUID), order.index(place) + 1) for place in range(4)]
        for ds, order in zip(series, orders, strict=True)
    ]
    return series, [times]


def test_frames_of_an_instance_with_one_at_each_position_are_of_one_time_in_whatever_order() -> None:
    series, expected = volumes_in_an_instance_each([1, 2, 3], [[0, 1, 2, 3], [2, 0, 3, 1], [3, 1, 0, 2]])
    assert grids(assemble(series)) == expected


def test_frames_of_several_instances_of_one_number_are_never_one_time() -> None:
    series, _ = volumes_in_an_instance_each([1, 1], [[0, 1, 2, 3], [1, 0, 3, 2]])
    [refusal] = assemble(series).refusals
    assert refusal.reason is Reason.SAME_POSITION_TWICE


# What is not of this volume


def test_slices_of_another_patient_are_in_no_volume_of_the_first_and_are_reported() -> None:
    series = make.ct_series(6)
    for ds in series[2:4]:
        ds.PatientID = "TEST-2"
    assembly = assemble(series)
    assert grids(assembly) == [[planes([*series[:2], *series[4:]])], [planes(series[2:4])]]
    assert WarningKind.SEVERAL_PATIENTS in warned(assembly)
    assert "TEST" not in " ".join(warning.detail for volume in assembly.volumes for warning in volume.warnings)


def test_a_slice_of_another_modality_is_not_of_the_volume() -> None:
    series = make.ct_series(6)
    series[5].Modality = "PT"
    assert grids(assemble(series)) == [[planes(series[:5])], [planes(series[5:])]]


def test_a_localizer_is_no_slice_of_the_stack_that_it_is_parallel_to() -> None:
    shared = of_one_series()
    series = make.ct_series(6, **shared)
    scout = make.ct_series(1, origin=(-50.0, -40.0, 80.0), ImageType=r"ORIGINAL\PRIMARY\LOCALIZER", **shared)
    assert sorted(grids(assemble(series + scout))) == sorted([[planes(series)], [planes(scout)]])


@pytest.mark.parametrize("text", [b"1_0", b"1__0", b"_1"])
def test_a_decimal_string_has_no_underscores(text: bytes) -> None:
    ds = make.instance()
    ds._dict[Tag("RescaleSlope")] = RawDataElement(Tag("RescaleSlope"), "DS", len(text), text, 0, False, True)
    assert number(ds, "RescaleSlope") is None


@pytest.mark.parametrize("keyword", ["RescaleIntercept", "RescaleSlope"])
@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_a_slice_that_does_not_tell_its_scaling_is_in_no_volume_of_those_that_do(modality: str, keyword: str) -> None:
    series = make.ct_series(6, modality=modality)
    setattr(series[2], keyword, None)
    assembly = assemble(series)
    assert grids(assembly) == [[planes([*series[:2], *series[3:]])]]
    assert warned(assembly) >= {WarningKind.MISSING_SLICE, WarningKind.INCOMPLETE_VOLUME}
    assert [exclusion.reason for exclusion in assembly.exclusions] == [Reason.CONTRADICTORY]


@pytest.mark.parametrize("slope", [None, "0"])
def test_a_slice_of_mr_that_does_not_tell_its_scaling_is_in_no_volume_of_those_that_do(slope: str | None) -> None:
    series = make.mr_series(6, RescaleSlope="2.5", RescaleIntercept="0")
    series[2].RescaleSlope = slope
    assembly = assemble(series)
    assert grids(assembly) == [[planes([*series[:2], *series[3:]])]]
    assert [(exclusion.sop_instance_uid, exclusion.reason) for exclusion in assembly.exclusions] == [
        (series[2].SOPInstanceUID, Reason.CONTRADICTORY)
    ]
    assert "is missing or 0" in assembly.exclusions[0].detail


def test_a_time_of_mr_without_the_scaling_of_the_others_is_left_out() -> None:
    series = make.time_series(3, 4, RescaleSlope="2.5", RescaleIntercept="0")
    for ds in series[4:8]:
        del ds.RescaleSlope, ds.RescaleIntercept
    assembly = assemble(series)
    assert grids(assembly) == [in_turn(series[:4] + series[8:], 4)]
    assert len(assembly.exclusions) == 4


def test_a_slice_of_mr_need_not_say_that_its_values_are_not_scaled() -> None:
    series = make.mr_series(6, RescaleSlope="1", RescaleIntercept="0")
    del series[2].RescaleSlope, series[2].RescaleIntercept
    assert grids(assemble(series)) == [[planes(series)]]


@pytest.mark.parametrize("sop_class", [EnhancedCTImageStorage, EnhancedPETImageStorage, EnhancedMRImageStorage])
def test_a_frame_without_the_transformation_of_the_others_is_in_no_volume(sop_class: str) -> None:
    modality = {EnhancedCTImageStorage: "CT", EnhancedPETImageStorage: "PT"}.get(sop_class, "MR")
    ds = make.changed(make.enhanced_mr(5), SOPClassUID=sop_class, Modality=modality)
    groups = ds.PerFrameFunctionalGroupsSequence
    for group in (*groups[:2], *groups[3:]):
        group.PixelValueTransformationSequence = [make.dataset(RescaleSlope="1", RescaleIntercept="-1024")]
    assembly = assemble([ds])
    assert [source.frame_number for source in assembly.volumes[0].sources] == [1, 2, 4, 5]
    assert [(exclusion.frames, exclusion.reason) for exclusion in assembly.exclusions] == [(1, Reason.CONTRADICTORY)]
    for group in (*groups[:2], *groups[3:]):
        del group.PixelValueTransformationSequence
    assert (WarningKind.VALUES_AS_STORED in warned(assemble([ds]))) == (modality != "MR")


def test_a_ct_with_a_slope_of_0_says_that_its_unit_is_unknown() -> None:
    assert WarningKind.VALUES_AS_STORED in warned(assemble(make.ct_series(4, RescaleSlope="0")))


def pet(slices: int = 6, **attributes: Any) -> list[FileDataset]:
    return make.ct_series(slices, modality="PT", Units="BQML", CorrectedImage=r"ATTN\DECY", **attributes)


@pytest.mark.parametrize(
    ("keyword", "other"),
    [("Units", "CNTS"), ("CorrectedImage", "DECY"), ("CorrectedImage", None), ("RescaleType", "US")],
)
def test_a_slice_of_another_unit_or_correction_is_not_of_the_volume(keyword: str, other: str | None) -> None:
    series = pet(RescaleType="BQML")
    setattr(series[2], keyword, other)
    assembly = assemble(series)
    assert sorted(grids(assembly)) == sorted([[planes([*series[:2], *series[3:]])], [planes(series[2:3])]])
    assert warned(assembly) >= {WarningKind.SEVERAL_QUANTITIES, WarningKind.MISSING_SLICE}


@pytest.mark.parametrize(
    ("keyword", "one", "other"),
    [("Units", "BQML", "CNTS"), ("CorrectedImage", r"ATTN\DECY", "DECY"), ("RescaleType", "HU", "MGML")],
)
def test_volumes_of_two_units_at_the_same_positions_are_no_times(keyword: str, one: Any, other: Any) -> None:
    first, second = parts(2, **{keyword: [one, other]})
    assembly = assemble(first + second)
    assert sorted(grids(assembly)) == sorted([[planes(first)], [planes(second)]])
    assert WarningKind.SEVERAL_QUANTITIES in warned(assembly)


def test_a_slice_that_states_no_unit_has_that_of_the_others() -> None:
    series = pet(RescaleType="BQML")
    series[2].Units = series[3].RescaleType = None
    assert grids(assemble(series)) == [[planes(series)]]


def passes(modality: str, first: dict[str, Any], second: dict[str, Any]) -> list[list[FileDataset]]:
    """Return two passes of 6 slices, 5 minutes apart, the second half a slice further."""
    shared = of_one_series()
    function = make.ct_series if modality == "CT" else make.mr_series
    return [
        function(6, AcquisitionTime="101500", **shared, **first),
        function(6, AcquisitionTime="102000", origin=(-50.0, -40.0, 31.25), **shared, **second),
    ]


CONTRAST = ({}, {"ContrastBolusAgent": "IOHEXOL"})
KERNELS = ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"})
NUMBERS = ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2})


@pytest.mark.parametrize(
    ("modality", "values"), [("CT", CONTRAST), ("MR", CONTRAST), ("CT", KERNELS), ("CT", NUMBERS)], ids=repr
)
def test_passes_whose_slices_alternate_are_volumes_of_their_own(modality: str, values: Any) -> None:
    first, second = passes(modality, *values)
    assert sorted(grids(assemble(first + second))) == sorted([[planes(first)], [planes(second)]])


@pytest.mark.parametrize(("modality", "values"), [("CT", CONTRAST), ("CT", ({}, {})), ("MR", NUMBERS)], ids=repr)
def test_slices_that_alternate_by_one_kind_of_evidence_are_reported(modality: str, values: Any) -> None:
    first, second = passes(modality, *values)
    for ds in second if values[1] and modality == "CT" else []:
        ds.AcquisitionTime = "101500"
    assembly = assemble(first + second)
    assert len(grids(assembly)) == 1
    assert WarningKind.INCOMPLETE_VOLUME in warned(assembly)


def test_odd_slices_that_are_excited_long_before_the_even_ones_are_one_volume() -> None:
    first, second = passes("MR", {}, {})
    assembly = assemble(first + second)
    assert len(grids(assembly)) == 1
    assert WarningKind.INCOMPLETE_VOLUME not in warned(assembly)


def test_a_ct_without_any_scaling_keeps_its_stored_values() -> None:
    [volume] = assemble(make.ct_series(6, RescaleIntercept=None, RescaleSlope=None)).volumes
    assert (volume.slope, volume.intercept) == (1.0, 0.0)
