"""Secondary captures whose position or orientation is impossible: pictures without a place."""

import numpy as np
import pytest
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage, SecondaryCaptureImageStorage

from node.volume.assemble import assemble
from node.volume.model import Geometry
from node.volume.read.planes import IMPOSSIBLE_PLACE
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import one_item
from tests.volumes import only

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
