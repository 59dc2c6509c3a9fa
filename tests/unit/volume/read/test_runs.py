"""Runs of a positioner that turns: projections are times of a cine, never slices of a volume."""

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset

from node.volume.model import Geometry
from tests import make
from tests.volumes import only

FRAMES = 8
XA, ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.1.1"


def run(frames: int = FRAMES, sop_class_uid: str = XA, modality: str = "XA", **attributes: Any) -> FileDataset:
    ds = make.instance(sop_class_uid=sop_class_uid, modality=modality)
    ds.Rows = ds.Columns = 4
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.NumberOfFrames = frames
    ds.PixelData = np.random.default_rng(1).integers(0, 4000, frames * 16).astype("<u2").tobytes()
    return make.changed(ds, **attributes)


def enhanced(angles: list[float], *, placed: bool) -> FileDataset:
    ds = run(sop_class_uid=ENHANCED_XA)
    groups = []
    for index, angle in enumerate(angles):
        positioner = make.dataset(PositionerPrimaryAngle=angle, PositionerSecondaryAngle=0)
        content = make.dataset(InStackPositionNumber=index + 1, DimensionIndexValues=[index + 1])
        group = make.dataset(PositionerPositionSequence=[positioner], FrameContentSequence=[content])
        if placed:
            plane, turned, measures = Dataset(), Dataset(), Dataset()
            plane.ImagePositionPatient, turned.ImageOrientationPatient = [0, 0, index], list(make.AXIAL)
            measures.PixelSpacing = [1, 1]
            group.PlanePositionSequence, group.PlaneOrientationSequence = [plane], [turned]
            group.PixelMeasuresSequence = [measures]
        groups.append(group)
    pointer = make.dataset(DimensionIndexPointer=0x00209057, FunctionalGroupPointer=0x00209111)
    ds.DimensionIndexSequence, ds.PerFrameFunctionalGroupsSequence = [pointer], groups
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    return ds


@pytest.mark.parametrize("placed", [False, True])
def test_frames_of_an_enhanced_run_are_times_whatever_place_they_state(placed: bool) -> None:
    ds = enhanced([-100.0 + 2 * index for index in range(FRAMES)], placed=placed)
    volume = only(ds)
    assert (volume.geometry, volume.shape[2:]) == (Geometry.NONE, (1, FRAMES))
    assert volume.voxels[:, 0].tobytes() == ds.PixelData
    assert only(enhanced([30.0] * FRAMES, placed=placed)).shape[2:] == (FRAMES,)


@pytest.mark.parametrize("modality", ["XA", "RF"])
def test_frames_with_a_place_in_a_vector_are_times_if_the_angle_grows(modality: str) -> None:
    vector = {"FrameIncrementPointer": 0x00182005, "SliceLocationVector": [float(index) for index in range(FRAMES)]}
    turning = {"PositionerPrimaryAngleIncrement": [2.0 * index for index in range(FRAMES)]}
    assert only(run(modality=modality, **vector, **turning)).shape[2:] == (1, FRAMES)
    for still in ({}, {"PositionerPrimaryAngleIncrement": [0.0] * FRAMES}):
        assert only(run(modality=modality, **vector, **still)).shape[2:] == (FRAMES,)


@pytest.mark.parametrize(("degrees", "shape"), [(2.0, (1, FRAMES)), (0.0, (FRAMES,))])
def test_instances_of_a_run_are_times_if_the_positioner_turns(degrees: float, shape: tuple[int, ...]) -> None:
    study = make.instance()
    series = []
    for index in range(FRAMES):
        ds = run(1, InstanceNumber=index + 1, PositionerPrimaryAngle=30 + degrees * index, PositionerSecondaryAngle=0.0)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study.StudyInstanceUID, study.SeriesInstanceUID
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, index], list(make.AXIAL)
        ds.PixelSpacing = [1, 1]
        series.append(ds)
    for number, ds in enumerate(series):
        ds.PixelData = np.full(16, number, "<u2").tobytes()
    assert only(*series).shape[2:] == shape
