"""Tomosynthesis, ophthalmic tomography and ultrasound volumes: a volume for each instance, or a reason."""

import numpy as np
import pytest
from pydicom import FileDataset
from pydicom.uid import (
    BreastProjectionXRayImageStorageForPresentation,
    BreastTomosynthesisImageStorage,
    EnhancedUSVolumeStorage,
    OphthalmicTomographyImageStorage,
    generate_uid,
)

from node.volume.assemble import assemble
from node.volume.model import Geometry, Volume
from node.volume.reasons import Reason, WarningKind
from tests import make
from tests.unit.volume.grids import one_item


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
