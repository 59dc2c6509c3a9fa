"""Nuclear medicine by its vectors: views that are apart, times of one view, slices, and projections."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import NuclearMedicineImageStorage

from node.volume.assemble import assemble
from node.volume.model import Geometry, Volume
from node.volume.read.vectors import phase_timing
from node.volume.reasons import Reason, WarningKind
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests import make
from tests.volumes import only

DETECTOR = {"ImagePositionPatient": [-20, -30, 40], "ImageOrientationPatient": list(make.AXIAL)}


def nuclear(kind: str, frames: int, **attributes: Any) -> FileDataset:
    ds = make.instance(
        sop_class_uid=NuclearMedicineImageStorage,
        modality="NM",
        PixelSpacing=["4", "4"],
        ImageType=["ORIGINAL", "PRIMARY", kind, "EMISSION"],
        **attributes,
    )
    make.set_pixels(ds, make.pattern(frames, 8, 8, np.uint16))
    ds.NumberOfFrames = frames
    return ds


def frames_of_each(volumes: tuple[Volume, ...]) -> list[list[int]]:
    """The numbers of the frames of each volume, by time, then by slice; their pixels are held against the instance."""
    return [[source.frame_number for source in volume.sources] for volume in volumes]


def checked(ds: FileDataset) -> tuple[Volume, ...]:
    """The volumes of an instance, after every plane of them was held against the frame that it names."""
    assembly = assemble([ds])
    assert not assembly.refusals
    assert not assembly.exclusions
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(-1, 8, 8)
    for volume in assembly.volumes:
        for source in volume.sources:
            plane = volume.voxels[source.time_index, source.slice_index]
            assert np.array_equal(plane, stored[source.frame_number - 1])
    assert sorted(number for own in frames_of_each(assembly.volumes) for number in own) == list(
        range(1, len(stored) + 1)
    )
    return assembly.volumes


def test_detectors_and_energy_windows_of_a_static_image_are_pictures_of_their_own() -> None:
    volumes = checked(nuclear("STATIC", 4, EnergyWindowVector=[1, 2, 1, 2], DetectorVector=[1, 1, 2, 2]))
    assert frames_of_each(volumes) == [[1], [2], [3], [4]]
    assert {(volume.geometry, volume.times) for volume in volumes} == {(Geometry.NONE, 1)}


def test_front_and_back_of_a_whole_body_scan_are_two_pictures() -> None:
    assert frames_of_each(checked(nuclear("WHOLE BODY", 2, EnergyWindowVector=[1, 1], DetectorVector=[1, 2]))) == [
        [1],
        [2],
    ]


def test_static_views_in_an_instance_each_are_pictures_of_their_own() -> None:
    uids = {"series_uid": "1.2.3", "study_uid": "1.2"}
    views = [nuclear("STATIC", 1, InstanceNumber=number, **uids) for number in (1, 2, 3)]
    assert [volume.times for volume in assemble(views).volumes] == [1, 1, 1]


def test_each_detector_of_a_dynamic_study_has_its_times() -> None:
    phases = [
        make.dataset(NumberOfFramesInPhase=2, ActualFrameDuration="1000", PhaseDelay="0", PauseBetweenFrames="0"),
        make.dataset(NumberOfFramesInPhase=1, ActualFrameDuration="30000", PhaseDelay="500", PauseBetweenFrames="0"),
    ]
    ds = nuclear(
        "DYNAMIC",
        6,
        EnergyWindowVector=[1] * 6,
        DetectorVector=[1, 2] * 3,
        PhaseVector=[1, 1, 1, 1, 2, 2],
        TimeSliceVector=[1, 1, 2, 2, 1, 1],
        PhaseInformationSequence=phases,
    )
    volumes = checked(ds)
    assert frames_of_each(volumes) == [[1, 3, 5], [2, 4, 6]]
    for volume in volumes:
        assert (volume.times_s, volume.durations_s) == ((0, 1, 2.5), (1, 1, 30))
        assert volume.time_step_s is None


def test_frames_that_are_not_stored_in_order_of_time_are_put_in_order() -> None:
    phase = make.dataset(NumberOfFramesInPhase=3, ActualFrameDuration="1000", PhaseDelay="0", PauseBetweenFrames="0")
    ds = nuclear(
        "DYNAMIC",
        3,
        DetectorVector=[1] * 3,
        PhaseVector=[1] * 3,
        TimeSliceVector=[3, 1, 2],
        PhaseInformationSequence=[phase],
    )
    [volume] = checked(ds)
    assert frames_of_each((volume,)) == [[2, 3, 1]]
    assert volume.time_step_s == 1


def gates(*lengths_ms: str) -> list[Dataset]:
    return [make.dataset(DataInformationSequence=[make.dataset(FrameTime=length) for length in lengths_ms])]


def test_the_slots_of_a_gated_study_are_steps_after_the_beat() -> None:
    ds = nuclear(
        "GATED", 8, RRIntervalVector=[1] * 8, TimeSlotVector=list(range(1, 9)), GatedInformationSequence=gates("50")
    )
    [volume] = checked(ds)
    assert (volume.times, volume.time_step_s, volume.durations_s) == (8, 0.05, None)


def test_each_interval_between_beats_has_slots_of_its_own_length() -> None:
    ds = nuclear(
        "GATED",
        6,
        RRIntervalVector=[1, 1, 1, 2, 2, 2],
        TimeSlotVector=[1, 2, 3] * 2,
        GatedInformationSequence=gates("50", "80"),
    )
    volumes = checked(ds)
    assert frames_of_each(volumes) == [[1, 2, 3], [4, 5, 6]]
    assert [volume.time_step_s for volume in volumes] == [0.05, 0.08]


@pytest.mark.parametrize("lengths", [(), ("0",), ("50", "80")])
def test_slots_whose_length_is_not_stated_have_no_step(lengths: tuple[str, ...]) -> None:
    ds = nuclear("GATED", 3, RRIntervalVector=[3] * 3, TimeSlotVector=[1, 2, 3])
    ds.GatedInformationSequence = gates(*lengths)
    [volume] = checked(ds)
    assert (volume.times, volume.time_step_s, volume.times_s) == (3, None, None)


def test_a_reconstructed_gated_study_is_placed_and_has_its_slots_as_times() -> None:
    ds = nuclear(
        "RECON GATED TOMO",
        8,
        EnergyWindowVector=[1] * 8,
        RRIntervalVector=[1] * 8,
        TimeSlotVector=[1, 2] * 4,
        SliceVector=[1, 1, 2, 2, 3, 3, 4, 4],
        SpacingBetweenSlices="3",
        DetectorInformationSequence=[make.dataset(**DETECTOR)],
        GatedInformationSequence=gates("100"),
    )
    [volume] = checked(ds)
    assert frames_of_each((volume,)) == [[1, 3, 5, 7, 2, 4, 6, 8]]
    assert volume.time_step_s == 0.1
    assert np.allclose(volume.affine_lps, [[4, 0, 0, -20], [0, 4, 0, -30], [0, 0, 3, 40], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("stated", "step_mm"),
    [({}, 1.0), ({"SliceThickness": "4.4"}, 4.4), ({"SliceThickness": "4.4", "SpacingBetweenSlices": "0"}, 4.4)],
)
def test_reconstructed_slices_without_a_distance_keep_their_place(stated: dict[str, Any], step_mm: float) -> None:
    ds = nuclear("RECON TOMO", 7, SliceVector=list(range(1, 8)), NumberOfSlices=7, **stated)
    ds.DetectorInformationSequence = [make.dataset(**DETECTOR)]
    [volume] = checked(ds)
    assert volume.affine_lps[:3, 3] == pytest.approx((-20, -30, 40))
    assert volume.spacing_mm == pytest.approx((4, 4, step_mm))
    assert [warning.name for warning in volume.warnings] == [WarningKind.SPACING_ASSUMED]


def test_energy_windows_of_reconstructed_slices_are_a_volume_each() -> None:
    ds = nuclear(
        "RECON TOMO",
        6,
        EnergyWindowVector=[1, 1, 1, 2, 2, 2],
        SliceVector=[1, 2, 3] * 2,
        SpacingBetweenSlices="3",
        DetectorInformationSequence=[make.dataset(**DETECTOR)],
    )
    volumes = checked(ds)
    assert frames_of_each(volumes) == [[1, 2, 3], [4, 5, 6]]
    assert [volume.times for volume in volumes] == [1, 1]


@pytest.mark.parametrize(
    "ds",
    [
        nuclear(
            "TOMO", 8, DetectorVector=[1] * 4 + [2] * 4, RotationVector=[1] * 8, AngularViewVector=[1, 2, 3, 4] * 2
        ),
        nuclear("GATED TOMO", 4, TimeSlotVector=[1, 2] * 2, AngularViewVector=[1, 1, 2, 2]),
        nuclear("TOMO", 8),
    ],
    ids=["angles", "gated", "only called so"],
)
def test_projections_are_refused_because_they_are_not_slices(ds: FileDataset) -> None:
    assembly = assemble([ds])
    assert not assembly.volumes
    [refusal] = assembly.refusals
    assert refusal.reason is Reason.PROJECTIONS
    assert refusal.sop_instance_uids == (ds.SOPInstanceUID,)


def test_frames_of_one_view_that_nothing_tells_apart_are_refused() -> None:
    ds = nuclear("STATIC", 3, EnergyWindowVector=[1] * 3, DetectorVector=[1] * 3)
    [refusal] = assemble([ds]).refusals
    assert refusal.reason is Reason.UNPROVEN_LAYOUT
    ds.FrameTime = "1000"
    [volume] = assemble([ds]).volumes
    assert volume.time_step_s == 1


@pytest.mark.parametrize("length", [1, 3, 5])
def test_a_vector_that_does_not_count_every_frame_tells_no_view(length: int) -> None:
    windows = [1, 2, 1, 2, 1][:length]
    volumes = checked(nuclear("STATIC", 4, EnergyWindowVector=windows, DetectorVector=[1, 2, 3, 4]))
    assert frames_of_each(volumes) == [[1], [2], [3], [4]]
    [refusal] = assemble([nuclear("STATIC", 4, EnergyWindowVector=windows, DetectorVector=[1, 1, 2, 2])]).refusals
    assert refusal.reason is Reason.UNPROVEN_LAYOUT


# When the frames of PET and nuclear medicine began, and how long they took, down to the sidecar.


def sidecar(volume: Volume, folder: Path) -> dict:
    write_volume(volume, folder, "volume", WriteOptions(formats=("nifti",), thumbnails=False))
    return json.loads((folder / "volume.json").read_text())


def phase(frames: int, duration_ms: int, delay_ms: int = 0, pause_ms: int = 0) -> Dataset:
    item = Dataset()
    item.NumberOfFramesInPhase, item.ActualFrameDuration = frames, str(duration_ms)
    item.PhaseDelay, item.PauseBetweenFrames = str(delay_ms), str(pause_ms)
    return item


def dynamic(phases: list[Dataset], phase_vector: list[int], time_slice_vector: list[int]) -> Dataset:
    pixels = make.pattern(len(phase_vector), 8, 8, np.uint16)
    ds = make.instance(sop_class_uid=NuclearMedicineImageStorage, modality="NM", PixelSpacing=["4", "4"])
    make.set_pixels(ds, pixels)
    ds.PhaseInformationSequence = phases
    ds.PhaseVector, ds.TimeSliceVector = phase_vector, time_slice_vector
    return ds


def dynamic_pet(starts: list[str], durations: list[int]) -> list[Dataset]:
    out: list[Dataset] = []
    for start, duration in zip(starts, durations, strict=True):
        uids = {"study_uid": out[0].StudyInstanceUID, "series_uid": out[0].SeriesInstanceUID} if out else {}
        out += make.image_series(
            3,
            modality="PT",
            pixels=make.pattern(3, 16, 12, seed=duration),
            AcquisitionTime=start,
            ActualFrameDuration=duration,
            **uids,
        )
        for ds in out[-3:]:
            ds.FrameOfReferenceUID = out[0].FrameOfReferenceUID
    return out


def test_phases_follow_each_other_with_their_delays_and_pauses() -> None:
    ds = dynamic([phase(2, 1000, delay_ms=500), phase(2, 5000, delay_ms=100, pause_ms=200)], [1, 1, 2, 2], [1, 2, 1, 2])
    assert phase_timing(ds, 4) == [(0.5, 1), (1.5, 1), (2.6, 5), (7.8, 5)]


@pytest.mark.parametrize(
    "damage",
    [
        {"PhaseVector": [1, 1, 3]},
        {"PhaseVector": [1, 1]},
        {"TimeSliceVector": None},
        {"PhaseInformationSequence": [phase(2, 0), phase(1, 5)]},
        {"PhaseInformationSequence": []},
    ],
)
def test_phases_that_do_not_fit_the_frames_tell_nothing(damage: dict) -> None:
    ds = dynamic([phase(2, 1000), phase(1, 5000)], [1, 1, 2], [1, 2, 1])
    assert phase_timing(ds, 3) is not None
    make.changed(ds, **damage)
    assert phase_timing(ds, 3) is None


def test_a_dynamic_scan_of_one_camera_tells_start_and_duration_of_each_frame(tmp_path: Path) -> None:
    (volume,) = assemble([dynamic([phase(2, 1000), phase(1, 5000)], [1, 1, 2], [1, 2, 1])]).volumes
    facts = sidecar(volume, tmp_path)
    assert (facts["FrameTimesStart"], facts["FrameDuration"]) == ([0, 1, 2], [1, 1, 5])


def test_a_dynamic_pet_tells_start_and_duration_of_each_volume(tmp_path: Path) -> None:
    (volume,) = assemble(dynamic_pet(["101500", "101530", "101630"], [30_000, 60_000, 120_000])).volumes
    assert volume.times == 3
    facts = sidecar(volume, tmp_path)
    assert (facts["FrameTimesStart"], facts["FrameDuration"]) == ([0, 30, 90], [30, 60, 120])


def test_starts_of_frames_that_would_overlap_are_not_reported(tmp_path: Path) -> None:
    (volume,) = assemble(dynamic_pet(["101500", "101503"], [30_000, 60_000])).volumes
    facts = sidecar(volume, tmp_path)
    assert "FrameTimesStart" not in facts
    assert facts["FrameDuration"] == [30, 60]


def test_a_static_pet_is_one_frame_from_the_start(tmp_path: Path) -> None:
    (volume,) = assemble(dynamic_pet(["101500"], [90_000])).volumes
    facts = sidecar(volume, tmp_path)
    assert (facts["FrameTimesStart"], facts["FrameDuration"]) == ([0], [90])


def test_a_duration_that_is_not_one_for_all_slices_is_not_reported(tmp_path: Path) -> None:
    datasets = dynamic_pet(["101500"], [90_000])
    datasets[1].ActualFrameDuration = 80_000
    (volume,) = assemble(datasets).volumes
    assert "FrameDuration" not in sidecar(volume, tmp_path)


def test_frames_of_an_enhanced_instance_tell_their_durations() -> None:
    ds = make.enhanced_mr(2, 2)
    for groups in ds.PerFrameFunctionalGroupsSequence:
        content = groups.FrameContentSequence[0]
        content.FrameAcquisitionDuration = 250.0 * content.TemporalPositionIndex
    (volume,) = assemble([ds]).volumes
    assert volume.durations_s == (0.25, 0.5)


# Runs of a positioner that turns: projections are times of a cine, never slices of a volume.


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
