"""Compressed files: readers that others wrote read them, and bytes that two formats share are compressed once."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from node.extensions.backup.proof import unpacked
from node.volume.model import Volume
from node.writers import base
from node.writers.base import GZIP, ZLIB, NewFile, real_dtype, real_slabs, stored_slabs, write_packed
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests.volumes import volume

BOTH = WriteOptions(formats=("nifti", "mhd"), thumbnails=False)


def noise(dtype: str, *shape: int) -> np.ndarray:
    """Voxels of more than one piece, whose last piece is an odd part of one."""
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


VOLUMES = {
    "int16": lambda: volume(noise("<i2", 1, 7, 301, 299)),
    "big endian": lambda: volume(noise(">i2", 1, 7, 301, 299)),
    "colour": lambda: volume(noise("u1", 1, 5, 311, 307, 3)),
    "float32": lambda: volume(noise("<f4", 1, 3, 301, 299)),
    "times": lambda: volume(noise("<u2", 3, 5, 201, 199), time_step_s=2.0),
    "one voxel": lambda: volume(noise("<i2", 1, 1, 1, 1)),
    "Hounsfield units": lambda: volume(noise("<u2", 1, 7, 301, 299), intercept=-1024.0),
    "quantities": lambda: volume(noise("<u2", 1, 7, 301, 299), slope=0.25),
}
SHARED = {name for name in VOLUMES if name not in ("Hounsfield units", "quantities")}


def written(one: Volume, folder: Path, options: WriteOptions = BOTH) -> tuple[Path, Path, Path]:
    """Return the ``.nii.gz``, the ``.mhd`` and the ``.zraw``."""
    folder.mkdir(exist_ok=True)
    nifti, mhd = sorted(write_volume(one, folder, "volume", options), key=lambda file: file.format != "nifti")
    return nifti.path, mhd.path, mhd.companions[0]


@pytest.mark.sample(5)
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("name", VOLUMES)
def test_both_files_hold_the_voxels_in_one_stream_if_the_same(tmp_path: Path, name: str, extended: bool) -> None:
    one = VOLUMES[name]()
    options = WriteOptions(formats=("nifti", "mhd"), thumbnails=False, nifti_extension=extended)
    nifti, mhd, zraw = written(one, tmp_path, options)
    stored, real = b"".join(stored_slabs(one.voxels)), b"".join(real_slabs(one, real_dtype(one)))
    assert gzip.decompress(nifti.read_bytes()).endswith(stored)
    assert zlib.decompress(zraw.read_bytes()) == real
    assert (zraw.read_bytes()[2:-4] in nifti.read_bytes()) == (name in SHARED)

    colour = one.voxels.shape[4:]
    expected = np.asarray(one.voxels, np.float64) * one.slope + one.intercept
    image: Any = nib.load(nifti)
    data = np.asarray(image.dataobj)
    data = np.stack([data[channel] for channel in "RGB"], axis=-1) if colour else data
    axes = range(data.ndim - len(colour))
    found = data.transpose(*reversed(axes), *range(len(axes), data.ndim))
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(mhd)).reshape(expected.shape), expected)
    assert sitk.ReadImage(nifti).GetSize() == image.shape


@pytest.mark.parametrize("name", VOLUMES)
def test_the_bytes_depend_on_nothing_but_the_voxels(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [path.read_bytes() for path in written(VOLUMES[name](), tmp_path / "first")]
    monkeypatch.setattr(base, "MAX_THREADS", 1)
    assert [path.read_bytes() for path in written(VOLUMES[name](), tmp_path / "second")] == first


def test_a_nifti_beside_a_metaimage_is_the_one_that_is_written_alone(tmp_path: Path) -> None:
    beside, _, _ = written(VOLUMES["int16"](), tmp_path)
    alone = WriteOptions(formats=("nifti",), thumbnails=False)
    [file] = write_volume(VOLUMES["int16"](), tmp_path, "alone", alone)
    assert beside.read_bytes() == file.path.read_bytes()


@pytest.mark.parametrize("framing", [GZIP, ZLIB], ids=["gzip", "zlib"])
@pytest.mark.parametrize("pieces", [[], [b""], [b"a"], [b"a", b"", bytes(1 << 20), b"b"]])
def test_a_stream_of_any_pieces_can_be_read(tmp_path: Path, framing: Any, pieces: list[bytes]) -> None:
    path = tmp_path / "packed"
    with NewFile(path) as stream:
        write_packed(stream, pieces, framing)
    unpack = gzip.decompress if framing is GZIP else zlib.decompress
    assert unpack(path.read_bytes()) == b"".join(pieces)


def test_the_length_behind_a_gzip_stream_begins_again_after_4_gb() -> None:
    assert GZIP.tail(7, 2**32 + 5) == struct.pack("<II", 7, 5)
    assert GZIP.tail(2**32 - 1, 2**32) == struct.pack("<II", 2**32 - 1, 0)


@pytest.mark.parametrize("stored", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u4"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (2.0, 0.0), (-3.0, 7.0), (1.0, 40000.0)])
def test_whole_real_values_are_exact(stored: str, slope: float, intercept: float) -> None:
    values = [0, 1, 100, 101] + ([-100, -128] if np.dtype(stored).kind == "i" else [])
    one = volume(np.array(values, stored).reshape(1, 1, 1, -1), slope=slope, intercept=intercept)
    dtype = real_dtype(one)
    real = np.frombuffer(b"".join(real_slabs(one, dtype)), dtype.newbyteorder("<"))
    assert real.tolist() == [value * slope + intercept for value in values]


@pytest.mark.parametrize("file_format", ["nifti", "mhd", "nrrd"])
def test_files_are_the_same_whoever_packed_them_unless_header_or_voxels_differ(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = WriteOptions(formats=(file_format,), thumbnails=False)

    def made(one: Volume, name: str) -> Path:
        (tmp_path / name).mkdir()
        return write_volume(one, tmp_path / name, "volume", options)[0].path

    first = made(volume(noise("<i2", 1, 7, 301, 299)), "first")
    voxels = noise("<i2", 1, 7, 301, 299)
    voxels[0, 3, 2, 1] += 1
    others = {
        (True, False): made(volume(voxels), "other voxels"),
        (False, True): made(volume(noise("<i2", 1, 7, 301, 299), affine_lps=np.diag([1.0, 2.0, 3.0, 1.0])), "moved"),
    }
    monkeypatch.setattr(base, "COMPRESSION_LEVEL", 0)
    others[True, True] = made(volume(noise("<i2", 1, 7, 301, 299)), "packed otherwise")
    assert first.read_bytes() != others[True, True].read_bytes()
    for same, path in others.items():
        assert tuple(one == other for one, other in zip(unpacked(first), unpacked(path), strict=True)) == same
    whole = (first.with_suffix(".zraw") if file_format == "mhd" else first).read_bytes()
    (first.with_suffix(".zraw") if file_format == "mhd" else first).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="it is damaged"):
        unpacked(first)
