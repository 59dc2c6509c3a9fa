"""Series in which a parameter of the sequence changes: from volume to volume for a map, or from slice to slice."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.model import VolumeKind
from node.volume.reasons import WarningKind
from tests import make
from tests.unit.volume.grids import grids, in_turn, of_one_series, planes, warned


def of_volumes(slices: int, keyword: str, values: Sequence[Any], **options: Any) -> list[list[FileDataset]]:
    """One volume for each value of an attribute, numbered and acquired one after the other."""
    uids = of_one_series()
    volumes = []
    for index, value in enumerate(values):
        own = {"AcquisitionNumber": index + 1, "AcquisitionTime": f"10150{index}.0", keyword: value}
        pixels = make.pattern(slices, 16, 12, seed=index)
        volumes.append(make.mr_series(slices, **(uids | options | own), pixels=pixels))
        for number, ds in enumerate(volumes[-1]):
            ds.InstanceNumber = index * slices + number + 1
    return volumes


# Inversion times


def inversion_recovery(slices: int, of: Callable[[int, int], float], count: int) -> list[list[FileDataset]]:
    """Slices one after the other, each at `count` inversion times after a trigger of its own."""
    uids = of_one_series()
    return [
        [
            make.mr_series(
                1,
                **uids,
                origin=(-50.0, -40.0, 30.0 + 10 * slice_),
                spacing=8.0,
                InversionTime=make.decimal(of(slice_, turn)),
                InstanceNumber=slice_ * count + turn + 1,
                AcquisitionTime=f"10{slice_:02d}{turn:02d}.0",
                pixels=make.pattern(1, 16, 12, seed=slice_ * count + turn),
            )[0]
            for turn in range(count)
        ]
        for slice_ in range(slices)
    ]


def test_each_inversion_time_of_one_slice_is_a_volume() -> None:
    [slice_] = inversion_recovery(1, lambda _, turn: (120, 200, 1043, 1130, 1960)[turn], 5)
    assembly = assemble(slice_)
    assert [volume.suffix for volume in assembly.volumes] == ["ti1", "ti2", "ti3", "ti4", "ti5"]
    assert [volume.attributes["InversionTime"] for volume in assembly.volumes] == [0.12, 0.2, 1.043, 1.13, 1.96]


@pytest.mark.parametrize("beat_ms", [(900, 900, 900), (905, 911, 893), (920, 1000, 870)])
def test_inversion_times_that_follow_the_heart_of_each_slice_are_a_volume_a_turn(beat_ms: tuple[int, int, int]) -> None:
    def time_ms(slice_: int, turn: int) -> float:
        return 120 + 80 * (turn % 2) + turn // 2 * beat_ms[slice_] + 3 * slice_

    series = inversion_recovery(3, time_ms, 7)
    assembly = assemble([ds for slice_ in series for ds in slice_])
    assert grids(assembly) == [[planes(turn)] for turn in zip(*series, strict=True)]
    assert [volume.suffix for volume in assembly.volumes] == [f"ti{turn}" for turn in range(1, 8)]
    assert warned(assembly) == {WarningKind.PARAMETER_VARIES}


def test_what_is_left_of_three_inversion_times_is_not_two_volumes_where_each_slice_lost_another() -> None:
    volumes = of_volumes(3, "InversionTime", ["100", "500", "2200"])
    left = [ds for slice_ in range(3) for index, ds in enumerate(v[slice_] for v in volumes) if index != slice_]
    assembly = assemble(left)
    assert [volume.shape[2] for volume in assembly.volumes if volume.kind is VolumeKind.VOLUME] == [2, 2, 2]
    assert WarningKind.PARAMETER_VARIES not in warned(assembly)


def test_an_inversion_time_takes_no_slice_of_another_that_it_lost() -> None:
    first, second, third = of_volumes(4, "InversionTime", ["100", "500", "2200"])
    left = [first[2], second[0], second[1], second[3], *third]
    suffixes = {volume.suffix: volume.shape[2] for volume in assemble(left).volumes if volume.kind is VolumeKind.VOLUME}
    assert suffixes == {"ti1": 1, "ti2": 3, "ti3": 4}


def test_slices_inverted_one_after_the_other_for_two_times_are_two_volumes() -> None:
    series = inversion_recovery(6, lambda slice_, turn: 100 + 400 * turn + 37 * slice_, 2)
    assembly = assemble([ds for slice_ in series for ds in slice_])
    assert grids(assembly) == [[planes(turn)] for turn in zip(*series, strict=True)]


def test_a_map_without_an_inversion_time_takes_none_of_their_names() -> None:
    uids = of_one_series()
    images = inversion_recovery(2, lambda slice_, turn: 100 + 400 * turn + 37 * slice_, 2)
    maps = [
        make.mr_series(
            1, **uids, origin=(-50.0, -40.0, 30.0 + 10 * slice_), spacing=8.0, ImageType=r"DERIVED\PRIMARY\M"
        )[0]
        for slice_ in range(2)
    ]
    for ds in [*maps, *(ds for slice_ in images for ds in slice_)]:
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uids["series_uid"], uids["FrameOfReferenceUID"]
    assembly = assemble([*maps, *(ds for slice_ in images for ds in slice_)])
    assert [volume.suffix for volume in assembly.volumes] == ["derived", "ti1", "ti2"]
    assert not any("InversionTime" in volume.attributes for volume in assembly.volumes)  # each slice has its own


# Echo times


@pytest.mark.parametrize(
    ("keyword", "values", "suffixes"),
    [
        ("EchoTime", [1.0, 1.03, 1.06], ["e1", "e2", "e3"]),  # less than a tenth of a millisecond, and short
        ("InversionTime", [10, 20, 30], ["ti1", "ti2", "ti3"]),
        ("FlipAngle", [2, 5, 10, 15], ["1", "2", "3", "4"]),
        ("RepetitionTime", [400, 800, 1500, 3000], ["1", "2", "3", "4"]),
    ],
)
def test_each_value_of_a_parameter_is_a_volume(keyword: str, values: list[float], suffixes: list[str]) -> None:
    volumes = of_volumes(4, keyword, list(map(str, values)), EchoNumbers=None)
    assembly = assemble([ds for volume in volumes[1:] + volumes[:1] for ds in volume])
    assert grids(assembly) == [[planes(volume)] for volume in volumes]
    assert [volume.suffix for volume in assembly.volumes] == suffixes
    in_unit = 1 if keyword == "FlipAngle" else 1000
    assert [volume.attributes[keyword] for volume in assembly.volumes] == [value / in_unit for value in values]


def test_what_is_left_of_two_echoes_is_not_one_volume_where_slices_complete_each_other() -> None:
    echoes = of_volumes(6, "EchoTime", ["30", "45"])
    left = [ds for index, ds in enumerate(echoes[0]) if index in (0, 1, 3, 5)]
    right = [ds for index, ds in enumerate(echoes[1]) if index in (2, 4)]
    assert grids(assemble([*left, *right])) == [[planes(left)], [planes(right)]]


@pytest.mark.parametrize(
    ("keyword", "usual_ms"), [("EchoTime", 30.0), ("InversionTime", 1800.0), ("InversionTime", 1e5)]
)
def test_a_time_that_is_measured_for_each_image_divides_no_series_in_time(keyword: str, usual_ms: float) -> None:
    series = make.time_series(4, 6)
    for ds, part in zip(series, np.random.default_rng(3).random(len(series)), strict=True):
        setattr(ds, keyword, make.decimal(round(usual_ms * (1 + 0.015 * part), 4)))
    assembly = assemble(series)
    assert grids(assembly) == [in_turn(series, 6)]
    assert warned(assembly) == {WarningKind.PARAMETER_VARIES}


def test_two_halves_with_an_echo_time_each_are_two_volumes() -> None:
    series = make.mr_series(12, EchoTime=["80"] * 6 + ["100"] * 6)
    assert grids(assemble(series)) == [[planes(series[:6])], [planes(series[6:])]]


# Flip angles


@pytest.mark.parametrize("time", ["AcquisitionTime", "AcquisitionNumber"])
def test_a_flip_angle_that_lost_a_slice_is_a_volume_too(time: str) -> None:
    volumes = of_volumes(6, "FlipAngle", ["2", "5", "10", "15"])
    for ds in (ds for volume in volumes for ds in volume):
        delattr(ds, time)
    del volumes[1][2]
    assembly = assemble([ds for volume in volumes for ds in volume])
    assert grids(assembly) == [[planes(volume)] for volume in volumes]
    gaps = [WarningKind.MISSING_SLICE in {warning.name for warning in volume.warnings} for volume in assembly.volumes]
    assert gaps == [False, True, True, False, False]  # an upright volume lies beside the second one


# Repetition times


def test_a_repetition_time_of_each_heart_beat_is_reported_and_is_no_step_in_time() -> None:
    volumes = of_volumes(4, "RepetitionTime", ["810", "920", "870", "1010"])
    [volume] = assemble([ds for volume in volumes for ds in volume]).volumes
    assert volume.times == 4
    assert volume.time_step_s == pytest.approx(1.0)  # what the acquisition times say
    assert {warning.name for warning in volume.warnings} == {WarningKind.PARAMETER_VARIES}
    assert volume.attributes["of_each_time"]["RepetitionTime"] == [0.81, 0.92, 0.87, 1.01]


def test_the_trigger_times_of_a_map_are_reported_for_each_time() -> None:
    uids = of_one_series()
    series = [
        ds
        for slice_ in range(3)
        for turn, time_ms in enumerate((150, 1200, 2310))
        for ds in make.mr_series(
            1,
            **uids,
            origin=(-50.0, -40.0, 30.0 + 10 * slice_),
            TriggerTime=str(time_ms + 17 * slice_),
            InstanceNumber=3 * slice_ + turn + 1,
            pixels=make.pattern(1, 16, 12, seed=3 * slice_ + turn),
        )
    ]
    [volume] = assemble(series).volumes
    assert volume.shape == (12, 16, 3, 3)
    assert volume.attributes["of_each_time"] == {"TriggerTime": [0.15, 1.2, 2.31]}
    assert "of_each_time" not in assemble(make.time_series(3, 4)).volumes[0].attributes


def test_the_preparations_of_one_slice_that_only_their_times_tell_apart_are_a_series_in_time() -> None:
    volumes = of_volumes(1, "AcquisitionNumber", [1, 2, 3])
    [volume] = assemble([ds for volume in volumes for ds in volume]).volumes
    assert volume.shape == (12, 16, 1, 3)
    assert np.unique(volume.voxels.mean(axis=(1, 2, 3))).size == 3
