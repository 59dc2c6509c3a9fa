"""What readers that others wrote (nibabel, SimpleITK) get out of the files is what went in."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from node.volume.model import Volume
from node.writers.base import real_dtype
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests.volumes import volume, volumes

LPS_TO_RAS = np.diag([-1, -1, 1, 1])
TOLERANCE_MM = 1e-4


def corners(one: Volume) -> np.ndarray:
    """The (4, 8) indices of the corner voxels."""
    ends = product(*((0, size - 1) for size in one.shape[:3]))
    return np.array([(*end, 1) for end in ends], dtype=float).T


def real(one: Volume) -> np.ndarray:
    """Real values as (columns, rows, slices[, times][, 3])."""
    turned = one.voxels.transpose(3, 2, 1, 0, *range(4, one.voxels.ndim))
    turned = turned if one.times > 1 else turned[:, :, :, 0]
    return turned if (one.slope, one.intercept) == (1, 0) else turned * one.slope + one.intercept


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    if data.dtype.fields:
        data = np.stack([data[name] for name in "RGB"], axis=-1)
    return data, image.affine


def read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """ITK takes times that are an axis without a direction for the components of a voxel."""
    image = sitk.ReadImage(path)
    data = sitk.GetArrayFromImage(image)
    axes = image.GetDimension()
    data = data.transpose(*range(axes)[::-1], *range(axes, data.ndim))
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(axes, axes)[:3, :3]
    affine[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return data, affine


@pytest.mark.slow
@settings(max_examples=60)
@given(one=volumes(), compress=st.booleans())
def test_nifti_metaimage_and_nrrd_give_back_every_voxel_and_corner(one: Volume, compress: bool) -> None:
    with TemporaryDirectory() as folder:
        options = WriteOptions(formats=("nifti", "nifti-pair", "mhd", "nrrd"), compress=compress, thumbnails=False)
        nifti, pair, mhd, nrrd = (file.path for file in write_volume(one, Path(folder), "volume", options))
        for path, frame, read in (
            (nifti, LPS_TO_RAS, read_nifti),
            (pair, LPS_TO_RAS, read_nifti),
            (mhd, np.eye(4), read_itk),
            (nrrd, np.eye(4), read_itk),
        ):
            data, affine = read(path)
            off = (affine - frame @ one.affine_lps) @ corners(one)
            assert np.linalg.norm(off[:3], axis=0).max() < TOLERANCE_MM
            assert data.shape == real(one).shape
            if one.voxels.dtype.kind in "iu" and float(one.slope).is_integer():
                np.testing.assert_array_equal(data, real(one))
            else:
                np.testing.assert_allclose(data, real(one), rtol=1e-6, atol=1e-6 * np.abs(real(one)).max())


@pytest.mark.parametrize("turned", [0.0, 0.3])
@pytest.mark.parametrize("compress", [True, False])
def test_a_turned_stack_lies_in_metaimage_and_nrrd_where_it_was(tmp_path: Path, compress: bool, turned: float) -> None:
    cosine, sine = np.cos(turned), np.sin(turned)
    affine = np.array([[0, 0, 3.0, -10], [2 * cosine, -sine, 0, 20], [2 * sine, cosine, 0, -30], [0, 0, 0, 1]])
    one = volume(None, affine)
    for file in write_volume(one, tmp_path, "v", WriteOptions(formats=("mhd", "nrrd"), compress=compress)):
        if file.kind == "volume":
            data, found = read_itk(file.path)
            np.testing.assert_allclose(found, affine, atol=1e-9)
            np.testing.assert_array_equal(data, real(one))


@pytest.mark.slow
@settings(max_examples=60)
@given(one=volumes(), compress=st.booleans(), has_place=st.booleans())
def test_the_header_of_a_metaimage_and_of_a_nrrd_is_the_one_that_simpleitk_writes_of_the_whole_image(
    one: Volume, compress: bool, has_place: bool
) -> None:
    placed = one if has_place else replace(one, affine_lps=None)
    with TemporaryDirectory() as folder:
        options = WriteOptions(formats=("mhd", "nrrd"), compress=compress, thumbnails=False)
        for file in write_volume(placed, Path(folder), "volume", options):
            again = file.path.with_stem("again")
            image = sitk.ReadImage(file.path)
            if file.format == "nrrd" and image.HasMetaDataKey("NRRD_kinds[pixel]") and not one.colour:
                continue  # SimpleITK would write times as the first axis
            for key in image.GetMetaDataKeys():  # what the reader noted would be written as fields
                if key not in ("NRRD_space", "NRRD_kinds[3]"):
                    image.EraseMetaData(key)
            sitk.WriteImage(image, again, useCompression=compress)
            # Of this file and not of the grid, or rounded in the last digit when they were read.
            own_lines = (b"CompressedData", b"ElementDataFile", b"space directions")
            ours, theirs = (
                [line for line in head.splitlines() if not line.startswith(own_lines)]
                for head in (path.read_bytes().partition(b"\n\n")[0] for path in (file.path, again))
            )
            assert ours == theirs
            again.unlink()


@pytest.mark.slow
@settings(max_examples=60)
@given(one=volumes())
def test_a_qform_that_is_kept_puts_no_corner_off_by_more_than_a_tenth_of_a_voxel(one: Volume) -> None:
    with TemporaryDirectory() as folder:
        [file] = write_volume(one, Path(folder), "volume", WriteOptions(formats=("nifti",), thumbnails=False))
        head = nib.load(file.path).header
        assert int(head["sform_code"]) == 1
        off = (head.get_qform() - LPS_TO_RAS @ one.affine_lps) @ corners(one)
        held = np.linalg.norm(off[:3], axis=0).max() <= 0.1 * min(one.spacing_mm) + TOLERANCE_MM
        assert bool(head["qform_code"]) == held


def test_a_qform_holds_an_oblique_volume_and_not_a_sheared_one(tmp_path: Path) -> None:
    upright = volume()
    sheared = upright.affine_lps + np.array([[0, 0, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    options = WriteOptions(formats=("nifti",), thumbnails=False)
    files = [
        *write_volume(upright, tmp_path, "upright", options),
        *write_volume(replace(upright, affine_lps=sheared), tmp_path, "sheared", options),
    ]
    assert [int(nib.load(file.path).header["qform_code"]) for file in files] == [1, 0]


def test_without_a_place_in_the_patient_both_codes_are_zero_and_the_voxel_size_is_kept(tmp_path: Path) -> None:
    one = replace(
        volume(np.zeros((2, 1, 4, 5), np.uint8)), affine_lps=None, spacing_mm=(0.5, 0.25, 1.0), time_step_s=0.04
    )
    nifti, mhd = write_volume(one, tmp_path, "volume", WriteOptions(thumbnails=False))
    head = nib.load(nifti.path).header
    assert (int(head["qform_code"]), int(head["sform_code"])) == (0, 0)
    assert head.get_zooms() == pytest.approx((0.5, 0.25, 1.0, 0.04))
    assert head.get_xyzt_units() == ("mm", "sec")
    assert sitk.ReadImage(mhd.path).GetSpacing() == pytest.approx((0.5, 0.25, 1.0, 0.04))


def test_one_slice_without_a_place_is_a_two_dimensional_metaimage(tmp_path: Path) -> None:
    one = replace(volume(np.arange(60, dtype=np.uint8).reshape(1, 1, 4, 5, 3)), affine_lps=None)
    _, mhd = write_volume(one, tmp_path, "volume", WriteOptions(thumbnails=False))
    image = sitk.ReadImage(mhd.path)
    assert (image.GetSize(), image.GetNumberOfComponentsPerPixel()) == ((5, 4), 3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), one.voxels[0, 0])


def test_raw_integers_go_into_nifti_with_their_scaling_and_real_ones_into_metaimage(tmp_path: Path) -> None:
    image = volume(np.array([0, 1024, 4095], np.uint16).reshape(1, 1, 1, 3), slope=1.0, intercept=-1024.0)
    nifti, mhd = write_volume(image, tmp_path, "volume", WriteOptions(thumbnails=False))
    proxy = nib.load(nifti.path).dataobj
    assert (proxy.slope, proxy.inter) == (1, -1024)
    assert proxy.get_unscaled().dtype == np.uint16
    assert proxy.get_unscaled().ravel().tolist() == [0, 1024, 4095]
    data = sitk.GetArrayFromImage(sitk.ReadImage(mhd.path))
    assert data.dtype == np.int16
    assert data.ravel().tolist() == [-1024, 0, 3071]


def test_a_dimension_beyond_int16_makes_a_nifti_2(tmp_path: Path) -> None:
    one = volume(np.zeros((1, 1, 1, 40000), np.uint8))
    options = WriteOptions(formats=("nifti", "analyze"), thumbnails=False)
    [file] = write_volume(one, tmp_path, "volume", options)  # Analyze, which has nothing larger, is left out
    image = nib.load(file.path)
    assert isinstance(image, nib.Nifti2Image)
    assert image.shape == (40000, 1, 1)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -16777217.0), (1e-50, 0.0), (1e-8, 0.1)])
def test_a_scaling_that_float32_would_spoil_makes_a_nifti_2(tmp_path: Path, slope: float, intercept: float) -> None:
    image = volume(slope=slope, intercept=intercept)
    nifti, mhd = write_volume(image, tmp_path, "volume", WriteOptions(thumbnails=False))
    np.testing.assert_array_equal(np.asarray(nib.load(nifti.path).dataobj), real(image))
    np.testing.assert_array_equal(read_itk(mhd.path)[0], real(image))


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [
        (1.0, 0.0, "int16"),
        (1.0, 32708.0, "int16"),
        (1.0, 32709.0, "int32"),
        (-1.0, -32709.0, "int16"),
        (-1.0, -32710.0, "int32"),
        (0.5, 0.0, "float32"),
        (1.0, 1e10, "float64"),
        (1e-8, 0.1, "float64"),
        (1e-35, 0.0, "float32"),
        (1e-38, 0.0, "float64"),  # the smallest steps are no normal numbers
    ],
)
def test_real_values_have_the_smallest_type_that_holds_them(slope: float, intercept: float, dtype: str) -> None:
    assert real_dtype(volume(slope=slope, intercept=intercept)).name == dtype  # voxels from 0 to 59


def test_big_endian_voxels_are_written_as_their_values(tmp_path: Path) -> None:
    image = volume(np.arange(60, dtype=">i2").reshape(1, 3, 4, 5))
    nifti, mhd = write_volume(image, tmp_path, "volume", WriteOptions(thumbnails=False))
    np.testing.assert_array_equal(read_nifti(nifti.path)[0], real(image))
    np.testing.assert_array_equal(read_itk(mhd.path)[0], real(image))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "uint32", "float64"])
def test_analyze_promotes_what_it_cannot_hold_and_turns_as_readers_assume(tmp_path: Path, dtype: str) -> None:
    one = volume(np.arange(60).reshape(1, 3, 4, 5).astype(dtype), slope=1.0, intercept=-10.0)
    [file] = write_volume(one, tmp_path, "volume", WriteOptions(formats=("analyze",), thumbnails=False))
    image = nib.AnalyzeImage.load(file.path)
    # columns run to the patient's left already, as Analyze has it; rows run to posterior and have to be turned
    np.testing.assert_array_equal(np.asarray(image.dataobj), real(one)[:, ::-1])
    assert image.header.get_zooms() == (2, 3, 4)


def test_analyze_lays_a_sagittal_stack_on_the_axes_of_the_patient(tmp_path: Path) -> None:
    affine = np.array(
        [[0, 0, -4, 0], [2, 0, 0, 0], [0, -3, 0, 0], [0, 0, 0, 1.0]]
    )  # columns to P, rows to I, slices to R
    one = volume(affine_lps=affine)
    [file] = write_volume(one, tmp_path, "volume", WriteOptions(formats=("analyze",), thumbnails=False))
    image = nib.AnalyzeImage.load(file.path)
    expected = real(one).transpose(2, 0, 1)[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
    assert image.header.get_zooms() == (4, 2, 3)


def test_npz_needs_no_pickle_and_tells_place_and_scaling(tmp_path: Path) -> None:
    image = volume(intercept=-5.0, attributes={"SeriesInstanceUID": "1.2.3"})
    [file] = write_volume(image, tmp_path, "volume", WriteOptions(formats=("npz",), thumbnails=False))
    with np.load(file.path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["data"], image.voxels[0])
        np.testing.assert_array_equal(arrays["affine"], LPS_TO_RAS @ image.affine_lps)
        assert (arrays["slope"], arrays["intercept"], str(arrays["series_uid"])) == (1, -5, "1.2.3")


def test_an_intercept_does_not_round_floats() -> None:
    one = volume(np.array([0.001, 0.002], np.float32).reshape(1, 1, 1, 2), intercept=1e6)
    assert real_dtype(one) == np.float64
