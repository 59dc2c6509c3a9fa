"""Which series have a gradient table: diffusion series, and no others of scanners that write a weighting everywhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.describe.scan_parameters import weighting
from node.volume.model import Diffusion, Display, Volume, VolumeKind
from node.volume.reasons import VolumeWarning, WarningKind
from node.writers.options import WriteOptions
from node.writers.sidecar import _directions_are_known, sidecar_fields, write_gradients, write_sidecar
from node.writers.write import write_volume
from tests import make
from tests.unit.volume.grids import grids, in_turn, one_item
from tests.volumes import only, volume

SLICES = 3


def series(b_values: list[float], **attributes: Any) -> list[FileDataset]:
    """Volumes one after the other, with a b-value of the standard and of GE in each image."""
    found = make.time_series(len(b_values), SLICES, Manufacturer="GE MEDICAL SYSTEMS", **attributes)
    for index, ds in enumerate(found):
        ds.DiffusionBValue = b_values[index // SLICES]
        block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [int(b_values[index // SLICES]), 8, 0, 0])
    return found


def b_values_of(volume: Volume) -> list[float] | None:
    return None if volume.diffusion is None else [weighting.b_value for weighting in volume.diffusion]


def test_a_series_of_which_no_image_is_weighted_has_no_table() -> None:
    assert only(*series([0, 0])).diffusion is None


def test_a_series_of_which_one_volume_is_weighted_has_one() -> None:
    assert b_values_of(only(*series([0, 1000]))) == [0, 1000]


@pytest.mark.parametrize("times", [1, 2])
def test_unweighted_volumes_of_a_diffusion_sequence_keep_theirs(times: int) -> None:
    assert b_values_of(only(*series([0.0] * times, ImageType=r"ORIGINAL\PRIMARY\DIFFUSION\NONE"))) == [0] * times


def table_of(volume: Volume, folder: Path) -> tuple[str, str | None] | None:
    """The lines of b-values and of directions, None where there is no such file."""
    paths = write_gradients(volume, folder, "volume")
    if not paths:
        return None
    return paths[0].read_text().strip(), paths[1].read_text() if len(paths) > 1 else None


@pytest.mark.parametrize("kind", ["TRACEW", "ISO"])
def test_trace_images_of_several_b_values_have_a_table_without_directions(kind: str, tmp_path: Path) -> None:
    table = table_of(only(*series([0, 500, 1000], ImageType=rf"DERIVED\PRIMARY\DIFFUSION\{kind}")), tmp_path)
    assert table[0] == "0 500 1000"
    assert np.loadtxt(tmp_path / "volume.bvec").tolist() == [[0, 0, 0]] * 3


def test_isotropic_images_and_the_unweighted_ones_of_their_series_are_one_volume(tmp_path: Path) -> None:
    datasets = series([0, 500, 1000])
    for ds in datasets:
        ds.DiffusionDirectionality = "ISOTROPIC" if ds.DiffusionBValue else "NONE"
    volume = only(*datasets)
    assert b_values_of(volume) == [0, 500, 1000]
    assert table_of(volume, tmp_path) is not None
    assert np.loadtxt(tmp_path / "volume.bvec").tolist() == [[0, 0, 0]] * 3


def test_an_isotropic_image_beside_directions_is_a_map_of_them() -> None:
    datasets = series([0, 1000, 1000, 1000])
    for index, ds in enumerate(datasets):
        time = index // SLICES
        if time in (1, 2):
            ds.DiffusionGradientOrientation = [1.0, 0.0, 0.0] if time == 1 else [0.0, 1.0, 0.0]
        ds.DiffusionDirectionality = ("NONE", "DIRECTIONAL", "DIRECTIONAL", "ISOTROPIC")[time]
    volumes = assemble(datasets).volumes
    assert sorted((volume.times, volume.suffix) for volume in volumes) == [(1, "map"), (3, "")]


@pytest.mark.parametrize(("kind", "b_values"), [("TRACEW", [1000, 1000]), ("ADC", [0, 1000]), ("FA", [0, 1000])])
def test_maps_and_trace_images_of_one_b_value_have_no_table(kind: str, b_values: list[float], tmp_path: Path) -> None:
    for number, one in enumerate(assemble(series(b_values, ImageType=rf"DERIVED\PRIMARY\DIFFUSION\{kind}")).volumes):
        (folder := tmp_path / str(number)).mkdir()
        assert table_of(one, folder) is None


ADC_NAMES = (
    r"DERIVED\PRIMARY\ADC",
    r"DERIVED\SECONDARY\APPARENT DIFFUSION COEFFICIENT",
    r"DERIVED\ADC",
    r"DERIVED\PRIMARY\DIFFUSION\ADC",
)


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
@pytest.mark.parametrize("image_type", ADC_NAMES)
def test_a_map_states_no_b_value_though_its_images_carry_that_of_the_scan(image_type: str, tmp_path: Path) -> None:
    volume = only(*series([1000], ImageType=image_type))
    assert table_of(volume, tmp_path) is None
    assert "b_values" not in sidecar_fields(volume, WriteOptions(), {})
    assert (volume.warnings, weighting(volume)) == ((), None)


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
@pytest.mark.parametrize("image_type", ADC_NAMES)
def test_a_map_beside_the_weighted_images_of_its_series_is_a_volume_of_its_own(image_type: str) -> None:
    datasets = series([0, 1000, 1000], ImageType=r"ORIGINAL\PRIMARY\DIFFUSION\NONE")
    for ds in datasets[2 * SLICES :]:
        ds.ImageType = image_type.split("\\")
    assembly = assemble(datasets)
    assert grids(assembly) == [in_turn(datasets[: 2 * SLICES], SLICES), in_turn(datasets[2 * SLICES :], SLICES)]
    assert [volume.suffix for volume in assembly.volumes] == ["", "map"]
    stated = [sidecar_fields(volume, WriteOptions(), {}).get("b_values") for volume in assembly.volumes]
    assert stated == [[0, 1000], None]


def test_an_adc_is_a_map_by_its_derivation_code_alone() -> None:
    datasets = series([1000], ImageType=r"DERIVED\SECONDARY\OTHER")
    for ds in datasets:
        ds.DerivationCodeSequence = one_item(CodeValue="113041", CodingSchemeDesignator="DCM")
    assert "b_values" not in sidecar_fields(only(*datasets), WriteOptions(), {})


def test_a_direction_that_is_stated_as_zeros_is_written_as_zeros(tmp_path: Path) -> None:
    datasets = series([0, 1000, 1000])
    for index, ds in enumerate(datasets):
        if index >= SLICES:
            ds.DiffusionGradientOrientation = [0.0, 0.0, 0.0]
    assert table_of(only(*datasets), tmp_path) is not None
    assert np.loadtxt(tmp_path / "volume.bvec").tolist() == [[0, 0, 0]] * 3


def test_without_any_word_of_directions_the_b_values_stand_alone(tmp_path: Path) -> None:
    assert table_of(only(*series([0, 1000])), tmp_path) == ("0 1000", None)


@pytest.mark.parametrize(
    ("weightings", "known"),
    [
        ((Diffusion(0.0),), True),
        ((Diffusion(0.0), Diffusion(1.0)), False),
        ((Diffusion(0.0), Diffusion(1000.0)), False),
        ((Diffusion(1000.0), Diffusion(1000.0, np.array([1.0, 0, 0]))), True),
        ((Diffusion(0.0, np.array([1.0, 0, 0])), Diffusion(1000.0)), False),
        ((Diffusion(0.0), Diffusion(1000.0, trace=True)), True),
    ],
)
def test_directions_are_known_if_a_weighted_volume_has_one_or_none_needs_one(
    weightings: tuple[Diffusion, ...], known: bool
) -> None:
    assert _directions_are_known(weightings) is known


def test_directions_beside_a_resampled_volume_are_along_its_own_axes(tmp_path: Path) -> None:
    """An oblique, tilted stack: its planes are upright in the resampled volume."""
    tilted = np.array([0.0, 0.5, 3.0])
    datasets = make.time_series(2, 6, spacing=2.0)
    for index, ds in enumerate(datasets):
        ds.ImagePositionPatient = list((index % 6) * tilted)
        if index >= 6:
            ds.DiffusionBValue, ds.DiffusionGradientOrientation = 1000.0, [0.0, 0.6, 0.8]
        else:
            ds.DiffusionBValue = 0.0
    original, upright = assemble(datasets).volumes
    assert upright.kind is VolumeKind.RESAMPLED
    for number, one in enumerate((original, upright)):
        (folder := tmp_path / str(number)).mkdir()
        write_gradients(one, folder, "volume")
        vector = np.loadtxt(folder / "volume.bvec")[:, 1]
        axes = one.affine_lps[:3, :3] / np.linalg.norm(one.affine_lps[:3, :3], axis=0)
        axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
        flipped = vector * [-1, 1, 1]  # FSL's x of a volume with a positive determinant
        assert abs((axes @ flipped) @ [0.0, 0.6, 0.8]) == pytest.approx(1, abs=1e-6)


# Fields of the sidecar that depend on the volume: repetition, volume timing, scaling.


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
