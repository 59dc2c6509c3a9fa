"""The body mask of a CT: hollow phantoms, thin chest walls, tables, thresholds, and what is made with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from node.volume.model import Display, Volume
from node.writers.bodymask import body_mask, foreground
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests.volumes import volume

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


@pytest.mark.slow
def test_a_masked_volume_has_air_around_the_body_and_the_same_values_in_it(tmp_path: Path) -> None:
    hounsfield, body = on_a_table(70), ellipse(80, 60)
    hounsfield[body] = 40
    options = WriteOptions(formats=("npz",), thumbnails=True, masked_volumes=True)
    files = write_volume(ct(hounsfield), tmp_path, "volume", options)
    assert [(file.kind, file.path.name) for file in files] == [
        ("volume", "volume.npz"),
        ("thumbnail", "volume_thumbnail.png"),
        ("masked", "volume_masked.npz"),
    ]
    with np.load(files[2].path) as arrays:
        real = arrays["data"] * arrays["slope"] + arrays["intercept"]
    mask = body_mask(ct(hounsfield)).voxels[0] != 0
    assert np.array_equal(real, np.where(mask, hounsfield, -1000))


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
