"""Frames of one instance that only a stated distance calls slices, as of cone beam CT."""

import numpy as np
import pytest
from pydicom.uid import MRImageStorage

from node.volume.assemble import assemble
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.volumes import only

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
