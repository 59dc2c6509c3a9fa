"""Series of which each volume lies where the head was: prospective motion correction."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.uid import generate_uid

from node.volume.assemble import assemble
from node.volume.model import Geometry
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import Placed, grids, in_turn, numbered, of_one_series, planes, warned
from tests.unit.volume.vendors.test_siemens import DISTANCE, mosaic, normal, put_csa
from tests.volumes import rotation

MIDDLE = np.array([5.0, -10.0, 40.0])
"""What the head turns around."""


def motion(times: int, seed: int = 0) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """A turn and a shift in mm of each time; none of the first two."""
    random = np.random.default_rng(seed)
    still = [(np.eye(3), np.zeros(3))] * 2
    return still + [(rotation(random.normal(0, 0.01, 3)), random.normal(0, 0.6, 3)) for _ in range(times - 2)]


def moved(ds: Placed, turn: NDArray[Any], shift: NDArray[Any]) -> Placed:
    """Put an instance where the scanner would, once the head has moved."""
    orientation = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
    position = turn @ (np.array(ds.ImagePositionPatient, float) - MIDDLE) + MIDDLE + shift
    ds.ImageOrientationPatient = [make.decimal(value) for value in (orientation @ turn.T).ravel()]
    ds.ImagePositionPatient = [make.decimal(value) for value in position]
    return ds


def single_slices(times: int, slices: int, **options: Any) -> list[FileDataset]:
    """An uncorrected series in time, of which Acquisition Number tells the times."""
    numbers = list(range(1, times + 1))
    return make.time_series(times, slices, orientation=make.OBLIQUE, AcquisitionNumber=numbers, **options)


def corrected(times: int = 6, slices: int = 5, **options: Any) -> list[FileDataset]:
    series = single_slices(times, slices, **options)
    moves = motion(times)
    return [moved(ds, *moves[index // slices]) for index, ds in enumerate(series)]


@pytest.mark.parametrize("arrival", [1, -1])
def test_a_series_corrected_for_motion_is_one_volume_in_time_at_the_first_place(arrival: int) -> None:
    series = corrected()
    assembly = assemble(series[::arrival])
    assert grids(assembly) == [in_turn(series, 5)]
    [volume] = assembly.volumes
    assert volume.geometry is Geometry.REGULAR
    assert warned(assembly) == {WarningKind.POSITIONS_VARY_IN_TIME}
    np.testing.assert_allclose(volume.affine_lps[:3, 3], np.array(series[0].ImagePositionPatient, float), atol=1e-6)
    np.testing.assert_allclose(volume.affine_lps[:3, 0] / 0.5, np.array(make.OBLIQUE[:3]), atol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_the_warning_tells_how_far_the_centre_of_the_volume_moves(axis: int) -> None:
    """Of pixels that are no squares of a millimetre, in pictures that are no squares."""
    series = single_slices(3, 5)
    before = centre_mm(series[:5])
    for ds in series[10:]:
        moved(ds, rotation(0.05 * np.eye(3)[axis]), np.zeros(3))
    far_mm = float(np.linalg.norm(centre_mm(series[10:]) - before))
    assert far_mm > 1
    [volume] = assemble(series).volumes
    assert f"the volumes move by up to {far_mm:.2f} mm" in " ".join(warning.detail for warning in volume.warnings)


def centre_mm(time: list[FileDataset]) -> NDArray[Any]:
    """The centre of the voxels of a volume."""
    row, column = np.array(time[0].ImageOrientationPatient, float).reshape(2, 3)
    positions = np.array([ds.ImagePositionPatient for ds in time], float)
    between_rows, between_columns = map(float, time[0].PixelSpacing)
    half = row * between_columns * (time[0].Columns - 1) / 2 + column * between_rows * (time[0].Rows - 1) / 2
    centre: NDArray[Any] = positions.mean(axis=0) + half
    return centre


def test_times_that_weightings_order_lie_where_the_first_of_them_was_acquired() -> None:
    series, shift_mm = single_slices(3, 5), (0.0, 0.3, 0.7)
    directions = ((0.0, 0.6, 0.8), (1.0, 0.0, 0.0), None)
    normal = np.cross(make.OBLIQUE[:3], make.OBLIQUE[3:])
    for index, ds in enumerate(series):
        time = index // 5
        moved(ds, np.eye(3), normal * shift_mm[time])
        del ds.AcquisitionNumber, ds.AcquisitionTime
        ds.InstanceNumber = (7 * index) % 15 + 1
        ds.DiffusionBValue = 1000.0
        if (direction := directions[time]) is not None:
            ds.DiffusionGradientOrientation = list(direction)
    [volume] = assemble(series).volumes
    starts = [series[0], series[10], series[5]]
    assert [source.sop_instance_uid for source in volume.sources[::5]] == [ds.SOPInstanceUID for ds in starts]
    np.testing.assert_allclose(volume.affine_lps[:3, 3], np.array(series[0].ImagePositionPatient, float), atol=1e-6)
    [warning] = [each for each in volume.warnings if each.name is WarningKind.POSITIONS_VARY_IN_TIME]
    assert "move by up to 0.70 mm" in warning.detail


@pytest.mark.parametrize(
    "direction", [make.OBLIQUE[:3], make.OBLIQUE[3:], np.cross(make.OBLIQUE[:3], make.OBLIQUE[3:]), (0.0, 0.6, 0.8)]
)
def test_a_series_that_is_shifted_alone_is_one_volume_in_time(direction: make.Numbers) -> None:
    series = single_slices(5, 4)
    for index, ds in enumerate(series):
        moved(ds, np.eye(3), np.array(direction) * (0.0, 0.0, 0.31, 0.74, 1.13)[index // 4])
    assembly = assemble(series)
    assert grids(assembly) == [in_turn(series, 4)]
    assert warned(assembly) == {WarningKind.POSITIONS_VARY_IN_TIME}


def test_mosaics_corrected_for_motion_are_one_volume_in_time() -> None:
    series = []
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": "1.2.3"}
    for time, move in enumerate(motion(7), start=1):
        ds = moved(mosaic(5), *move)
        put_csa(ds, NumberOfImagesInMosaic=("5",), SliceNormalVector=normal(np.array(ds.ImageOrientationPatient)))
        ds.InstanceNumber = ds.AcquisitionNumber = time
        for keyword, uid in uids.items():
            setattr(ds, keyword, uid)
        series.append(ds)
    assembly = assemble(series)
    [volume] = assembly.volumes
    assert volume.shape == (4, 4, 5, 7)
    assert volume.spacing_mm[2] == pytest.approx(DISTANCE, abs=1e-3)
    assert [source.sop_instance_uid for source in volume.sources[::5]] == [ds.SOPInstanceUID for ds in series]
    assert warned(assembly) == {WarningKind.POSITIONS_VARY_IN_TIME}


@pytest.mark.parametrize("instances", [1, 5])
def test_enhanced_images_corrected_for_motion_are_one_volume_in_time(instances: int) -> None:
    slices, moves = 4, motion(5)
    whole = make.enhanced_mr(slices, len(moves), orientation=make.OBLIQUE)
    groups = list(whole.PerFrameFunctionalGroupsSequence)
    for index, group in enumerate(groups):
        turned = Dataset()
        turned.ImageOrientationPatient = list(make.OBLIQUE)
        turned.ImagePositionPatient = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlaneOrientationSequence = [moved(turned, *moves[index // slices])]
        group.PlanePositionSequence[0].ImagePositionPatient = turned.ImagePositionPatient
    series = [whole]
    if instances > 1:
        series = [deepcopy(whole) for _ in moves]
        for time, ds in enumerate(series):
            own = slice(time * slices, (time + 1) * slices)
            make.set_pixels(ds, whole.pixel_array[own])
            ds.PerFrameFunctionalGroupsSequence = groups[own]
            ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), time + 1
    [volume] = assemble(series).volumes
    assert volume.shape == (12, 16, slices, len(moves))
    np.testing.assert_array_equal(volume.voxels.reshape(whole.pixel_array.shape), whole.pixel_array)
    assert [warning.name for warning in volume.warnings] == [WarningKind.POSITIONS_VARY_IN_TIME]


def test_two_echoes_of_a_corrected_series_are_two_volumes_in_time() -> None:
    uids = of_one_series()
    first, second = corrected(**uids, EchoTime="12"), corrected(**uids, EchoTime="30", EchoNumbers=2)
    assert grids(assemble([*first, *second])) == [in_turn(first, 5), in_turn(second, 5)]


def test_a_corrected_series_that_was_interrupted_keeps_its_whole_times() -> None:
    series = corrected()
    assembly = assemble(series[:-3])
    assert grids(assembly) == [in_turn(series[:25], 5)]
    assert warned(assembly) == {WarningKind.POSITIONS_VARY_IN_TIME, WarningKind.INCOMPLETE_VOLUME}
    assert {exclusion.sop_instance_uid for exclusion in assembly.exclusions} == {
        ds.SOPInstanceUID for ds in series[25:27]
    }
    assert {exclusion.reason for exclusion in assembly.exclusions} == {Reason.INCOMPLETE}


def test_a_slice_lost_from_a_corrected_series_shifts_no_time() -> None:
    series = corrected()
    assert grids(assemble(series[:12] + series[13:])) == [
        [time for number, time in enumerate(in_turn(series, 5)) if number != 2]
    ]


def test_gradients_stay_along_the_axes_of_the_image_that_they_were_played_on() -> None:
    series = corrected(4)
    for index, ds in enumerate(series):
        row = np.array(ds.ImageOrientationPatient[:3], float)
        ds.DiffusionBValue = 0.0 if index < 5 else 1000.0
        if index >= 5:
            ds.DiffusionGradientOrientation = row.tolist()
    [volume] = assemble(series).volumes
    for weighting in volume.diffusion[1:]:
        np.testing.assert_allclose(weighting.direction_lps, np.array(make.OBLIQUE[:3]), atol=1e-6)


# What is no drift


def test_volumes_that_were_planned_at_several_places_stay_several() -> None:
    uids = of_one_series()
    discs = []
    for number in range(4):
        turn = rotation(np.array([0.06 * number, 0.0, 0.0]))
        own = make.mr_series(4, **uids, AcquisitionNumber=number + 1)
        discs += [moved(ds, turn, np.array([0.0, 0.0, 33.0 * number])) for ds in own]
    assembly = assemble(discs)
    assert [volume.shape for volume in assembly.volumes] == [(12, 16, 4)] * 4
    assert WarningKind.POSITIONS_VARY_IN_TIME not in warned(assembly)


@pytest.mark.parametrize(("moved_mm", "reported"), [((0, 0, 4.3), True), ((2, 0, 3.1), True), ((0, 0, 11.3), False)])
def test_volumes_that_overlap_at_other_places_say_that_they_may_be_times(
    moved_mm: tuple[float, float, float], reported: bool
) -> None:
    uids, first = of_one_series(), np.array((-50.0, -40.0, 10.0))
    places = [first, first + moved_mm]
    stacks = [make.ct_series(8, **uids, origin=place, AcquisitionNumber=n) for n, place in enumerate(places, start=1)]
    assembly = assemble(numbered(*stacks))
    assert [volume.shape[2] for volume in assembly.volumes] == [8, 8]
    for volume in assembly.volumes:
        details = [one.detail for one in volume.warnings if one.name is WarningKind.SEVERAL_POSITIONS]
        assert bool(details) == reported
        assert all(f"{np.linalg.norm(moved_mm):.2f} mm away" in detail for detail in details)


@pytest.mark.parametrize(("slices", "apart_mm"), [(4, 13.0), (8, 7.5)], ids=["beside each other", "on one grid"])
def test_slabs_are_no_times(slices: int, apart_mm: float) -> None:
    uids = of_one_series()
    slabs = [
        make.mr_series(slices, **uids, origin=(-50.0, -40.0, apart_mm * number), AcquisitionNumber=number + 1)
        for number in range(3)
    ]
    assembly = assemble(numbered(*slabs) if slices == 8 else [ds for slab in slabs for ds in slab])
    assert all(volume.times == 1 for volume in assembly.volumes)
    assert WarningKind.POSITIONS_VARY_IN_TIME not in warned(assembly)
    if slices == 8:
        assert grids(assembly) == [[planes(slab)] for slab in slabs]


@pytest.mark.parametrize("acquisitions", [2, 3])
def test_acquisitions_between_each_other_are_apart_though_one_lost_a_slice(acquisitions: int) -> None:
    uids = of_one_series()
    parts = [
        make.mr_series(8, **uids, spacing=4.0, origin=(-50.0, -40.0, height), AcquisitionNumber=number)
        for number, height in enumerate((30.0, 31.3, 52.1)[:acquisitions], start=1)
    ]
    numbered(*parts)
    del parts[1][3]
    assembly = assemble([ds for part in parts for ds in part])
    assert grids(assembly) == [[planes(part)] for part in parts]
    assert warned(assembly) == {WarningKind.MISSING_SLICE}


@pytest.mark.parametrize("rounded", [False, True])
def test_packages_of_slices_that_lie_between_each_other_are_one_volume(rounded: bool) -> None:
    series = make.mr_series(12, spacing=2.52)
    for index, ds in enumerate(series):
        ds.AcquisitionNumber = index % 3 + 1
        if rounded:
            ds.ImagePositionPatient = [make.decimal(round(float(value), 1)) for value in ds.ImagePositionPatient]
    assert grids(assemble(series)) == [[planes(series)]]


def test_planes_that_turn_around_an_axis_are_no_times() -> None:
    uids = of_one_series()
    pictures = [
        moved(picture, rotation(np.array([0, 0.1 * number, 0])), np.zeros(3))
        for number in range(6)
        for picture in make.mr_series(1, **uids, AcquisitionNumber=number + 1)
    ]
    assert [volume.times for volume in assemble(pictures).volumes] == [1] * 6
