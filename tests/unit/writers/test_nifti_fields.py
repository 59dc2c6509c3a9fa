"""Fields of a NIfTI header beyond the grid, as nibabel reads them."""

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from node.volume.model import Display, Volume, VolumeKind
from node.writers.bodymask import body_mask, foreground
from node.writers.nifti import nifti_header, slice_order
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests.volumes import volume

STEP_S = 0.0725
ORDERS = {
    1: (0, 1, 2, 3, 4, 5, 6),
    2: (6, 5, 4, 3, 2, 1, 0),
    3: (0, 2, 4, 6, 1, 3, 5),
    4: (6, 4, 2, 0, 5, 3, 1),
    5: (1, 3, 5, 0, 2, 4, 6),
    6: (5, 3, 1, 6, 4, 2, 0),
}
"""Slices in the order of their acquisition, by NIfTI's code."""


def header_of(converted: Volume) -> Any:
    return nib.Nifti1Header(nifti_header(converted, pair=False).binaryblock)


def header(**changes: Any) -> Any:
    return header_of(volume(**changes))


def seven_slices(timing: list[float], **changes: Any) -> Volume:
    voxels = np.zeros((1, 7, 4, 5), np.int16)
    return volume(voxels, attributes={"SliceTiming": timing, "PhaseEncodingDirection": "j-"}, **changes)


def timing_of(order: tuple[int, ...]) -> list[float]:
    return [round(order.index(index) * STEP_S, 4) for index in range(len(order))]


@pytest.mark.parametrize(("code", "order"), ORDERS.items())
def test_the_order_of_the_slices_is_read_back_as_their_times(code: int, order: tuple[int, ...]) -> None:
    timing = timing_of(order)
    head = header_of(seven_slices(timing))
    assert int(head["slice_code"]) == code
    assert (int(head["slice_start"]), int(head["slice_end"])) == (0, 6)
    assert np.allclose(head.get_slice_times(), timing, atol=1e-6)


@pytest.mark.parametrize(
    "timing",
    [
        [0.0, 0.1, 0.2, 0.0, 0.1, 0.2, 0.0],  # slices excited together
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75],  # a pause
        [0.0, 0.3, 0.6, 0.1, 0.4, 0.2, 0.5],  # every third slice
    ],
)
def test_an_order_without_a_code_is_left_unknown(timing: list[float]) -> None:
    head = header_of(seven_slices(timing))
    assert [int(head[name]) for name in ("slice_code", "slice_start", "slice_end")] == [0, 0, 0]
    assert float(head["slice_duration"]) == 0
    assert head.get_dim_info() == (0, 1, 2)


def test_rounded_times_of_a_scanner_still_have_an_order() -> None:
    exact = np.arange(30) * 2.0 / 30
    order = slice_order((np.round(exact / 0.0025) * 0.0025).tolist())
    assert order[0] == 1
    assert order[1] == pytest.approx(2 / 30, rel=0.01)


def test_slice_times_of_other_slices_are_not_told_of_a_resampled_volume() -> None:
    head = header_of(seven_slices(timing_of(ORDERS[1]), kind=VolumeKind.RESAMPLED))
    assert int(head["slice_code"]) == 0
    assert head.get_dim_info() == (0, 1, 2)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [({"PhaseEncodingDirection": "i"}, (1, 0, 2)), ({"PhaseEncodingAxis": "j"}, (0, 1, 2)), ({}, (None, None, 2))],
)
def test_the_axes_of_frequency_phase_and_slice_are_told_of_magnetic_resonance(
    attributes: dict[str, str], expected: tuple[int | None, ...]
) -> None:
    assert header(attributes=attributes).get_dim_info() == expected
    assert header(attributes=attributes, modality="CT").get_dim_info() == (None, None, None)


def test_a_series_that_is_triggered_begins_at_its_first_trigger_time() -> None:
    voxels = np.zeros((3, 2, 4, 5), np.int16)
    phases = {"of_each_time": {"TriggerTime": [0.012, 0.052, 0.092]}}
    assert float(header(voxels=voxels, attributes=phases, time_step_s=0.04)["toffset"]) == pytest.approx(0.012)
    assert float(header(voxels=voxels, attributes=phases, time_step_s=2.0)["toffset"]) == 0


def test_the_first_window_that_shows_anything_is_the_display_range() -> None:
    ct = {"modality": "CT", "slope": 2.0, "intercept": -20.0}
    head = header(display=Display(((9000.0, 10.0), (40.0, 50.0))), **ct)
    assert (float(head["cal_min"]), float(head["cal_max"])) == (15, 65)
    head = header(**ct)
    assert (float(head["cal_min"]), float(head["cal_max"])) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": VolumeKind.MASK}, ("label", "body mask")),
        ({"modality": "SEG"}, ("label", "segments")),
        ({"modality": "SEG", "slope": 1 / 255}, ("estimate", "fraction")),
        ({"modality": "RTDOSE", "slope": 1e-4}, ("estimate", "dose")),
        ({"modality": "PT", "attributes": {"SUVType": "BW"}}, ("estimate", "SUVbw")),
        ({"attributes": {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}}, ("estimate", "ADC")),
        ({"attributes": {"ImageType": ["DERIVED", "PRIMARY", "T2_STAR MAP", "ND"]}}, ("estimate", "T2_STAR MAP")),
        ({"attributes": {"Units": "Hz"}}, ("estimate", "field map")),
        ({"attributes": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}}, ("none", "")),
    ],
)
def test_labels_and_maps_are_reported_by_their_intent(changes: dict[str, Any], expected: tuple[str, str]) -> None:
    code, _, name = header(**changes).get_intent()
    assert (code, name) == expected


@pytest.mark.parametrize("name", ["nifti", "nifti-pair"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("columns", [5, 40_000])  # more than NIfTI-1 can hold
def test_the_extension_holds_the_sidecar_and_the_voxels_stay_in_place(
    tmp_path: Path, name: Any, compress: bool, columns: int
) -> None:
    voxels = np.arange(24 * columns, dtype=np.int16).reshape(1, 3, 8, columns)
    one = volume(voxels, attributes={"Manufacturer": "Ärzte & Söhne", "EchoTime": 0.03})
    options = WriteOptions(formats=(name,), compress=compress, thumbnails=False, nifti_extension=True)
    [file] = write_volume(one, tmp_path, "volume", options)
    image: Any = nib.load(file.path)
    assert np.array_equal(np.asarray(image.dataobj), voxels[0].transpose(2, 1, 0))
    [extension] = image.header.extensions
    assert extension.get_code() == 6
    assert json.loads(extension.get_content()) == json.loads((tmp_path / "volume.json").read_text("utf-8"))


def test_without_the_option_there_is_no_extension(tmp_path: Path) -> None:
    [file] = write_volume(volume(), tmp_path, "volume", WriteOptions(formats=("nifti",), thumbnails=False))
    content = gzip.decompress(file.path.read_bytes())
    assert content[348:352] == bytes(4)
    assert len(content) == 352 + 60 * 2


# The body mask of a CT: hollow phantoms, thin chest walls, tables, thresholds, and what is made with it.


SLICES, ROWS, COLUMNS = 6, 120, 110
PIXEL_MM = 2.0
_, y_mm, x_mm = np.mgrid[:SLICES, -60.0 : ROWS - 60, -55.0 : COLUMNS - 55] * PIXEL_MM


def ellipse(half_width_mm: float, half_height_mm: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    inside: np.ndarray = ((x_mm - x) / half_width_mm) ** 2 + ((y_mm - y) / half_height_mm) ** 2 < 1
    return inside


def on_a_table(table_top_mm: float = 94.0) -> np.ndarray:
    """Air above a table of two thin sheets around foam, in HU."""
    hounsfield = np.full(x_mm.shape, -1000, np.int16)
    table = (y_mm > table_top_mm) & (y_mm < table_top_mm + 24) & (np.abs(x_mm) < 104)
    hounsfield[table] = 50
    hounsfield[table & (y_mm > table_top_mm + 2) & (y_mm < table_top_mm + 22) & (np.abs(x_mm) < 100)] = -950
    return hounsfield


def ct(hounsfield: np.ndarray, **changes: Any) -> Volume:
    affine = np.diag([PIXEL_MM, PIXEL_MM, 5.0, 1.0])
    return volume((hounsfield + 1024).astype(np.int16)[None], affine, modality="CT", intercept=-1024.0, **changes)


def overlap(image: Volume, body: np.ndarray, threshold_hu: float = -300.0) -> float:
    """Dice's coefficient of mask and body."""
    mask = body_mask(image, threshold_hu).voxels[0] != 0
    return float(2 * (mask & body).sum() / (mask.sum() + body.sum()))


@pytest.mark.parametrize("wall_mm", [3.0, 6.0])
@pytest.mark.parametrize("crack", [False, True])
def test_a_hollow_head_is_a_head_and_not_the_pegs_in_it(wall_mm: float, crack: bool) -> None:
    hounsfield, head = on_a_table(), ellipse(75, 94)
    hounsfield[head] = -1000
    hounsfield[head & ~ellipse(75 - wall_mm, 94 - wall_mm)] = 60
    for x in (-25, 25):
        hounsfield[ellipse(12, 12, x)] = 60
    if crack:
        hounsfield[2:4][(np.abs(x_mm) < 3)[2:4] & (y_mm < -60)[2:4]] = -1000
    assert overlap(ct(hounsfield), head) > 0.97


def test_a_chest_keeps_its_thin_wall_beside_the_lungs() -> None:
    hounsfield, chest = on_a_table(70), ellipse(90, 70)
    hounsfield[chest] = 40
    for x in (-42, 42):
        hounsfield[ellipse(36, 54, x)] = -850
    assert overlap(ct(hounsfield), chest) > 0.97


def test_a_wrist_is_smaller_than_the_table_and_still_the_body() -> None:
    hounsfield, wrist = on_a_table(20), ellipse(32, 18)
    hounsfield[wrist] = 40
    assert overlap(ct(hounsfield), wrist) > 0.97


def test_a_head_in_a_helmet_is_without_the_helmet() -> None:
    hounsfield, head = on_a_table(), ellipse(60, 60)
    hounsfield[ellipse(90, 90) & ~ellipse(87, 87)] = 100
    hounsfield[head] = 40
    assert overlap(ct(hounsfield), head) > 0.97


@pytest.mark.slow
def test_the_threshold_is_the_callers_own() -> None:
    hounsfield, body, core = on_a_table(70), ellipse(80, 60), ellipse(50, 40)
    hounsfield[body] = -100
    hounsfield[core] = 60
    assert overlap(ct(hounsfield), body) > 0.97
    assert overlap(ct(hounsfield), core, threshold_hu=0.0) > 0.97


def test_padding_is_no_body_and_a_falling_slope_is_understood() -> None:
    body = ellipse(60, 50)
    hounsfield = np.where(body, 40, -1000).astype(np.int16)
    falling = volume((-hounsfield)[None], np.diag([PIXEL_MM, PIXEL_MM, 5.0, 1.0]), modality="CT", slope=-1.0)
    assert overlap(falling, body) > 0.97
    hounsfield[:, :, :20] = 2000
    assert overlap(ct(hounsfield, display=Display(padding=(3024.0, 3024.0))), body) > 0.97


def test_a_minimum_projection_shows_the_lungs_and_not_the_air_around(tmp_path: Path) -> None:
    hounsfield, chest = on_a_table(70), ellipse(90, 70)
    hounsfield[chest] = 40
    lung = ellipse(30, 40, -42)
    hounsfield[lung] = -850
    options = WriteOptions(formats=("npz",), thumbnails=False, projections=True)
    write_volume(ct(hounsfield), tmp_path, "volume", options)
    with Image.open(tmp_path / "volume_minip_coronal.png") as picture:
        columns = np.asarray(picture).mean(axis=0)
    left, right = (COLUMNS // 2 + round(x / PIXEL_MM) for x in (-42, 42))
    scale = len(columns) / COLUMNS
    assert columns[round(left * scale)] < 20
    assert columns[round(right * scale)] > 200
    assert columns[0] == 0


def test_a_volume_of_air_alone_has_no_foreground() -> None:
    assert foreground(ct(np.full(x_mm.shape, -1000, np.int16)), -300.0) is None


@pytest.mark.parametrize(
    ("modality", "intercept", "known"), [("MR", 0.0, True), ("MR", -200.0, False), ("PT", 0.0, False)]
)
def test_the_foreground_of_a_magnetic_resonance_is_above_noise(modality: str, intercept: float, known: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 20, x_mm.shape)
    head = ellipse(70, 80)
    affine = np.diag([PIXEL_MM, PIXEL_MM, 5.0, 1.0])
    image = volume((noise + 300 * head).astype(np.int16)[None], affine, modality=modality, intercept=intercept)
    found = foreground(image, -300.0)
    assert (found is not None) == known
    assert found is None or (found[head].mean() > 0.97 and found[~head].mean() < 0.03)
