"""Series in, volumes and refusals out."""

from copy import deepcopy
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import RTImageStorage, generate_uid

from node.errors import VoxelnodeError
from node.volume import assemble as module
from node.volume.arrange.times import Arrangement
from node.volume.assemble import assemble
from node.volume.model import Geometry, VolumeKind
from node.volume.reasons import Reason, WarningKind
from tests import make


def only(assembly, kind=VolumeKind.VOLUME):
    (volume,) = [volume for volume in assembly.volumes if volume.kind is kind]
    return volume


def names(volume):
    return [warning.name for warning in volume.warnings]


def encoded(series):
    return [make.as_file(ds) for ds in series]


def stored(series):
    """The series as it is read back from files."""
    return [dcmread(BytesIO(file)) for file in encoded(series)]


def test_a_series_is_one_volume_of_its_real_values():
    series = make.ct_series(5)
    assembly = assemble(stored(series[::-1]))
    volume = only(assembly)
    assert assembly.refusals == assembly.exclusions == ()
    assert volume.voxels.shape == (1, 5, 16, 12)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels[0], make.pattern(5, 16, 12) - 1024)
    assert (volume.slope, volume.intercept) == (1, 0)
    assert volume.geometry is Geometry.REGULAR
    assert volume.spacing_mm == pytest.approx((0.5, 0.75, 2.5))
    assert volume.affine_lps[:3, 3] == pytest.approx((-50, -40, 30))
    assert [source.sop_instance_uid for source in volume.sources] == [ds.SOPInstanceUID for ds in series]
    assert (volume.suffix, volume.stack, volume.modality, volume.warnings) == ("", 0, "CT", ())


@pytest.mark.slow
@settings(max_examples=25)
@given(
    order=st.permutations(range(6)),
    orientation=st.sampled_from([make.AXIAL, make.SAGITTAL, make.CORONAL, make.OBLIQUE]),
    spacing=st.floats(0.3, 9),
    degrees=st.floats(-30, 30),
    numbers=st.permutations(range(1, 7)),
    slope=st.sampled_from(["1", "2", "0.25"]),
)
def test_each_voxel_lies_where_its_plane_says_for_any_order_tilt_and_scaling(
    order, orientation, spacing, degrees, numbers, slope
):
    series = make.tilted_ct_series(
        6, degrees=degrees, spacing=spacing, orientation=orientation, InstanceNumber=list(numbers), RescaleSlope=slope
    )
    volume = only(assemble([series[index] for index in order]))
    for source in volume.sources:
        ds = next(ds for ds in series if ds.SOPInstanceUID == source.sop_instance_uid)
        plane = volume.voxels[source.time_index, source.slice_index] * volume.slope + volume.intercept
        assert np.array_equal(plane, ds.pixel_array * float(slope) - 1024)
        here = volume.affine_lps @ [7, 11, source.slice_index, 1]
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        truth = np.array(ds.ImagePositionPatient, float) + row * 7 * 0.5 + column * 11 * 0.75
        assert here[:3] == pytest.approx(truth, abs=1e-4)


def test_the_order_of_arrival_changes_nothing():
    series = make.localizer()
    one, other = assemble(series), assemble(series[::-1])
    for volume, same in zip(one.volumes, other.volumes, strict=True):
        assert volume.sources == same.sources
        assert volume.suffix == same.suffix
        assert np.array_equal(volume.voxels, same.voxels)


def test_an_instance_that_came_twice_is_one_slice():
    series = make.ct_series(4)
    assembly = assemble([*series, deepcopy(series[1])])
    assert only(assembly).voxels.shape[1] == 4
    assert assembly.exclusions == ()


def test_one_identity_with_two_pictures_is_reported():
    series = make.ct_series(4)
    other = deepcopy(series[1])
    make.set_pixels(other, np.zeros((16, 12), np.int16))
    assembly = assemble([*series, other])
    assert only(assembly).voxels.shape[1] == 4
    assert names(only(assembly)) == [WarningKind.SAME_POSITION_TWICE]
    assert [(entry.sop_instance_uid, entry.reason) for entry in assembly.exclusions] == [
        (other.SOPInstanceUID, Reason.SAME_POSITION_TWICE)
    ]


@pytest.mark.parametrize(
    ("lacking", "values"),
    [
        ("position, number or time", {"ImagePositionPatient": ["-50", "-40", "42.5"]}),
        ("position, number or time", {"InstanceNumber": "9"}),
        ("position, number or time", {"AcquisitionTime": "101112.5"}),
        ("position, number or time", {"TemporalPositionIdentifier": 2}),
        ("patient", {"PatientID": "another"}),
        ("spacing or scale", {"PixelSpacing": ["3", "3"]}),
        ("spacing or scale", {"RescaleIntercept": "-5"}),
        ("spacing or scale", {"RescaleSlope": "2"}),
        ("spacing or scale", {"PhotometricInterpretation": "MONOCHROME1"}),
    ],
    ids=lambda values: next(iter(values)),
)
def test_one_identity_with_two_meanings_of_equal_pixels_is_reported(lacking, values):
    series = make.ct_series(4, AcquisitionTime="101010", TemporalPositionIdentifier=1)
    other = deepcopy(series[1])
    make.changed(other, **values)
    assembly = assemble([*series, other])
    assert names(only(assembly)) == [WarningKind.SAME_POSITION_TWICE]
    (excluded,) = assembly.exclusions
    assert (excluded.sop_instance_uid, excluded.reason) == (other.SOPInstanceUID, Reason.SAME_POSITION_TWICE)
    assert excluded.detail.startswith(f"not the same {lacking} as another file with this SOP Instance UID")


def test_a_tilted_stack_has_an_upright_one_beside_it():
    assembly = assemble(make.tilted_ct_series(8, degrees=20))
    volume, upright = only(assembly), only(assembly, VolumeKind.RESAMPLED)
    assert volume.geometry is Geometry.SHEARED
    assert upright.geometry is Geometry.REGULAR
    assert WarningKind.GANTRY_TILT in names(volume)
    assert upright.stack == volume.stack
    axes = upright.affine_lps[:3, :3] / upright.spacing_mm
    assert axes.T @ axes == pytest.approx(np.eye(3), abs=1e-9)


def test_a_missing_slice_is_reported_and_its_gap_filled_only_in_the_resampled_volume():
    assembly = assemble(make.gap_series(8, missing=(4,)))
    volume, even = only(assembly), only(assembly, VolumeKind.RESAMPLED)
    assert (volume.voxels.shape[1], even.voxels.shape[1]) == (7, 8)
    assert names(volume) == [WarningKind.MISSING_SLICE]
    assert volume.spacing_mm[2] == pytest.approx(2.5)
    assert np.array_equal(even.voxels[0, 5], volume.voxels[0, 4])
    between = (volume.voxels[0, 3].astype(float) + volume.voxels[0, 4]) / 2
    assert np.abs(even.voxels[0, 4] - between).max() <= 0.5


def test_orientations_are_stacks_with_names_of_their_own():
    assembly = assemble(make.localizer())
    assert [volume.suffix for volume in assembly.volumes] == ["i1", "i2", "i3"]
    assert [volume.stack for volume in assembly.volumes] == [0, 1, 2]
    assert all(WarningKind.SEVERAL_ORIENTATIONS in names(volume) for volume in assembly.volumes)


def test_matrices_are_stacks_of_their_own():
    uid = generate_uid()
    assembly = assemble(make.ct_series(4, series_uid=uid) + make.ct_series(3, series_uid=uid, rows=8))
    assert sorted(volume.shape for volume in assembly.volumes) == [(12, 8, 3), (12, 16, 4)]
    assert all(WarningKind.SEVERAL_MATRICES in names(volume) for volume in assembly.volumes)
    assert len({volume.suffix for volume in assembly.volumes}) == 2


def test_sizes_of_a_series_are_reported_and_those_that_nothing_tells():
    uid = generate_uid()
    capture = make.rgb_capture(series_uid=uid)
    details = [
        warning.detail
        for volume in assemble([*make.ct_series(3, series_uid=uid), capture]).volumes
        for warning in volume.warnings
        if warning.name is WarningKind.SEVERAL_MATRICES
    ]
    assert details
    assert all(detail.endswith(": 10 x 8 of unknown size, 12 x 16 of 0.5 x 0.75 mm") for detail in details)


def test_echoes_are_stacks_even_where_echo_numbers_are_all_one():
    uid = generate_uid()
    reference = generate_uid()
    series = [
        ds
        for echo_time in ("4.92", "7.38")
        for ds in make.mr_series(4, series_uid=uid, EchoTime=echo_time, FrameOfReferenceUID=reference)
    ]
    assert [volume.suffix for volume in assemble(series).volumes] == ["e1", "e2"]


def test_components_are_stacks_with_their_own_scaling():
    uid = generate_uid()
    reference = generate_uid()
    phase = {"ImageType": r"ORIGINAL\PRIMARY\P\ND", "RescaleSlope": "1.5", "RescaleIntercept": "-4096"}
    series = make.mr_series(4, series_uid=uid, FrameOfReferenceUID=reference)
    series += make.mr_series(4, series_uid=uid, FrameOfReferenceUID=reference, **phase)
    magnitude, phases = assemble(series).volumes
    assert (magnitude.suffix, magnitude.slope, magnitude.intercept) == ("", 1, 0)
    assert (phases.suffix, phases.slope, phases.intercept) == ("ph", 1.5, -4096)


def test_times_carry_their_starts_and_the_repetition_time():
    volume = only(assemble(make.time_series(3, 4)))
    assert volume.shape == (12, 16, 4, 3)
    assert volume.times_s == (0, 2, 4)
    assert volume.time_step_s == pytest.approx(2.0)
    for time in range(3):
        assert np.array_equal(volume.voxels[time], make.pattern(4, 16, 12, seed=time + 1))


@pytest.mark.parametrize(("slope", "padding"), [("1", -3024), ("0.5", -2000)])
def test_padding_is_in_the_values_of_the_voxels(slope, padding):
    pixels = make.pattern(3, 16, 12)
    pixels[:, :2] = -2000
    volume = only(assemble(make.ct_series(3, pixels=pixels, RescaleSlope=slope, PixelPaddingValue=-2000)))
    assert volume.display.padding == (padding, padding)
    assert (volume.voxels == padding).sum() == 3 * 2 * 12


def test_a_volume_is_displayed_as_its_middle_slice():
    centres = [str(centre) for centre in range(10, 60, 10)]
    volume = only(assemble(make.ct_series(5, WindowCenter=centres, WindowWidth="100")))
    assert volume.display.windows == ((30, 100),)


def test_a_series_in_time_is_displayed_as_the_middle_slice_of_its_middle_time():
    series = make.time_series(3, 4)
    for number, ds in enumerate(series):
        ds.WindowCenter, ds.WindowWidth = str(number), "100"
    assert only(assemble(series)).display.windows == ((6, 100),)


def test_slopes_that_differ_are_applied_exactly():
    whole = only(assemble(make.ct_series(3, RescaleSlope=["1", "2", "3"])))
    assert whole.voxels.dtype.kind == "i"
    pattern = make.pattern(3, 16, 12).astype(int)
    assert np.array_equal(whole.voxels[0], pattern * np.array([1, 2, 3])[:, None, None] - 1024)
    assert (whole.slope, whole.intercept, names(whole)) == (1, 0, [WarningKind.SLOPE_VARIES])
    real = only(assemble(make.ct_series(3, RescaleSlope=["1", "0.37", "3"])))
    assert real.voxels.dtype == np.float32
    assert real.voxels[0, 1] == pytest.approx(pattern[1] * 0.37 - 1024, rel=1e-6)


def test_integers_that_leave_sixteen_bits_by_their_slopes_stay_exact():
    volume = only(assemble(make.ct_series(2, RescaleSlope=["1", "1000"])))
    assert volume.voxels.max() == int(make.pattern(2, 16, 12)[1].max()) * 1000 - 1024


@pytest.mark.parametrize("shuffled", [False, True])
def test_an_enhanced_instance_is_laid_out_by_its_functional_groups(shuffled):
    order = np.random.default_rng(3).permutation(12) if shuffled else None
    volume = only(assemble(stored([make.enhanced_mr(4, 3, order=order)])))
    assert volume.shape == (12, 16, 4, 3)
    assert np.array_equal(volume.voxels.reshape(12, 16, 12), make.pattern(12, 16, 12))
    assert volume.spacing_mm == pytest.approx((0.5, 0.75, 2.5))
    assert sorted(source.frame_number for source in volume.sources) == list(range(1, 13))


def test_an_enhanced_volume_in_each_instance_makes_one_series_in_time():
    uid, reference = generate_uid(), generate_uid()
    series = []
    for time in range(3):
        ds = make.enhanced_mr(4, 1, series_uid=uid, InstanceNumber=time + 1, pixels=make.pattern(4, 16, 12, seed=time))
        ds.FrameOfReferenceUID = reference
        series.append(ds)
    volume = only(assemble(series[::-1]))
    assert volume.shape == (12, 16, 4, 3)
    for time in range(3):
        assert np.array_equal(volume.voxels[time], make.pattern(4, 16, 12, seed=time))


def test_frames_of_a_clip_are_times_without_a_place():
    volume = only(assemble([make.rgb_capture(frames=6, FrameTime="40")]))
    assert volume.voxels.shape == (6, 1, 8, 10, 3)
    assert volume.affine_lps is None
    assert volume.geometry is Geometry.NONE
    assert volume.time_step_s == pytest.approx(0.04)
    assert names(volume) == [WarningKind.NO_GEOMETRY, WarningKind.SPACING_ASSUMED]


def test_planes_at_one_position_are_a_series_in_time_not_a_volume_without_thickness():
    volume = only(assemble(make.ct_series(4, positions=[(0, 0, 5)] * 4)))
    assert volume.shape == (12, 16, 1, 4)
    assert volume.geometry is Geometry.SINGLE


def test_a_report_in_an_image_series_is_left_out_and_reported():
    series = make.ct_series(3)
    report = make.structured_report()
    assembly = assemble([*series, report])
    assert names(only(assembly)) == [WarningKind.PARTLY_NOT_AN_IMAGE]
    assert [(entry.sop_instance_uid, entry.reason) for entry in assembly.exclusions] == [
        (report.SOPInstanceUID, Reason.NOT_AN_IMAGE)
    ]


def test_a_series_without_images_is_refused_by_the_name_of_its_kind():
    report = make.structured_report()
    assembly = assemble([report])
    assert assembly.volumes == assembly.exclusions == ()
    (refusal,) = assembly.refusals
    assert refusal.reason is Reason.NOT_AN_IMAGE
    assert "Comprehensive SR" in refusal.detail
    assert refusal.sop_instance_uids == (report.SOPInstanceUID,)


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("ImageOrientationPatient", ["0"] * 6, Reason.BAD_GEOMETRY),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], Reason.BAD_GEOMETRY),
        ("ImageOrientationPatient", ["1", "0", "0"], Reason.BAD_GEOMETRY),
        ("ImagePositionPatient", ["1e300", "0", "0"], Reason.BAD_GEOMETRY),
        ("PixelSpacing", ["0", "0.5"], Reason.BAD_GEOMETRY),
        ("PixelSpacing", ["-0.5", "0.5"], Reason.BAD_GEOMETRY),
        ("PixelSpacing", ["0.5"], Reason.BAD_GEOMETRY),
        ("Rows", 65535, Reason.CUT),
        ("NumberOfFrames", 9, Reason.CUT),
        ("PixelData", b"\0\0", Reason.CUT),
    ],
)
def test_what_cannot_be_true_is_refused_with_its_reason(keyword, value, reason):
    series = make.ct_series(3)
    for ds in series:
        setattr(ds, keyword, value)
    assembly = assemble(series)
    assert assembly.volumes == ()
    assert {refusal.reason for refusal in assembly.refusals} == {reason}
    assert assembly.unaccounted({ds.SOPInstanceUID for ds in series}) == set()


def test_a_number_that_is_none_in_the_file_is_refused():
    series = make.ct_series(2)
    for ds in series:
        ds.PixelSpacing = ["0.5", "0.5"]
    broken = [dcmread(BytesIO(file.replace(rb"0.5\0.5", rb"nan\nan"))) for file in encoded(series)]
    assert [refusal.reason for refusal in assemble(broken).refusals] == [Reason.BAD_GEOMETRY]


def test_a_slice_that_cannot_be_read_leaves_a_gap_that_is_reported():
    series = make.ct_series(6)
    series[2].PixelData = series[2].PixelData[:50]
    assembly = assemble(series)
    volume = only(assembly)
    assert volume.voxels.shape[1] == 5
    assert set(names(volume)) == {WarningKind.MISSING_SLICE, WarningKind.INCOMPLETE_VOLUME}
    assert [entry.sop_instance_uid for entry in assembly.exclusions] == [series[2].SOPInstanceUID]


def test_a_first_slice_that_cannot_be_read_is_reported_though_it_leaves_no_gap():
    series = make.ct_series(6)
    series[0].PixelData = series[0].PixelData[:50]
    assert names(only(assemble(series))) == [WarningKind.INCOMPLETE_VOLUME]


def test_a_slice_that_lost_its_pixels_is_missing_and_no_other_kind_of_object():
    series = make.ct_series(6)
    del series[0].PixelData
    assembly = assemble(series)
    assert names(only(assembly)) == [WarningKind.INCOMPLETE_VOLUME]
    assert [exclusion.reason for exclusion in assembly.exclusions] == [Reason.CUT]


@pytest.mark.parametrize("distance", ["1e-9", "1e300", "-0"])
def test_distances_that_no_slices_have_are_not_those_of_a_single_one(distance):
    volume = only(assemble(make.mr_series(1, SpacingBetweenSlices=distance, SliceThickness="4")))
    assert volume.spacing_mm[2] == 4
    volume = only(assemble(make.mr_series(1, SpacingBetweenSlices="-3", SliceThickness=distance)))
    assert volume.spacing_mm[2] == 3


def test_projections_of_a_treatment_beam_are_pictures_of_their_own():
    series_uid = generate_uid()
    images = [
        make.instance(sop_class_uid=RTImageStorage, modality="RTIMAGE", series_uid=series_uid, GantryAngle=angle)
        for angle in ("0", "90")
    ]
    for ds, plane in zip(images, make.pattern(2, 8, 8), strict=True):
        make.set_pixels(ds, plane)
    assert [volume.voxels.shape for volume in assemble(images).volumes] == [(1, 1, 8, 8)] * 2


def test_groups_that_do_not_count_the_frames_are_refused():
    ds = make.enhanced_mr(4, 1)
    ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:3]
    (refusal,) = assemble([ds]).refusals
    assert refusal.reason is Reason.CONTRADICTORY
    assert "(5200,9230)" in refusal.detail


def test_a_frame_that_got_lost_on_the_way_is_a_fault_of_the_program(monkeypatch):
    def forgetful(frames):
        return [Arrangement([list(frames)[1:]])]

    monkeypatch.setattr(module, "arrange", forgetful)
    with pytest.raises(VoxelnodeError, match=r"instances are in no volume"):
        assemble(make.ct_series(3))


SERIES = [encoded(series) for series in (make.ct_series(3), make.time_series(2, 2), [make.enhanced_mr(2, 2)])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what pydicom says of damaged values
@settings(max_examples=120)
@given(
    files=st.sampled_from(SERIES),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=9
    ),
)
def test_damaged_headers_never_raise_and_no_instance_gets_lost(files, damage):
    datasets = []
    for number, file in enumerate(files):
        data = bytearray(file)
        for place, value in damage[number % len(damage) :]:
            at = 132 + int(place * (len(data) - 132))
            data[at : at + len(value)] = value
        try:
            ds = dcmread(BytesIO(bytes(data)))
            uid = str(ds.SOPInstanceUID)
        except Exception:  # what cannot be read at all never comes this far
            continue
        if uid.encode() in file:  # neither does an instance with a damaged identity
            datasets.append((uid, ds))
    assert assemble([ds for _, ds in datasets]).unaccounted({uid for uid, _ in datasets}) == set()
