"""Whole series as other scanners and archives write them: which frames end up in which volume."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    CTImageStorage,
    EnhancedUSVolumeStorage,
    JPEGLSLossless,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    RLELossless,
    generate_uid,
)

from node.volume.assemble import assemble
from node.volume.model import Geometry
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import frames, grids, in_turn, numbered, of_one_series, one_item, planes, warned

# Jitter


def jittered(datasets: list[FileDataset], cosines: float, position_mm: float) -> list[FileDataset]:
    random = np.random.default_rng(0)
    for ds in datasets:
        ds.ImageOrientationPatient = [
            make.decimal(value + random.uniform(-cosines, cosines)) for value in ds.ImageOrientationPatient
        ]
        ds.ImagePositionPatient = [
            make.decimal(round(float(value) + random.uniform(-position_mm, position_mm), 4))
            for value in ds.ImagePositionPatient
        ]
    return datasets


def test_orientations_that_jitter_in_the_fourth_digit_are_one() -> None:
    series = jittered(make.mr_series(12), 1e-4, 0.0)
    assembly = assemble(series)
    assert grids(assembly) == [[planes(series)]]
    assert assembly.volumes[0].geometry is Geometry.REGULAR


def test_positions_that_jitter_between_times_are_one() -> None:
    series = jittered(make.time_series(3, 8), 1e-4, 0.02)
    assert grids(assemble(series)) == [in_turn(series, 8)]


@pytest.mark.parametrize(
    ("slices", "digits", "off_mm"),
    [(40, 2, 2e-4), (50, 1, 3e-3)],  # not the usual step of 0.6 mm: 30 mm in all, not 29
    ids=["to a hundredth of a millimetre: even", "to a tenth: reported, and as long as it was"],
)
def test_rounded_positions_keep_the_length_of_a_stack(slices: int, digits: int, off_mm: float) -> None:
    series = make.ct_series(slices, spacing=0.625)
    for ds in series:
        ds.ImagePositionPatient = [make.decimal(round(float(value), digits)) for value in ds.ImagePositionPatient]
    assembly = assemble(series)
    assert assembly.volumes[0].spacing_mm[2] == pytest.approx(0.625, abs=off_mm)
    assert (WarningKind.IRREGULAR_SPACING in warned(assembly)) == (digits == 1)
    assert (assembly.volumes[0].geometry is Geometry.REGULAR) == (digits == 2)


@pytest.mark.slow
def test_a_spacing_that_creeps_by_less_than_a_percent_is_reported_when_it_adds_up() -> None:
    heights = np.concatenate(([0.0], np.cumsum([1.0] * 150 + [1.009] * 150)))
    series = make.ct_series(301, positions=np.array([[-50.0, -40.0, height] for height in heights]))
    assert WarningKind.IRREGULAR_SPACING in {warning.name for warning in assemble(series).volumes[0].warnings}


# Traits of single slices


def all_but(index: int, value: Any, count: int = 6) -> list[Any]:
    """A value for each slice, and none for one of them."""
    return [None if slice_ == index else value for slice_ in range(count)]


OF_SINGLE_SLICES: dict[str, Callable[[], list[FileDataset]]] = {
    "echo numbers that count slices": lambda: make.mr_series(6, EchoNumbers=[1, 2, 3, 4, 5, 6]),
    "no echo number": lambda: make.mr_series(6, EchoNumbers=all_but(1, 1)),
    "no echo time": lambda: make.mr_series(6, EchoTime=all_but(2, "30")),
    "no inversion time": lambda: make.mr_series(6, InversionTime=all_but(2, "30")),
    "derived by an archive": lambda: make.mr_series(6, ImageType=[r"ORIGINAL\PRIMARY\M", r"DERIVED\PRIMARY\M"] * 3),
    "compressed with loss": lambda: make.mr_series(6, LossyImageCompression=[None, None, "01", "01", "01", "01"]),
    "no frame of reference": lambda: make.ct_series(6, FrameOfReferenceUID=all_but(2, "1.2.3")),
    "a patient ID of its own": lambda: make.ct_series(6, PatientID=[f"random {index}" for index in range(6)]),
    "no patient ID, or no modality": lambda: make.ct_series(6, PatientID=all_but(1, "A"), Modality=all_but(2, "CT")),
}


@pytest.mark.parametrize("trait", OF_SINGLE_SLICES)
def test_a_trait_of_single_slices_divides_no_volume(trait: str) -> None:
    series = OF_SINGLE_SLICES[trait]()
    assert grids(assemble(series)) == [[planes(series)]]


EACH_ITS_OWN = [str(100 + 50 * index) for index in range(6)]
FROM_SLICE_TO_SLICE: dict[str, dict[str, list[Any]]] = {
    "inversion times": {"InversionTime": EACH_ITS_OWN},
    "echo times": {"EchoTime": EACH_ITS_OWN},
    "flip angles": {"FlipAngle": EACH_ITS_OWN},
    "one other echo time": {"EchoTime": ["80"] * 5 + ["85"] + ["80"] * 6},
    "two flip angles in turns": {"FlipAngle": ["20", "25"] * 3},
    "two flip angles in halves": {"FlipAngle": ["20"] * 3 + ["25"] * 3},
    "two temporal positions": {"TemporalPositionIdentifier": [1, 1, 1, 2, 2, 2]},
}


@pytest.mark.parametrize("parameter", FROM_SLICE_TO_SLICE)
def test_a_parameter_that_changes_from_slice_to_slice_divides_no_volume_and_is_reported(parameter: str) -> None:
    [(keyword, values)] = FROM_SLICE_TO_SLICE[parameter].items()
    series = make.mr_series(len(values), **{keyword: values})
    assembly = assemble(series)
    assert grids(assembly) == [[planes(series)]]
    assert warned(assembly) == {WarningKind.PARAMETER_VARIES}


def test_slices_whose_values_mean_the_opposite_are_not_in_one_volume() -> None:
    series = make.ct_series(5)
    series[4].PhotometricInterpretation = "MONOCHROME1"
    assert grids(assemble(series)) == [[planes(series[:4])], [planes(series[4:])]]


# Several stacks


@pytest.mark.parametrize("origin_z", [30.0, 30.3])
def test_thick_and_thin_slices_of_one_series_are_two_volumes(origin_z: float) -> None:
    shared = of_one_series()
    thin = make.ct_series(21, spacing=1.0, origin=(-50.0, -40.0, origin_z), **shared)
    thick = make.ct_series(5, spacing=5.0, pixels=make.pattern(5, 16, 12, seed=9), **shared)
    assert sorted(grids(assemble(thin + thick))) == sorted([[planes(thin)], [planes(thick)]])


def test_two_repetition_times_at_the_same_places_are_two_volumes_but_those_of_heart_beats_are_not() -> None:
    series = make.time_series(2, 4, RepetitionTime=["20", "100"])
    assert grids(assemble(series)) == [[time] for time in in_turn(series, 4)]
    series = make.time_series(3, 4, RepetitionTime=["850", "861", "842"])
    assert grids(assemble(series)) == [in_turn(series, 4)]


# Enhanced instances


def stacked(offset_mm: float) -> FileDataset:
    """Two stacks of four slices, the second one moved along the normal."""
    ds = make.enhanced_mr(4, 2)
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = group.FrameContentSequence[0]
        content.StackID, content.TemporalPositionIndex = str(index // 4 + 1), 1
        if index >= 4:
            position = group.PlanePositionSequence[0].ImagePositionPatient
            position[2] = float(position[2]) + offset_mm
    return ds


def test_stacks_with_a_gap_between_them_are_two_volumes() -> None:
    ds = stacked(47.3)
    assert grids(assemble([ds])) == [[time] for time in frames(ds, 2, 4)]


@pytest.mark.parametrize("offset_mm", [10.0, 1.25])
def test_packages_that_fit_together_evenly_are_one_volume(offset_mm: float) -> None:
    [volume] = assemble([stacked(offset_mm)]).volumes
    assert volume.shape == (12, 16, 8)
    assert volume.geometry is Geometry.REGULAR


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "AcquisitionDateTime"])
def test_instances_of_one_volume_each_follow_what_their_tops_say(keyword: str) -> None:
    first = make.enhanced_mr(4)
    series = []
    for number in (1, 2, 3):
        ds = deepcopy(first)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        make.set_pixels(ds, make.pattern(4, 16, 12, seed=number))
        setattr(ds, keyword, number if keyword == "AcquisitionNumber" else f"2024010210150{number}")
        series.append(ds)
    assert grids(assemble(series[::-1])) == [[frames(ds, 1, 4)[0] for ds in series]]


# Coils


def of_coils(*coils: str, slices: int = 4, **attributes: Any) -> list[list[FileDataset]]:
    """The images of each coil of one scan of Siemens, all of one moment."""
    shared = of_one_series(Manufacturer="SIEMENS", AcquisitionTime="101500", **attributes)
    parts = [
        make.mr_series(slices, pixels=make.pattern(slices, 16, 12, seed=number), **shared)
        for number, _ in enumerate(coils)
    ]
    numbered(*parts)
    for coil, part in zip(coils, parts, strict=True):
        for ds in part:
            ds.private_block(0x0051, "SIEMENS MR HEADER", create=True).add_new(0x0F, "LO", coil)
    return parts


def test_each_coil_of_an_uncombined_scan_is_a_volume_beside_the_combined_one() -> None:
    parts = of_coils("H10", "H2", "H1-12", "H3")
    assembly = assemble([ds for part in parts[::-1] for ds in part])
    assert grids(assembly) == [[planes(parts[index])] for index in (2, 1, 3, 0)]
    assert [volume.suffix for volume in assembly.volumes] == ["", "c1", "c2", "c3"]
    assert [volume.attributes["CoilString"] for volume in assembly.volumes] == ["H1-12", "H2", "H3", "H10"]
    assert {volume.time_step_s for volume in assembly.volumes} == {None}


@pytest.mark.parametrize("lost", [{1, 2, 4}, {0, 5, 10, 15}, {2, 9}], ids=["most", "one of each place", "two"])
def test_coils_that_lost_slices_are_not_mixed(lost: set[int]) -> None:
    parts = of_coils("H1", "H2", "H3", "H4")
    coil_of = {str(ds.SOPInstanceUID): number for number, part in enumerate(parts) for ds in part}
    left = [ds for number, ds in enumerate(ds for part in parts for ds in part) if number not in lost]
    assembly = assemble(left)
    for volume in assembly.volumes:
        assert len({coil_of[source.sop_instance_uid] for source in volume.sources}) == 1
    assert WarningKind.UNEQUAL_STACKS in warned(assembly) or WarningKind.MISSING_SLICE in warned(assembly)


@pytest.mark.parametrize("coils", [("HEA;HEP", "HEP;NE1"), ("BC", "HEA;HEP")])
def test_volumes_of_several_coils_each_are_separate_and_slices_are_one_volume(coils: tuple[str, str]) -> None:
    parts = of_coils(*coils)
    assert grids(assemble([ds for part in parts for ds in part])) == [[planes(part)] for part in parts]
    [first, second] = parts
    assert grids(assemble(first[:2] + second[2:])) == [[planes(first[:2] + second[2:])]]


def test_each_coil_of_frames_is_a_volume() -> None:
    ds = make.enhanced_mr(4, 2, Manufacturer="SIEMENS")
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0x4F, "LO", f"HC{index // 4 + 1}")
        group.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0xFE, "SQ", [item])
    assert grids(assemble([ds])) == [[time] for time in frames(ds, 2, 4)]


# Functional groups


def in_groups(first: dict[str, Dataset], second: dict[str, Dataset], **attributes: Any) -> FileDataset:
    """Return an enhanced instance of two times four frames, that only these functional groups tell apart."""
    ds = make.enhanced_mr(4, 2, **attributes)
    del ds.DimensionIndexSequence
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        [content] = group.FrameContentSequence
        del content.DimensionIndexValues, content.TemporalPositionIndex
        for keyword, item in (first if index < 4 else second).items():
            setattr(group, keyword, [item])
    return ds


@pytest.mark.parametrize(
    ("sequence", "keyword", "values"),
    [
        ("CTReconstructionSequence", "ConvolutionKernel", ("B30f", "B70f")),
        ("CTXRayDetailsSequence", "KVP", (80.0, 140.0)),
        ("MultienergyCTCharacteristicsSequence", "MonoenergeticEnergyEquivalent", (40.0, 100.0)),
    ],
)
@pytest.mark.parametrize("is_dimension", [False, True])
def test_frames_of_ct_of_several_kernels_and_energies_are_volumes(
    sequence: str, keyword: str, values: tuple[Any, Any], is_dimension: bool
) -> None:
    ds = in_groups(*({sequence: make.dataset(**{keyword: value})} for value in values))
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.2.1", "CT"
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence = one_item(RescaleSlope="1", RescaleIntercept="0")
    if is_dimension:
        ds.DimensionIndexSequence = [make.dimension(int(tag_for_keyword(keyword) or 0), 0)]
        for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            group.FrameContentSequence[0].DimensionIndexValues = [index // 4 + 1]
    assembly = assemble([ds])
    assert grids(assembly) == [[time] for time in frames(ds, 2, 4)]
    assert WarningKind.TIMES_ASSUMED not in warned(assembly)


def test_temporal_position_time_offset_orders_frames_and_is_their_step() -> None:
    later, earlier = (
        {"TemporalPositionSequence": make.dataset(TemporalPositionTimeOffset=offset_s)} for offset_s in (0.54, 0.5)
    )
    ds = in_groups(later, earlier, RepetitionTime="2000")
    assembly = assemble([ds])
    assert grids(assembly) == [frames(ds, 2, 4)[::-1]]
    assert assembly.volumes[0].times_s == pytest.approx((0.0, 0.04))
    assert assembly.volumes[0].time_step_s == pytest.approx(0.04)


# Enhanced instances made of classic ones


def legacy(**values: list[Any]) -> FileDataset:
    """A legacy converted instance of two volumes of four slices, told apart by what was left unassigned."""
    ds = make.enhanced_mr(4, 2)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4.4"
    ds.DimensionIndexSequence = [make.dimension(0x00200032, 0x00209113)]
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        content = group.FrameContentSequence[0]
        del content.TemporalPositionIndex, content.StackID, content.InStackPositionNumber
        content.DimensionIndexValues = [index % 4 + 1]
        own = {keyword: both[index // 4] for keyword, both in values.items()}
        group.UnassignedPerFrameConvertedAttributesSequence = one_item(**own)
    return ds


@pytest.mark.parametrize(
    ("keyword", "values", "suffixes"),
    [
        ("EchoTime", [5.0, 10.0], ["e1", "e2"]),
        ("InversionTime", ["100", "900"], ["ti1", "ti2"]),
        ("FlipAngle", ["5", "20"], ["1", "2"]),
        ("RepetitionTime", ["500", "3000"], ["1", "2"]),
        ("ConvolutionKernel", ["B30f", "B70f"], ["1", "2"]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]], ["", "ph"]),
    ],
)
def test_a_legacy_converted_instance_is_split_as_the_classic_ones_were(
    keyword: str, values: list[Any], suffixes: list[str]
) -> None:
    ds = legacy(**{keyword: values})
    assembly = assemble([ds])
    assert grids(assembly) == [[time] for time in frames(ds, 2, 4)]
    assert [volume.suffix for volume in assembly.volumes] == suffixes


def test_a_legacy_converted_instance_keeps_its_b_values() -> None:
    [volume] = assemble([legacy(DiffusionBValue=[0.0, 800.0])]).volumes
    assert [entry.b_value for entry in volume.diffusion] == [0.0, 800.0]


@pytest.mark.parametrize("keyword", ["TemporalPositionIdentifier", "TriggerTime", "AcquisitionTime"])
def test_a_legacy_converted_instance_is_in_the_order_of_its_times(keyword: str) -> None:
    ds = legacy(**{keyword: ["101502", "101501"] if keyword == "AcquisitionTime" else [2, 1]})
    assert grids(assemble([ds])) == [frames(ds, 2, 4)[::-1]]


@pytest.mark.parametrize(("missing", "total"), [(0, None), (1, None), (2, 3)])
def test_a_concatenation_that_lacks_a_part_is_reported(missing: int, total: int | None) -> None:
    whole = make.enhanced_mr(12)
    parts = []
    for number in range(3):
        part = deepcopy(whole)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        part.ConcatenationUID, part.InConcatenationNumber = "1.2.3", number + 1
        if total is not None:
            part.InConcatenationTotalNumber = total
        mine = slice(4 * number, 4 * number + 4)
        make.set_pixels(part, make.pattern(12, 16, 12)[mine])
        part.PerFrameFunctionalGroupsSequence = whole.PerFrameFunctionalGroupsSequence[mine]
        parts.append(part)
    [volume] = assemble(parts).volumes
    assert volume.warnings == ()
    assert WarningKind.INCOMPLETE_VOLUME in warned(assemble(parts[:missing] + parts[missing + 1 :]))


# Slices without a place


def test_slices_of_an_ultrasound_volume_are_slices_though_they_have_no_place_in_the_patient() -> None:
    ds = make.enhanced_mr(4, 2, order=[3, 1, 0, 2, 4, 5, 7, 6])
    ds.SOPClassUID, ds.Modality = EnhancedUSVolumeStorage, "US"
    del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    turned = one_item(ImageOrientationVolume=list(make.AXIAL))
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationVolumeSequence = turned
    for group in ds.PerFrameFunctionalGroupsSequence:
        position = [float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient]
        group.PlanePositionVolumeSequence = one_item(ImagePositionVolume=position)
        del group.PlanePositionSequence
    uid = str(ds.SOPInstanceUID)
    assembly = assemble([ds])
    assert grids(assembly) == [[[(uid, 3), (uid, 2), (uid, 4), (uid, 1)], [(uid, 5), (uid, 6), (uid, 8), (uid, 7)]]]
    assert assembly.volumes[0].geometry is Geometry.NONE


def test_a_tomosynthesis_without_positions_has_its_slices_in_the_order_of_its_stack() -> None:
    ds = make.enhanced_mr(4)
    ds.SOPClassUID, ds.Modality = BreastTomosynthesisImageStorage, "MG"
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    assembly = assemble([ds])
    assert grids(assembly) == [frames(ds, 1, 4)]
    assert assembly.volumes[0].geometry is Geometry.NONE


def multiframe(sop_class_uid: str, count: int, **attributes: Any) -> FileDataset:
    ds = make.instance(sop_class_uid=sop_class_uid, **attributes)
    make.set_pixels(ds, make.pattern(count, 16, 12))
    ds.NumberOfFrames = count
    return ds


def test_reconstructed_slices_of_a_gamma_camera_are_slices_without_a_place_too() -> None:
    ds = multiframe(
        NuclearMedicineImageStorage, 8, modality="NM", SliceVector=[1, 2, 3, 4] * 2, TimeSlotVector=[1] * 4 + [2] * 4
    )
    assembly = assemble([ds])
    assert grids(assembly) == [frames(ds, 2, 4)]
    assert WarningKind.NO_GEOMETRY in warned(assembly)


def test_a_secondary_capture_is_in_the_order_of_its_slice_locations() -> None:
    ds = multiframe(
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        3,
        modality="OT",
        FrameIncrementPointer=0x00182005,
        SliceLocationVector=["4", "2", "0"],
    )
    assert grids(assemble([ds])) == [[frames(ds, 1, 3)[0][::-1]]]


def test_frames_at_one_position_that_nothing_calls_times_or_slices_are_refused() -> None:
    ds = make.ct_series(1)[0]
    make.set_pixels(ds, make.pattern(5, 16, 12))
    ds.NumberOfFrames = 5
    [refusal] = assemble([ds]).refusals
    assert refusal.reason is Reason.UNPROVEN_LAYOUT
    ds.FrameTime = "40"
    assert grids(assemble([ds])) == [[[plane] for plane in frames(ds, 1, 5)[0]]]


def test_water_and_fat_that_only_the_vendors_image_type_tells_apart_are_no_times() -> None:
    ds = make.enhanced_mr(slices=3, times=2, Manufacturer="Philips Medical Systems")
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        kind = "W" if index < 3 else "F"
        group.MRImageFrameTypeSequence = [make.dataset(FrameType=["ORIGINAL", "PRIMARY", "T1", "NONE"])]
        kept = make.dataset(ImageType=["ORIGINAL", "PRIMARY", f"{kind}_FFE", kind, "FFE"])
        group.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [kept])
    assembly = assemble([ds])
    assert [volume.suffix for volume in assembly.volumes] == ["1", "2"]
    assert grids(assembly) == [[time] for time in frames(ds, 2, 3)]


def test_velocities_along_several_directions_are_no_times() -> None:
    ds = make.enhanced_mr(slices=3, times=6)
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        phase, direction = divmod(index // 3, 3)
        encoding = make.dataset(VelocityEncodingDirection=[float(axis == direction) for axis in range(3)])
        heart = make.dataset(NominalCardiacTriggerDelayTime=40.0 * phase)
        group.MRVelocityEncodingSequence, group.CardiacSynchronizationSequence = [encoding], [heart]
    times = frames(ds, 6, 3)
    assert grids(assemble([ds])) == [times[direction::3] for direction in range(3)]


def flow(manufacturer: str, directions: Sequence[dict[str, Any]], add: Callable[[FileDataset, Any], None]) -> Any:
    """Three slices of each direction at the same positions, as times, with what a vendor states of the direction."""
    series = make.time_series(len(directions), 3, Manufacturer=manufacturer, ImageType=r"ORIGINAL\PRIMARY\P\ND")
    for index, ds in enumerate(series):
        add(ds, directions[index // 3])
    return series


def philips_velocity(ds: FileDataset, velocity: Any) -> None:
    ds.private_block(0x2001, "Philips Imaging DD 002", create=True).add_new(0x1A, "FL", [9.0, 9.0, 9.0])
    ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x1A, "FL", velocity)


def ge_velocity(ds: FileDataset, axis: Any) -> None:
    block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
    block.add_new(0xCB, "SS", axis)
    block.add_new(0xCC, "SS", 1500)


@pytest.mark.parametrize(
    ("manufacturer", "directions", "add"),
    [
        ("Philips", [[150.0, 0.0, 0.0], [0.0, 150.0, 0.0], [0.0, 0.0, 150.0]], philips_velocity),
        ("GE MEDICAL SYSTEMS", [3, 4, 5], ge_velocity),
        (
            "SIEMENS",
            ["fl3d1_v150rl", "fl3d1_v150ap", "fl3d1_v150fh"],
            lambda ds, name: setattr(ds, "SequenceName", name),
        ),
        ("SIEMENS", ["fl3d1_v50in", "fl3d1_v150in"], lambda ds, name: setattr(ds, "SequenceName", name)),
    ],
    ids=["Philips", "GE", "Siemens, directions", "Siemens, steps"],
)
def test_velocities_that_only_the_vendor_tells_apart_are_no_times(manufacturer: str, directions: Any, add: Any) -> None:
    series = flow(manufacturer, directions, add)
    assembly = assemble(series)
    assert grids(assembly) == [[time] for time in in_turn(series, 3)]
    assert {volume.attributes["VelocityEncodingMaximumValue"] for volume in assembly.volumes} <= {50.0, 150.0}


def test_velocities_of_enhanced_frames_that_only_philips_tells_apart_are_no_times() -> None:
    ds = make.enhanced_mr(slices=3, times=2, Manufacturer="Philips Medical Systems")
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        kept = make.dataset(ImageType=["ORIGINAL", "PRIMARY", "P", "FFE"])
        philips_velocity(kept, [80.0, 0.0, 0.0] if index < 3 else [0.0, 80.0, 0.0])
        group.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [kept])
    assembly = assemble([ds])
    assert grids(assembly) == [[time] for time in frames(ds, 2, 3)]
    assert [volume.attributes["VelocityEncodingMaximumValue"] for volume in assembly.volumes] == [80.0, 80.0]


def test_a_volume_of_slices_with_several_velocity_encodings_says_so() -> None:
    series = make.mr_series(4, Manufacturer="Philips")
    for index, ds in enumerate(series):
        philips_velocity(ds, [150.0, 0.0, 0.0] if index < 2 else [0.0, 150.0, 0.0])
        ds.AcquisitionMatrix = [0, 64, 64 if index < 2 else 32, 0]
    [volume] = assemble(series).volumes
    details = [warning.detail for warning in volume.warnings if warning.name == WarningKind.PARAMETER_VARIES]
    names = ("Acquisition Matrix (0018,1310)", "velocity encoding")
    assert details == [f"{name} differs within the volume: 2 values; compare its images before use" for name in names]


def test_phases_that_repeat_for_each_direction_of_velocity_name_the_elements_that_would_tell() -> None:
    series = make.time_series(6, 3, Manufacturer="Philips", TriggerTime=["0", "0", "0", "400", "400", "400"])
    (detail,) = {
        warning.detail
        for volume in assemble(series).volumes
        for warning in volume.warnings
        if warning.name == WarningKind.TIMES_ASSUMED
    }
    assert "velocity encoding (0018,9090), of Philips (2001,xx1A)" in detail


# Slices without a place


def unplaced(locations_mm: Sequence[float], **attributes: Any) -> list[FileDataset]:
    """A CT that lost positions and orientations, and kept its Slice Locations."""
    series = make.ct_series(len(locations_mm), SliceLocation=[make.decimal(at) for at in locations_mm], **attributes)
    for ds in series:
        del ds.ImagePositionPatient, ds.ImageOrientationPatient
    return series


def test_slices_without_a_place_lie_as_far_apart_as_their_locations_say() -> None:
    [volume] = assemble(unplaced([9.0, 3.0, 6.0, 0.0], SliceThickness="5", SpacingBetweenSlices="4")).volumes
    assert volume.geometry is Geometry.NONE
    assert volume.spacing_mm[2] == pytest.approx(3.0)
    assert [warning.name for warning in volume.warnings] == [WarningKind.NO_GEOMETRY]


@pytest.mark.parametrize(
    ("locations_mm", "warning"),
    [
        ([0.0, 3.0, 6.0, 12.0, 15.0], WarningKind.MISSING_SLICE),
        ([0.0, 1.0, 3.0, 7.0, 8.3], WarningKind.IRREGULAR_SPACING),
    ],
)
def test_slices_without_a_place_that_lie_unevenly_are_reported(locations_mm: list[float], warning: WarningKind) -> None:
    [volume] = assemble(unplaced(locations_mm)).volumes
    assert [each.name for each in volume.warnings] == [WarningKind.NO_GEOMETRY, warning]


def test_a_slice_of_which_nothing_tells_a_thickness_has_an_assumed_one() -> None:
    [volume] = assemble(make.mr_series(1, SliceThickness=None)).volumes
    assert volume.spacing_mm[2] == pytest.approx(1.0)
    assert [warning.name for warning in volume.warnings] == [WarningKind.SPACING_ASSUMED]
    [known] = assemble(make.mr_series(1)).volumes
    assert known.warnings == ()


# One instance in several encodings


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_an_instance_that_came_again_in_another_transfer_syntax_is_a_copy(syntax: str) -> None:
    series = make.ct_series(4)
    again = deepcopy(series)
    for ds in again:
        ds.compress(syntax, generate_instance_uid=False)
    assembly = assemble([*series, *again, *deepcopy(again)])
    assert grids(assembly) == [[planes(series)]]
    assert assembly.exclusions == ()
    assert assembly.volumes[0].warnings == ()


@pytest.mark.parametrize("slices", [1, 4])
def test_lossy_versions_of_images_are_a_volume_beside_them_and_no_time(slices: int) -> None:
    together = of_one_series()
    series = make.mr_series(slices, **together)
    lossy = make.mr_series(slices, LossyImageCompression="01", pixels=make.pattern(slices, 16, 12, seed=1), **together)
    assembly = assemble(numbered(series, lossy))
    assert grids(assembly) == [[planes(series)], [planes(lossy)]]
    assert [[warning.name for warning in volume.warnings] for volume in assembly.volumes] == [[], [WarningKind.LOSSY]]


def test_an_instance_that_came_again_and_cannot_be_decoded_is_reported() -> None:
    series = make.ct_series(4)
    again = deepcopy(series[1])
    again.compress(RLELossless, generate_instance_uid=False)
    again.PixelData = encapsulate([b"\0" * 64])
    assembly = assemble([*series, again])
    assert grids(assembly) == [[planes(series)]]
    assert [exclusion.reason for exclusion in assembly.exclusions] == [Reason.UNDECODABLE]


# Images without pixels


def test_an_image_whose_pixels_were_taken_away_is_reported() -> None:
    series = make.ct_series(2)
    for ds in series:
        del ds.PixelData
    [refusal] = assemble(series).refusals
    assert refusal.reason is Reason.CUT
    assert refusal.detail == "CT Image Storage without Pixel Data (7FE0,0010)"


# Steps in time


@pytest.mark.parametrize("repetition_ms", ["45", None])
def test_phases_of_a_heart_beat_lie_as_far_apart_as_their_trigger_times(repetition_ms: str | None) -> None:
    phases = [make.decimal(30.5 * phase) for phase in range(5)]
    series = make.time_series(5, 3, RepetitionTime=repetition_ms, AcquisitionTime="101500", TriggerTime=phases)
    [volume] = assemble(series).volumes
    assert volume.times == 5
    assert volume.time_step_s == pytest.approx(0.0305)


@pytest.mark.parametrize("slices", [1, 3])
def test_cardiac_phases_of_several_encodings_of_flow_are_a_series_in_time_each(slices: int) -> None:
    together = of_one_series()
    encodings = [
        [
            ds
            for phase in range(4)
            for ds in make.mr_series(slices, SequenceName=name, TriggerTime=str(30 * phase), **together)
        ]
        for name in ("*fl2d1_v150rl", "*fl2d1_v150ap", "*fl2d1_v150fh")
    ]
    series = numbered(*encodings)
    for index, ds in enumerate(series):
        make.set_pixels(ds, make.pattern(1, 16, 12, seed=index)[0])
    assert grids(assemble(series)) == [in_turn(own, slices) for own in encodings]


def test_diffusion_weightings_that_only_sequence_names_tell_stay_one_series_in_time() -> None:
    names = ["*ep_b0", "*ep_b0", "*ep_b1000#1", "*ep_b1000#1"]
    series = make.time_series(4, 3, SequenceName=names, TriggerTime="0")
    assert grids(assemble(series)) == [in_turn(series, 3)]


def test_times_without_a_fixed_step_have_none() -> None:
    clock = [f"1015{start:06.3f}" for start in (0, 1.5, 3, 6, 12)]
    series = make.time_series(
        5, 3, sop_class_uid=CTImageStorage, modality="CT", AcquisitionTime=clock, RepetitionTime=None
    )
    [volume] = assemble(series).volumes
    assert volume.time_step_s is None
    assert volume.times_s == pytest.approx([0, 1.5, 3, 6, 12])


@pytest.mark.parametrize("day", [None, "20000101", "20240102", ["20240101", "", "20240102", "20240102"]])
def test_times_go_on_past_midnight(day: Any) -> None:
    """Anonymisers leave one day, or none."""
    clock = ["235956", "235958", "000000", "000002"]
    series = make.time_series(4, 3, AcquisitionDate=day, AcquisitionTime=clock)
    assembly = assemble(series)
    assert grids(assembly) == [in_turn(series, 3)]
    assert assembly.volumes[0].times_s == (0, 2, 4, 6)


def test_slices_are_timed_past_midnight() -> None:
    series = make.mr_series(4, AcquisitionTime=["235959.000", "235959.500", "000000.000", "000000.500"])
    [volume] = assemble(series).volumes
    assert volume.attributes["SliceTiming"] == pytest.approx([0, 0.5, 1, 1.5])
