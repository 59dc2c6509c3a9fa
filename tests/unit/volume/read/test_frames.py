"""Frames of every kind of instance."""

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import NuclearMedicineImageStorage, UltrasoundImageStorage

from node.errors import ConversionRefused
from node.volume.assemble import assemble
from node.volume.model import Tiling
from node.volume.read import frames as module
from node.volume.read.frames import frames_of
from node.volume.reasons import Reason, WarningKind
from tests import make


def test_a_classic_instance_is_one_frame_with_its_place_and_scaling():
    (ds,) = make.ct_series(1, AcquisitionTime="101530.5", AcquisitionNumber=3)
    (frame,) = frames_of(ds)
    assert np.array_equal(frame.read(), ds.pixel_array)
    assert frame.position.tolist() == [-50, -40, 30]
    assert frame.orientation.tolist() == list(make.AXIAL)
    assert frame.pixel_spacing == (0.75, 0.5)
    assert (frame.slope, frame.intercept) == (1, -1024)
    assert frame.acquisition_time_s == 36930.5
    assert frame.time_key["acquisition_number"] == 3
    assert frame.time_key["instance"] == (1, 1)
    assert frame.split_key["derived"] is False


@pytest.mark.parametrize(("slope", "expected"), [(None, 1.0), ("", 1.0), ("0", 1.0), ("-2.5", -2.5)])
def test_a_slope_that_says_nothing_is_one(slope, expected):
    (ds,) = make.ct_series(1, RescaleSlope=slope)
    assert frames_of(ds)[0].slope == expected


def test_functional_groups_of_the_frame_come_before_the_shared_ones():
    ds = make.enhanced_mr(2, 1)
    ds.PerFrameFunctionalGroupsSequence[1].PixelMeasuresSequence = [make.dataset(PixelSpacing=["3", "4"])]
    scaling = make.dataset(RescaleSlope="2", RescaleIntercept="-1")
    ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [scaling]
    first, second = frames_of(ds)
    assert (first.pixel_spacing, second.pixel_spacing) == ((0.75, 0.5), (3, 4))
    assert (first.slope, first.intercept) == (second.slope, second.intercept) == (2, -1)
    assert (first.frame_number, second.frame_number) == (1, 2)


def test_dimensions_that_say_the_place_do_not_order_times():
    ds = make.enhanced_mr(2, 2)
    assert [frame.time_key["dimensions"] for frame in frames_of(ds)] == [(1,), (1,), (2,), (2,)]


def test_components_and_echoes_of_frames_come_from_their_groups():
    ds = make.enhanced_mr(2, 1)
    for group, component, echo_time in zip(
        ds.PerFrameFunctionalGroupsSequence, ("MAGNITUDE", "PHASE"), (4.9, 7.4), strict=True
    ):
        kind = make.dataset(FrameType=["DERIVED", "PRIMARY", "VOLUME", "NONE"], ComplexImageComponent=component)
        echo = make.dataset(EffectiveEchoTime=echo_time)
        group.MRImageFrameTypeSequence, group.MREchoSequence = [kind], [echo]
    keys = [frame.split_key for frame in frames_of(ds)]
    assert [key["component"] for key in keys] == ["magnitude", "phase"]
    assert [key["echo_time"] for key in keys] == [4.9, 7.4]
    assert all(key["derived"] for key in keys)


def mosaic(monkeypatch, **tiling):
    (ds,) = make.mr_series(1, rows=8, columns=12, pixels=np.arange(96, dtype=np.int16).reshape(1, 8, 12))
    monkeypatch.setattr(module.vendors, "tiling", lambda ds: Tiling(5, 4, 4, 3, **tiling))
    return ds, frames_of(ds)


def test_tiles_of_a_mosaic_are_planes_of_their_own(monkeypatch):
    positions = make.stack_positions(5, 4, (1, 2, 3), make.AXIAL)
    ds, frames = mosaic(
        monkeypatch, positions=positions, orientation=np.array(make.AXIAL), slice_times_s=(0.0, 0.1, 0.2, 0.3, 0.4)
    )
    pixels = ds.pixel_array
    assert np.array_equal(frames[0].read(), pixels[:4, :4])
    assert np.array_equal(frames[4].read(), pixels[4:, 4:8])
    assert [frame.frame_number for frame in frames] == [1] * 5
    assert np.array_equal([frame.position for frame in frames], positions)
    assert frames[3].acquisition_time_s == pytest.approx(0.3)
    assert (frames[0].rows, frames[0].columns) == (4, 4)
    _, frames = mosaic(monkeypatch)
    assert all(frame.position is None and frame.orientation is None for frame in frames)


def test_a_mosaic_is_decoded_once_for_all_its_tiles(monkeypatch):
    calls = []

    def counted(ds):
        reader = original(ds)

        class Counting:
            def __getattr__(self, name):
                return getattr(reader, name)

            def __call__(self, index):
                calls.append(index)
                return reader(index)

        return Counting()

    original = module.frame_reader
    monkeypatch.setattr(module, "frame_reader", counted)
    _, frames = mosaic(monkeypatch)
    for frame in frames:
        frame.read()
    assert calls == [0]


def test_slices_of_reconstructed_nuclear_medicine_lie_along_the_normal_by_their_vector():
    pixels = make.pattern(6, 8, 8)
    ds = make.instance(sop_class_uid=NuclearMedicineImageStorage, modality="NM", PixelSpacing=["4", "4"])
    make.set_pixels(ds, pixels)
    ds.DetectorInformationSequence = [
        make.dataset(ImagePositionPatient=["10", "20", "30"], ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])
    ]
    ds.SpacingBetweenSlices = "-3"
    ds.SliceVector = [1, 2, 3, 1, 2, 3]
    ds.TimeSlotVector = [1, 1, 1, 2, 2, 2]
    frames = frames_of(ds)
    assert [frame.position[2] for frame in frames] == [30, 27, 24, 30, 27, 24]
    assert [frame.time_key["dimensions"] for frame in frames] == [(1,)] * 3 + [(2,)] * 3


def reconstructed(spacing, **attributes):
    named = {"PixelSpacing": ["4", "4"], "SpacingBetweenSlices": spacing, "SliceVector": [1, 2, 3], **attributes}
    ds = make.instance(sop_class_uid=NuclearMedicineImageStorage, modality="NM", **named)
    return make.set_pixels(ds, make.pattern(3, 8, 8))


def test_reconstructed_nuclear_medicine_may_tell_its_place_at_the_top_of_the_data_set():
    place = {"ImagePositionPatient": ["10", "20", "30"], "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}
    ds = reconstructed("-3", **place)
    assert [frame.position[2] for frame in frames_of(ds)] == [30, 27, 24]


@pytest.mark.parametrize("spacing", ["0", "-1e-9", "1e300"])
def test_reconstructed_slices_of_impossible_distance_keep_their_place_and_say_what_is_assumed(spacing):
    ds = reconstructed(spacing)
    detector = Dataset()
    detector.ImagePositionPatient = ["10", "20", "30"]
    detector.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.DetectorInformationSequence = [detector]
    frames = frames_of(ds)
    assert [tuple(frame.position) for frame in frames] == [(10, 20, 30), (10, 20, 31), (10, 20, 32)]
    assert {note.name for frame in frames for note in frame.notes} == {WarningKind.SPACING_ASSUMED}


def test_frames_of_a_cine_start_by_the_frame_time_or_its_vector():
    ds = make.rgb_capture(frames=3, FrameTime="40")
    assert [frame.time_key["frame_time"] for frame in frames_of(ds)] == pytest.approx([0, 0.04, 0.08])
    rated = make.rgb_capture(frames=3, CineRate="25")
    assert [frame.time_key["frame_time"] for frame in frames_of(rated)] == pytest.approx([0, 0.04, 0.08])
    ds.FrameTimeVector = ["0", "30", "50"]
    assert [frame.time_key["frame_time"] for frame in frames_of(ds)] == pytest.approx([0, 0.03, 0.08])


def test_an_ultrasound_region_in_centimetres_gives_the_pixel_spacing():
    ds = make.instance(sop_class_uid=UltrasoundImageStorage, modality="US")
    make.set_pixels(ds, make.pattern(1, 8, 8)[0])
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, -0.03
    ds.SequenceOfUltrasoundRegions = [region]
    (frame,) = frames_of(ds)
    assert frame.pixel_spacing == pytest.approx((0.3, 0.2))


CENTIMETRES, SECONDS, CENTIMETRES_A_SECOND = 3, 4, 7


def ultrasound_region(across, down, units=(CENTIMETRES, CENTIMETRES)):
    region = Dataset()
    region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = units
    region.PhysicalDeltaX, region.PhysicalDeltaY = across, down
    return region


@pytest.mark.parametrize(
    ("regions", "spacing"),
    [
        ([(0.01, 0.2, (SECONDS, CENTIMETRES_A_SECOND)), (0.02, 0.03)], (0.3, 0.2)),  # a spectrum above the image
        ([(0.02, 0.03), (0.01, 0.03, (SECONDS, CENTIMETRES))], (0.3, 0.2)),
        ([(0.02, 0.03), (0.0200001, 0.03)], (0.3, 0.2)),
        ([(0.02, 0.03), (0.05, 0.05)], None),  # side by side, of two magnifications
        ([(0.0, 0.03)], None),
    ],
)
def test_images_in_an_ultrasound_picture_give_its_spacing_where_they_have_one(regions, spacing):
    ds = make.instance(sop_class_uid=UltrasoundImageStorage, modality="US")
    make.set_pixels(ds, make.pattern(1, 8, 8)[0])
    ds.SequenceOfUltrasoundRegions = [ultrasound_region(*region) for region in regions]
    (frame,) = frames_of(ds)
    assert frame.pixel_spacing == (spacing if spacing is None else pytest.approx(spacing))


def test_a_projection_takes_the_spacing_at_the_detector():
    ds = make.instance(modality="DX", ImagerPixelSpacing=["0.15", "0.14"])
    make.set_pixels(ds, make.pattern(1, 8, 8)[0])
    (frame,) = frames_of(ds)
    assert frame.pixel_spacing == (0.15, 0.14)
    assert frame.split_key["instance"] == ds.SOPInstanceUID


def test_an_impossible_spacing_without_a_place_is_passed_over_and_with_one_refused():
    ds = make.instance(modality="CR", PixelSpacing=["0", "0"])
    make.set_pixels(ds, make.pattern(1, 8, 8)[0])
    assert frames_of(ds)[0].pixel_spacing is None
    (ds,) = make.ct_series(1, PixelSpacing=r"0\0")
    with pytest.raises(ConversionRefused) as refused:
        frames_of(ds)
    assert refused.value.reason == Reason.BAD_GEOMETRY


def test_a_position_without_an_orientation_is_no_place():
    (ds,) = make.ct_series(1, ImageOrientationPatient=None)
    assert frames_of(ds)[0].position is None


def test_colours_are_not_rescaled() -> None:
    ds = make.rgb_capture(RescaleSlope="1", RescaleIntercept="-1024")
    [volume] = assemble([ds]).volumes
    assert (volume.slope, volume.intercept) == (1.0, 0.0)
    np.testing.assert_array_equal(volume.voxels[0, 0], ds.pixel_array)
