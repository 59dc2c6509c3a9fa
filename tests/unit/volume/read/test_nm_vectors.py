"""Nuclear medicine by its vectors: views that are apart, times of one view, slices, and projections."""

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import NuclearMedicineImageStorage

from node.volume.assemble import assemble
from node.volume.model import Geometry, Volume
from node.volume.reasons import Reason, WarningKind
from tests import make

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
