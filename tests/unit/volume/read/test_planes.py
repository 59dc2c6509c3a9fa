"""Tomosynthesis, ophthalmic tomography and ultrasound volumes: a volume for each instance, or a reason."""

import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.uid import (
    BreastProjectionXRayImageStorageForPresentation,
    BreastTomosynthesisImageStorage,
    EnhancedUSVolumeStorage,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    OphthalmicTomographyImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from node.volume.assemble import assemble
from node.volume.model import Geometry, Volume
from node.volume.read.planes import IMPOSSIBLE_PLACE
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import one_item
from tests.volumes import only


def pair(sop_class_uid: str, modality: str, *, placed: bool) -> list[FileDataset]:
    """Two instances of one series with equal places and numbers, as of both sides of a body."""
    instances = []
    for seed in (1, 2):
        ds = make.enhanced_mr(
            4, pixels=make.pattern(4, make.ROWS, make.COLUMNS, seed=seed), study_uid="1.2", series_uid="1.2.3"
        )
        ds.SOPClassUID, ds.Modality, ds.FrameOfReferenceUID = sop_class_uid, modality, "1.2.4"
        ds.InstanceNumber = seed
        if not placed:
            for group in ds.PerFrameFunctionalGroupsSequence:
                del group.PlanePositionSequence
        instances.append(ds)
    return instances


@pytest.mark.parametrize(
    ("sop_class_uid", "modality", "placed"),
    [
        (BreastTomosynthesisImageStorage, "MG", True),
        (BreastTomosynthesisImageStorage, "MG", False),
        (OphthalmicTomographyImageStorage, "OPT", True),
        (OphthalmicTomographyImageStorage, "OPT", False),
        (EnhancedUSVolumeStorage, "US", False),
    ],
)
def test_volumes_of_both_sides_are_not_times_of_one(sop_class_uid: str, modality: str, placed: bool) -> None:
    instances = pair(sop_class_uid, modality, placed=placed)
    volumes = assemble(instances).volumes
    assert [{source.sop_instance_uid for source in volume.sources} for volume in volumes] == [
        {ds.SOPInstanceUID} for ds in instances
    ]
    for volume, ds in zip(volumes, instances, strict=True):
        stored = np.frombuffer(ds.PixelData, "<i2").reshape(4, make.ROWS, make.COLUMNS)
        assert np.array_equal(volume.voxels[0], stored)
        assert volume.geometry is (Geometry.REGULAR if placed else Geometry.NONE)


@pytest.mark.parametrize("grouped", [True, False])
def test_frames_of_an_eye_whose_place_nothing_states_are_refused(grouped: bool) -> None:
    ds, _ = pair(OphthalmicTomographyImageStorage, "OPT", placed=False)
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.FrameContentSequence[0].InStackPositionNumber
    if not grouped:
        del ds.PerFrameFunctionalGroupsSequence, ds.SharedFunctionalGroupsSequence
    [refusal] = assemble([ds]).refusals
    assert refusal.reason is Reason.UNPROVEN_LAYOUT
    assert "(0020,9057)" in refusal.detail


def test_projections_of_a_breast_are_refused_because_they_are_not_slices() -> None:
    ds, _ = pair(BreastProjectionXRayImageStorageForPresentation, "MG", placed=False)
    [refusal] = assemble([ds]).refusals
    assert refusal.reason is Reason.PROJECTIONS


def ultrasound(positions: list[list[float]], orientations: list[list[float]] | None = None) -> FileDataset:
    """An ultrasound volume whose planes lie in its own frame of reference."""
    ds = make.enhanced_mr(len(positions))
    ds.SOPClassUID, ds.Modality = EnhancedUSVolumeStorage, "US"
    del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        del group.PlanePositionSequence
        orientation = list(make.AXIAL) if orientations is None else orientations[index]
        group.PlanePositionVolumeSequence = one_item(ImagePositionVolume=positions[index])
        group.PlaneOrientationVolumeSequence = one_item(ImageOrientationVolume=orientation)
    return ds


def warnings_of(volume: Volume) -> set[WarningKind]:
    return {warning.name for warning in volume.warnings}


def test_the_planes_of_an_ultrasound_volume_give_their_distance() -> None:
    [volume] = assemble([ultrasound([[1, 2, 0.0], [1, 2, 0.8], [1, 2, 0.4]])]).volumes
    assert volume.spacing_mm == (make.PIXEL_SPACING_MM[1], make.PIXEL_SPACING_MM[0], 0.4)
    assert [source.frame_number for source in volume.sources] == [1, 3, 2]
    assert warnings_of(volume) == {WarningKind.NO_GEOMETRY}


def test_a_gap_between_the_planes_of_an_ultrasound_volume_is_a_warning() -> None:
    [volume] = assemble([ultrasound([[1, 2, z] for z in (0.0, 0.4, 0.8, 1.6, 2.0)])]).volumes
    assert WarningKind.MISSING_SLICE in warnings_of(volume)


@pytest.mark.parametrize(
    ("positions", "orientations", "cause"),
    [
        ([[0, 0, 0]] * 3, [[1, 0, 0, 0, 1, 0], [0.8, 0.6, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1]], "not parallel"),
        ([[0, 0, 0], [0, 1, 1], [0, 2, 2]], None, "shift"),
    ],
)
def test_planes_of_a_probe_that_turns_are_no_grid(
    positions: list[list[float]], orientations: list[list[float]] | None, cause: str
) -> None:
    [refusal] = assemble([ultrasound(positions, orientations)]).refusals
    assert refusal.reason is Reason.UNPROVEN_LAYOUT
    assert cause in refusal.detail


def test_tissue_and_flow_of_an_ultrasound_volume_are_two_volumes() -> None:
    ds = ultrasound([[0, 0, z] for z in (0, 1, 2, 0, 1, 2)])
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        group.ImageDataTypeSequence = one_item(DataType="TISSUE_INTENSITY" if index < 3 else "FLOW_VELOCITY")
    volumes = assemble([ds]).volumes
    assert [[source.frame_number for source in volume.sources] for volume in volumes] == [[1, 2, 3], [4, 5, 6]]


def test_single_frames_of_an_eye_without_a_place_are_pictures() -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    frames = [
        make.instance(sop_class_uid=OphthalmicTomographyImageStorage, modality="OPT", InstanceNumber=number, **uids)
        for number in (1, 2)
    ]
    for number, ds in enumerate(frames):
        make.set_pixels(ds, make.pattern(1, 8, 8, seed=number)[0])
    assert [volume.times for volume in assemble(frames).volumes] == [1, 1]


# Frames of one instance that only a stated distance calls slices, as of cone beam CT.


PIXELS = make.pattern(6, 8, 10)


def frames(**attributes):
    scaled = {"RescaleSlope": "1", "RescaleIntercept": "-1000", "PixelSpacing": ["0.4", "0.3"]}
    return make.set_pixels(make.instance(**(scaled | {"SpacingBetweenSlices": "0.3"} | attributes)), PIXELS)


def placed(**attributes):
    place = {"ImagePositionPatient": [-20, -30, 40], "ImageOrientationPatient": list(make.OBLIQUE)}
    return frames(**(place | attributes))


def names(volume):
    return {warning.name for warning in volume.warnings}


def test_frames_of_ct_and_x_ray_at_one_position_with_a_distance_between_slices_are_slices_along_the_normal():
    volume = only(placed())
    assert volume.shape == (10, 8, 6)
    assert np.array_equal(volume.voxels[0], PIXELS - 1000)
    assert volume.affine_lps[:3, 3] == pytest.approx((-20, -30, 40))
    assert volume.affine_lps[:3, 2] == pytest.approx(0.3 * np.cross(make.OBLIQUE[:3], make.OBLIQUE[3:]))
    assert names(volume) == {WarningKind.SLICES_ASSUMED}
    assert "along the normal of the image: look at them before use" in volume.warnings[0].detail
    assert only(placed(modality="XA")).shape == (10, 8, 6)


@pytest.mark.parametrize(("stated", "spacing"), [({}, 0.3), ({"SpacingBetweenSlices": None, "SliceThickness": "2"}, 2)])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_frames_of_a_section_without_a_position_are_slices(modality, stated, spacing):
    volume = only(frames(modality=modality, **stated))
    assert (volume.shape, volume.spacing_mm) == ((10, 8, 6), (0.3, 0.4, spacing))
    assert np.array_equal(volume.voxels[0], PIXELS - 1000)
    assert names(volume) == {WarningKind.SLICES_ASSUMED, WarningKind.NO_GEOMETRY}


@pytest.mark.parametrize(
    "ds",
    [
        frames(FrameTime="40"),
        frames(CineRate="25"),
        frames(modality="US"),
        frames(modality="PT", NumberOfTimeSlices=2),
        frames(modality="MR", NumberOfTemporalPositions=3),
    ],
)
def test_frames_with_times_and_frames_of_another_modality_stay_times(ds):
    volume = only(ds)
    assert volume.shape == (10, 8, 1, 6)
    assert WarningKind.SLICES_ASSUMED not in names(volume)


@pytest.mark.parametrize(
    "ds",
    [
        placed(SpacingBetweenSlices=None),
        placed(NumberOfTemporalPositions=3),
        placed(modality="MR"),
        placed(modality="XA", PositionerPrimaryAngleIncrement=["0", "1", "2", "3", "4", "5"]),
        placed(FrameIncrementPointer=0x00540100, TimeSliceVector=[1, 2, 3, 1, 2, 3]),
    ],
)
def test_frames_at_one_position_without_that_proof_stay_refused(ds):
    assert [refusal.reason for refusal in assemble([ds]).refusals] == [Reason.UNPROVEN_LAYOUT]


def test_two_such_instances_at_one_position_are_two_volumes():
    series = [placed(series_uid="1.2.3", InstanceNumber=number, RescaleIntercept=str(number)) for number in (1, 2)]
    assert [volume.shape for volume in assemble(series).volumes] == [(10, 8, 6)] * 2


def unplaced(modality="CT", **attributes):
    series = make.ct_series(4, modality=modality, InstanceNumber=[3, 1, 4, 2], **attributes)
    for ds in series:
        del ds.ImagePositionPatient
    return series


@pytest.mark.parametrize("attributes", [
    {}, {"AcquisitionTime": ["101500", "101501", "101502", "101503"]}, {"SpacingBetweenSlices": "5"},
    {"NumberOfTemporalPositions": 1, "TemporalPositionIdentifier": 1}, {"ImageOrientationPatient": None},
])  # fmt: skip
def test_instances_of_ct_without_a_place_are_slices_as_frames_without_one(attributes):
    volume = only(*unplaced(**attributes))
    assert volume.shape == (make.COLUMNS, make.ROWS, 4)
    pixels = make.pattern(4, make.ROWS, make.COLUMNS)
    assert np.array_equal(volume.voxels[0], pixels[[1, 3, 0, 2]] - 1024)
    assert volume.spacing_mm[2] == float(attributes.get("SpacingBetweenSlices", make.SPACING_MM))
    assert names(volume) == {WarningKind.SLICES_ASSUMED, WarningKind.NO_GEOMETRY}


@pytest.mark.parametrize("attributes", [
    {"TemporalPositionIdentifier": [1, 2, 3, 4]}, {"NumberOfTemporalPositions": 4}, {"modality": "MR"},
    {"TriggerTime": ["0", "10", "20", "30"]}, {"SliceLocation": "7"}, {"ImageType": r"ORIGINAL\PRIMARY\LOCALIZER"},
])  # fmt: skip
def test_instances_without_a_place_that_are_counted_otherwise_stay_times(attributes):
    sop_class = {"sop_class_uid": MRImageStorage} if "modality" in attributes else {}
    volume = only(*unplaced(**attributes, **sop_class))
    assert volume.shape == (make.COLUMNS, make.ROWS, 1, 4)


# Secondary captures whose position or orientation is impossible: pictures without a place.


FALSE = {
    "zero": [0, 0, 0, 0, 0, 0],
    "not unit vectors": [2, 0, 0, 0, 2, 0],
    "not at a right angle": [1, 0, 0, 1, 0, 0],
    "too few": [1, 0, 0],
}
PLACE = {"ImagePositionPatient": [-20, -30, 40], "PixelSpacing": ["0", "0"]}
GREY = make.pattern(1, 8, 10)[0]


def grey_capture(**attributes):
    return make.set_pixels(make.instance(sop_class_uid=SecondaryCaptureImageStorage, modality="OT", **attributes), GREY)


def falsely_placed(orientation, **attributes):
    return make.rgb_capture(ImageOrientationPatient=orientation, **(PLACE | attributes))


@pytest.mark.parametrize("orientation", FALSE.values(), ids=FALSE)
def test_a_colour_capture_with_an_impossible_orientation_is_a_picture_without_a_place(orientation):
    ds = falsely_placed(orientation)
    volume = only(ds)
    assert (volume.geometry, volume.affine_lps, volume.shape) == (Geometry.NONE, None, (10, 8, 1))
    assert np.array_equal(volume.voxels[0, 0], ds.pixel_array)
    (detail,) = [warning.detail for warning in volume.warnings if warning.name == WarningKind.NO_GEOMETRY]
    assert detail == IMPOSSIBLE_PLACE


def test_a_picture_of_luminance_and_chrominance_and_a_grey_one_have_no_place_either():
    colour = falsely_placed(FALSE["zero"])
    colour.PhotometricInterpretation = "YBR_FULL"
    grey = grey_capture(ImageOrientationPatient=FALSE["zero"], **PLACE)
    for ds in (colour, grey):
        assert only(ds).affine_lps is None
    assert np.array_equal(only(grey).voxels[0, 0], GREY)


def test_several_captures_of_one_series_are_as_those_without_a_position():
    with_place, without = [], []
    for number in range(1, 4):
        of_series = {"study_uid": "1.2", "series_uid": "1.2.3", "InstanceNumber": number}
        with_place.append(falsely_placed([0, 0, 0, number, 0, 0], **of_series))
        without.append(make.rgb_capture(**of_series))
    ours, theirs = only(*with_place), only(*without)
    assert (ours.shape, ours.affine_lps) == (theirs.shape, theirs.affine_lps) == ((10, 8, 1, 3), None)
    assert np.array_equal(ours.voxels, theirs.voxels)


def test_frames_with_an_impossible_orientation_in_functional_groups_have_no_place():
    ds = make.rgb_capture(frames=3)
    ds.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    shared = make.dataset(
        PlanePositionSequence=one_item(ImagePositionPatient=[0, 0, 0]),
        PlaneOrientationSequence=one_item(ImageOrientationPatient=FALSE["zero"]),
    )
    ds.SharedFunctionalGroupsSequence = [shared]
    volume = only(ds)
    assert (volume.shape, volume.affine_lps) == ((10, 8, 1, 3), None)


def test_an_impossible_orientation_of_other_images_and_an_impossible_spacing_of_placed_captures_are_refused():
    slices = make.ct_series(3)
    for ds in slices:
        ds.ImageOrientationPatient = FALSE["zero"]
    for series in (slices, [make.rgb_capture(ImageOrientationPatient=list(make.AXIAL), **PLACE)]):
        (refusal,) = assemble(series).refusals
        assert refusal.reason is Reason.BAD_GEOMETRY


def test_a_capture_with_an_impossible_orientation_among_slices_is_excluded():
    series = [grey_capture(ImagePositionPatient=[0, 0, z], ImageOrientationPatient=list(make.AXIAL)) for z in range(4)]
    for number, ds in enumerate(series):
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PixelSpacing, ds.InstanceNumber = "1.2", "1.2.3", [1, 1], number
    series[2].ImageOrientationPatient = FALSE["zero"]
    assembly = assemble(series)
    assert [(exclusion.sop_instance_uid, exclusion.reason) for exclusion in assembly.exclusions] == [
        (series[2].SOPInstanceUID, Reason.BAD_GEOMETRY)
    ]
