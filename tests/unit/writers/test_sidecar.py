"""Fields of the sidecar that depend on the volume: repetition, volume timing, scaling."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.volume.model import Display
from node.volume.reasons import VolumeWarning, WarningKind
from node.writers.options import WriteOptions
from node.writers.sidecar import sidecar_fields, write_sidecar
from node.writers.write import write_volume
from tests.volumes import volume


def fields_of(folder: Path, times: int = 1, **changes: Any) -> dict[str, Any]:
    voxels = np.arange(60 * times, dtype=np.int16).reshape(times, 3, 4, 5)
    path = write_sidecar(sidecar_fields(volume(voxels, **changes), WriteOptions(), {}), folder, "volume")
    fields: dict[str, Any] = json.loads(path.read_text())
    return fields


@pytest.mark.parametrize(
    ("step_s", "starts_s", "expected"),
    [
        (2.0, None, {"RepetitionTime": 2.0}),
        (2.5, (0.0, 2.5, 5.0), {"RepetitionTime": 2.5, "RepetitionTimeExcitation": 2.0}),
        (None, (0.0, 2.5, 9.0), {"RepetitionTimeExcitation": 2.0, "VolumeTiming": [0.0, 2.5, 9.0]}),
        (None, None, {"RepetitionTimeExcitation": 2.0}),
    ],
)
def test_repetition_time_is_the_time_between_volumes(
    step_s: float | None, starts_s: tuple[float, ...] | None, expected: dict[str, Any], tmp_path: Path
) -> None:
    fields = fields_of(
        tmp_path, times=3, time_step_s=step_s, times_s=starts_s, attributes={"Modality": "MR", "RepetitionTime": 2.0}
    )
    names = ("RepetitionTime", "RepetitionTimeExcitation", "VolumeTiming")
    assert {name: fields[name] for name in names if name in fields} == expected


def test_the_array_of_numpy_has_the_same_repetition_time(tmp_path: Path) -> None:
    voxels = np.zeros((2, 3, 4, 5), np.int16)
    one = volume(voxels, time_step_s=2.5, attributes={"Modality": "MR", "RepetitionTime": 2.0})
    write_volume(one, tmp_path, "volume", WriteOptions(formats=("npz",), thumbnails=False))
    with np.load(tmp_path / "volume.npz") as arrays:
        assert json.loads(str(arrays["json"]))["RepetitionTime"] == float(arrays["time_step"]) == 2.5


def test_a_single_volume_keeps_the_repetition_of_its_excitations(tmp_path: Path) -> None:
    fields = fields_of(tmp_path, attributes={"Modality": "MR", "RepetitionTime": 2.0})
    assert fields["RepetitionTime"] == 2.0
    assert "RepetitionTimeExcitation" not in fields


def test_scaling_factors_are_left_out_if_slices_differ_in_them(tmp_path: Path) -> None:
    attributes = {"PhilipsRescaleSlope": 1.29, "PhilipsScaleSlope": 0.5}
    assert fields_of(tmp_path, attributes=attributes).keys() >= attributes.keys()
    varies = (VolumeWarning(WarningKind.SLOPE_VARIES, "4 slopes"),)
    (other := tmp_path / "other").mkdir()
    assert not fields_of(other, attributes=attributes, warnings=varies).keys() & attributes.keys()


def test_the_sidecar_says_that_low_values_are_white(tmp_path: Path) -> None:
    assert fields_of(tmp_path, display=Display(inverted=True))["inverted"] is True
