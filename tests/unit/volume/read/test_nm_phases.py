"""When the frames of PET and nuclear medicine began, and how long they took, down to the sidecar."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import NuclearMedicineImageStorage

from node.volume.assemble import assemble
from node.volume.model import Volume
from node.volume.read.vectors import phase_timing
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests import make


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
