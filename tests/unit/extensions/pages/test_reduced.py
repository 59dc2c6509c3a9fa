"""Coarser copies of volumes: the same places, fewer voxels."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from node.extensions.pages.reduced import overlaid, reduced, steps_of
from node.volume.model import Array, Float, Geometry, Volume
from node.writers.base import WrittenFile
from node.writers.itk import write_metaimage, write_nrrd
from node.writers.nifti import LPS_TO_RAS, write_nifti, write_pair
from node.writers.options import WriteOptions
from node.writers.sidecar import write_sidecar
from node.writers.write import write_analyze, write_npz

AFFINE = np.array([[0.0, 0.0, 3.0, -10.0], [0.8, 0.0, 0.0, 20.0], [0.0, -0.9, 0.0, 5.0], [0.0, 0.0, 0.0, 1.0]])


def volume(voxels: np.ndarray, **options: float) -> Volume:
    spacing = (0.8, 0.9, 3.0)
    return Volume(voxels, AFFINE, spacing, Geometry.REGULAR, 0, "CT", (), **options)


def copy_of(
    shown: Volume, folder: Path, max_voxels: int, *, compress: bool, only_body: bool = False
) -> nibabel.Nifti1Image:
    file = write_nifti(shown, folder, "volume", WriteOptions(compress=compress), b'{"a": 1}')
    content = gzip.decompress(reduced(file.path, file.path, max_voxels, only_body=only_body))
    return nibabel.Nifti1Image.from_bytes(content)


@pytest.mark.parametrize("compress", [True, False])
def test_every_picked_voxel_keeps_its_value_and_its_place(tmp_path: Path, compress: bool) -> None:
    voxels = np.random.default_rng(1).integers(-900, 900, (2, 60, 30, 41), np.int16)
    image = copy_of(volume(voxels, slope=2.0, intercept=-3.0), tmp_path, 1000, compress=compress)
    assert np.prod(image.shape) <= 1000
    whole = nibabel.load(tmp_path / f"volume.nii{'.gz' if compress else ''}")
    to_whole = np.linalg.inv(whole.affine) @ image.affine
    steps = np.diag(to_whole)[:3]
    assert np.allclose(to_whole, np.diag([*steps, 1]), atol=1e-5)
    step = np.rint(steps).astype(int)
    assert step.min() > 1
    assert np.array_equal(image.get_fdata(), whole.get_fdata()[:: step[0], :: step[1], :: step[2], 0])


def test_a_small_volume_and_colours_are_copied_whole(tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).integers(0, 255, (1, 3, 4, 5, 3), np.uint8)
    image = copy_of(volume(voxels), tmp_path, 1000, compress=True)
    assert image.shape == (5, 4, 3)
    pixels = np.asarray(image.dataobj)
    assert np.array_equal(np.stack([pixels[part] for part in "RGB"], -1), voxels[0].transpose(2, 1, 0, 3))


def test_steps_make_voxels_as_cubic_as_they_can_be() -> None:
    assert steps_of((512, 512, 1000), (0.8, 0.8, 0.6), 1 << 23) == [3, 3, 4]
    assert steps_of((512, 512, 20), (0.5, 0.5, 5.0), 1 << 20) == [3, 2, 1]
    assert steps_of((1, 1, 1), (1.0, 1.0, 1.0), 1) == [1, 1, 1]


def test_the_table_is_removed_around_a_body(tmp_path: Path) -> None:
    y, x = np.ogrid[:120, :120]
    plane = np.full((120, 120), -1000, np.int16)
    plane[(x - 60) ** 2 + (y - 50) ** 2 < 40**2] = 40
    plane[108:111, 10:110] = 300
    image = copy_of(volume(np.repeat(plane[None, None], 8, axis=1)), tmp_path, 60_000, compress=True, only_body=True)
    middle = image.get_fdata()[:, :, 4]
    assert middle.max() == 40
    assert (middle == 40).sum() * np.prod(np.array([120, 120]) / middle.shape) == pytest.approx(np.pi * 40**2, rel=0.05)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_a_copy_is_the_same_whatever_format_it_is_made_of(tmp_path: Path, dtype: type, compress: bool) -> None:
    voxels = np.random.default_rng(1).integers(0, 250, (2, 60, 30, 41)).astype(dtype)
    shown, options = volume(voxels), WriteOptions(compress=compress)
    expected = copy_of(shown, tmp_path, 1000, compress=compress)
    for write in (write_metaimage, write_pair, write_nrrd, write_npz):
        written = write(shown, tmp_path, "v", options)
        content = reduced(written.path, written.companions[0] if written.companions else written.path, 1000)
        copy = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
        assert np.array_equal(copy.get_fdata(), expected.get_fdata())
        assert np.allclose(copy.affine, expected.affine)
        assert copy.header["sform_code"] == expected.header["sform_code"]


@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_a_voxel_of_analyze_lies_where_that_of_nifti_does(tmp_path: Path, signs: tuple[int, ...]) -> None:
    voxels = np.random.default_rng(1).integers(0, 250, (1, 4, 5, 6)).astype(np.int16)
    shown = replace(volume(voxels), affine_lps=AFFINE @ np.diag([*signs, 1]))
    expected = copy_of(shown, tmp_path, 1000, compress=False)
    written = write_analyze(shown, tmp_path, "v", WriteOptions())
    sidecar = write_sidecar({"affine_lps": shown.affine_lps.tolist()}, tmp_path, "v")
    content = reduced(written.path, written.companions[0], 1000, sidecar=sidecar)
    copy = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    to_expected = np.linalg.inv(expected.affine) @ copy.affine
    for index in np.ndindex(copy.shape):
        there = np.rint(to_expected @ [*index, 1])[:3].astype(int)
        assert copy.dataobj[index] == expected.dataobj[tuple(there)]


@pytest.mark.parametrize("write", [write_metaimage, write_nrrd, write_npz, write_analyze])
def test_colours_and_a_plane_without_a_place_are_copied(tmp_path: Path, write: Callable[..., WrittenFile]) -> None:
    voxels = np.random.default_rng(1).integers(0, 255, (1, 1, 4, 5, 3), np.uint8)
    written = write(replace(volume(voxels), affine_lps=None), tmp_path, "plane", WriteOptions())
    voxel_file = written.companions[0] if written.companions else written.path
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(reduced(written.path, voxel_file, 1000)))
    assert image.shape == (5, 4, 1)
    assert image.header["sform_code"] == 0
    pixels = np.asarray(image.dataobj)
    shown = voxels[0, :, ::-1] if write is write_analyze else voxels[0]  # Analyze's rows run to anterior
    assert np.array_equal(np.stack([pixels[part] for part in "RGB"], -1), shown.transpose(2, 1, 0, 3))


def test_voxels_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    path = write_metaimage(volume(np.ones((1, 7, 30, 41), np.int16)), tmp_path, "cut", WriteOptions()).path
    data = path.with_suffix(".zraw")
    data.write_bytes(data.read_bytes()[:-20])
    with pytest.raises(EOFError, match="cut off"):
        reduced(path, data, 1000)


# A picture of masks over an image: the slice on which they have most, at their place, as radiologists view it.


def saved(path: Path, voxels: Array, affine_lps: Float) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, LPS_TO_RAS @ affine_lps), path)
    return path


def test_a_mask_lies_where_it_is_in_the_patient(tmp_path: Path) -> None:
    image = np.zeros((40, 20, 8), np.int16)
    image[:, :, 5] = 100  # only this slice is grey
    below = saved(tmp_path / "image.nii.gz", image, np.diag([1.0, 2.0, 4.0, 1.0]))
    mask = np.zeros((20, 20, 3), np.uint8)
    mask[15:, :5, 2] = 1
    mask[0, 0, 0] = 1
    finer = np.diag([2.0, 2.0, 2.0, 1.0])
    finer[:3, 3] = 0.5, 0, 16  # its slice 2 is slice 5 of the image
    picture = overlaid([saved(tmp_path / "mask.nii.gz", mask, finer)], below, is_ct=True, pixels=80)
    shown = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), dtype=int)
    assert shown.shape == (80, 80, 3), "40 mm by 40 mm"
    assert np.ptp(shown[60, 20]) == 0, "grey where no mask is"
    assert shown[60, 20, 0] > 100
    red, green, _ = shown[10, 70]
    assert red > green + 40, "at the left of the patient, which is right, and anterior"


def test_an_image_elsewhere_and_one_in_colours_are_refused(tmp_path: Path) -> None:
    mask = saved(tmp_path / "mask.nii.gz", np.ones((4, 4, 2), np.uint8), np.eye(4))
    away = np.eye(4)
    away[2, 3] = 500
    with pytest.raises(ValueError, match="elsewhere"):
        overlaid([mask], saved(tmp_path / "away.nii.gz", np.ones((4, 4, 2), np.int16), away), is_ct=False, pixels=8)
    colours = np.zeros((4, 4, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(ValueError, match="colours"):
        overlaid([mask], saved(tmp_path / "colours.nii.gz", colours, np.eye(4)), is_ct=False, pixels=8)
