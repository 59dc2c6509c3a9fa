"""The set of files of one volume: names, records, determinism, sidecar, no patient data."""

import errno
import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.analyze import AnalyzeImage
from PIL import Image

from node.settings.section import VolumeFormat
from node.volume.assemble import assemble
from node.volume.describe.sidecar_fields import describe
from node.volume.model import Diffusion, Geometry, Source, VolumeKind
from node.volume.reasons import VolumeWarning, WarningKind
from node.writers.base import NewFile, WrittenFile, stem_of
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests import make
from tests.volumes import EVERYTHING, unpacked, volume


def ct_of_a_ball() -> np.ndarray:
    """A ball of water with a bubble in it above a thin table, as uint16 with an intercept of -1024."""
    z, y, x = np.mgrid[-10:10, -20:30, -20:20]
    hounsfield = np.full(z.shape, -1000)
    hounsfield[np.hypot(np.hypot(x, y), z) < 15] = 30
    hounsfield[np.hypot(np.hypot(x, y), z) < 5] = -900
    hounsfield[:, 45:47] = 100
    return (hounsfield + 1024).astype(np.uint16)[None]


@pytest.mark.parametrize(
    ("suffix", "kind", "stem"),
    [
        ("", VolumeKind.VOLUME, "volume"),
        ("e2", VolumeKind.VOLUME, "volume_e2"),
        ("e1-ph", VolumeKind.VOLUME, "volume_e1_ph"),
        ("", VolumeKind.RESAMPLED, "volume_resampled"),
        ("i1", VolumeKind.RESAMPLED, "volume_i1_resampled"),
    ],
)
def test_a_stem_tells_suffix_and_kind(suffix: str, kind: VolumeKind, stem: str) -> None:
    assert stem_of(volume(suffix=suffix, kind=kind)) == stem


@pytest.mark.slow
def test_the_record_of_a_file_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    files = write_volume(volume(ct_of_a_ball(), modality="CT", intercept=-1024.0), tmp_path, "volume", EVERYTHING)
    listed = {file.path for file in files} | {path for file in files for path in file.companions}
    assert listed == set(tmp_path.iterdir())
    for file in files:
        content = file.path.read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    kinds = {"volume", "thumbnail", "preview", "projection", "montage", "mask", "masked", "contours"}
    assert {file.kind for file in files} == kinds


def read_back(file: WrittenFile) -> tuple[tuple[int, ...], tuple[float, ...], str]:
    """Shape, spacing and type of what readers that others wrote find in a file."""
    match file.format:
        case "nifti" | "nifti-pair" | "analyze":
            head = (AnalyzeImage if file.format == "analyze" else nib).load(file.path).header
            return head.get_data_shape(), head.get_zooms()[:3], head.get_data_dtype().name
        case "npz":
            with np.load(file.path) as arrays:
                return arrays["data"].T.shape, tuple(arrays["spacing"]), arrays["data"].dtype.name
        case "nrrd" if file.grid.shape[3:]:  # SimpleITK takes times for components
            image = sitk.ReadImage(file.path)
            times = image.GetNumberOfComponentsPerPixel()
            return (*image.GetSize(), times), image.GetSpacing(), sitk.GetArrayFromImage(image).dtype.name
        case "mhd" | "nrrd":
            image = sitk.ReadImage(file.path)
            return image.GetSize(), image.GetSpacing()[:3], sitk.GetArrayFromImage(image).dtype.name
        case _:
            with Image.open(file.path) as picture:
                return picture.size, (), "uint8"


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_the_record_of_a_file_tells_what_a_reader_finds_in_it(tmp_path: Path, times: int) -> None:
    voxels = ct_of_a_ball().repeat(times, axis=0)
    sagittal = np.array([[0, 0, 3, 0], [1, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1.0]])
    image = volume(voxels, sagittal, modality="CT", intercept=-1024.5)
    for file in write_volume(image, tmp_path, "volume", replace(EVERYTHING, body_contours=False)):
        shape, spacing, dtype = read_back(file)
        assert (file.grid.shape, file.grid.dtype) == (shape, dtype), file
        assert file.grid.spacing_mm == pytest.approx(spacing), file


def test_one_slice_without_a_place_is_flat_in_a_metaimage_and_in_its_record(tmp_path: Path) -> None:
    image = replace(volume(np.zeros((1, 1, 4, 5), np.uint8)), affine_lps=None, geometry=Geometry.NONE)
    [file] = write_volume(image, tmp_path, "volume", WriteOptions(formats=("mhd",), thumbnails=False))
    assert (file.grid.shape, file.grid.dtype) == read_back(file)[::2] == ((5, 4), "uint8")


def test_an_analyze_header_is_one_that_readers_of_version_7_5_accept(tmp_path: Path) -> None:
    [file] = write_volume(volume(), tmp_path, "volume", WriteOptions(formats=("analyze",), thumbnails=False))
    head = file.path.read_bytes()
    assert len(head) == 348
    assert int.from_bytes(head[32:36], "little") == 16384  # extents
    assert head[38:39] == b"r"  # regular


@pytest.mark.slow
def test_the_same_volume_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    image = volume(ct_of_a_ball(), modality="CT", intercept=-1024.0)
    digests = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        write_volume(image, folder, "volume", EVERYTHING)
        digests.append({path.name: hashlib.sha256(unpacked(path)).hexdigest() for path in folder.iterdir()})
    assert digests[0] == digests[1]


def test_a_compressed_nifti_carries_neither_time_nor_name(tmp_path: Path) -> None:
    [file] = write_volume(volume(), tmp_path, "volume", WriteOptions(formats=("nifti",), thumbnails=False))
    head = file.path.read_bytes()[:10]
    assert head[3] == 0  # no optional fields: no name
    assert head[4:8] == bytes(4)  # no time
    assert gzip.decompress(file.path.read_bytes())[:4] == (348).to_bytes(4, "little")


@pytest.mark.parametrize("file_format", ["nifti", "mhd", "nrrd", "npz", "analyze", "nifti-pair"])
def test_a_full_disk_is_an_error_and_never_a_short_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: VolumeFormat
) -> None:
    room = [100_000]

    def write(self: NewFile, data: bytes) -> int:
        room[0] -= memoryview(data).nbytes
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return memoryview(data).nbytes

    monkeypatch.setattr(NewFile, "write", write)
    noise = np.random.default_rng(3).integers(0, 65536, (1, 20, 200, 200), dtype=np.uint16)
    with pytest.raises(OSError, match="No space left"):
        write_volume(volume(noise), tmp_path, "volume", WriteOptions(formats=(file_format,), thumbnails=False))


def test_two_volumes_with_one_name_are_an_error_and_the_first_stays(tmp_path: Path) -> None:
    options = WriteOptions(thumbnails=False)
    [first, _] = write_volume(volume(), tmp_path, "volume", options)
    with pytest.raises(FileExistsError):
        write_volume(volume(slope=2.0), tmp_path, "volume", options)
    assert hashlib.sha256(first.path.read_bytes()).hexdigest() == first.sha256


def test_the_sidecar_maps_instances_to_slices_and_carries_the_warnings(tmp_path: Path) -> None:
    sources = (Source("1.2.3", 1, 0, 0), Source("1.2.3", 2, 1, 0), Source("1.2.4", 1, 2, 0))
    image = volume(
        sources=sources,
        warnings=(VolumeWarning(WarningKind.MISSING_SLICE, "a gap of 2 slices after slice 3"),),
        geometry=Geometry.IRREGULAR,
        attributes={"SeriesInstanceUID": "1.2", "RepetitionTime": 2.5},
    )
    files = write_volume(image, tmp_path, "volume", WriteOptions(formats=("nifti", "analyze"), thumbnails=False))
    sidecar = json.loads((tmp_path / "volume.json").read_text("utf-8"))
    assert all(tmp_path / "volume.json" in file.companions for file in files)
    assert sidecar["SeriesInstanceUID"] == "1.2"
    assert sidecar["RepetitionTime"] == 2.5
    assert sidecar["sources"] == {"1.2.3": [[1, 0, 0], [2, 1, 0]], "1.2.4": [[1, 2, 0]]}
    assert sidecar["warnings"] == [{"name": "missing-slice", "detail": "a gap of 2 slices after slice 3"}]
    assert sidecar["geometry"] == "irregular"
    assert "affine" in sidecar["formats"]["analyze"]


def test_slice_timing_stays_with_the_slices_that_it_is_about(tmp_path: Path) -> None:
    image = volume(attributes={"SliceTiming": [0.0, 1.0, 0.5]})
    options = WriteOptions(formats=("nifti",), thumbnails=False)
    write_volume(image, tmp_path, "volume", options)
    write_volume(replace(image, kind=VolumeKind.RESAMPLED), tmp_path, "volume_resampled", options)
    assert json.loads((tmp_path / "volume.json").read_text())["SliceTiming"] == [0.0, 1.0, 0.5]
    assert "SliceTiming" not in json.loads((tmp_path / "volume_resampled.json").read_text())


@pytest.mark.parametrize(("gap_mm", "is_copied"), [(2.5, True), (200.0, False)])
def test_a_sidecar_sends_nobody_to_a_copy_that_is_not_written(tmp_path: Path, gap_mm: float, is_copied: bool) -> None:
    series = make.ct_series(4, spacing=2.5)
    for ds in series[1:]:
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], ds.ImagePositionPatient[2] + gap_mm]
    volumes = assemble(series).volumes
    assert [one.kind for one in volumes] == [VolumeKind.VOLUME, VolumeKind.RESAMPLED][: 1 + is_copied]
    assert (WarningKind.NOT_RESAMPLED in {warning.name for warning in volumes[0].warnings}) != is_copied
    write_volume(volumes[0], tmp_path, "volume", WriteOptions(formats=("nifti",), thumbnails=False))
    [note] = json.loads((tmp_path / "volume.json").read_text())["formats"].values()
    assert ("volume_resampled has each" in note, "no file has each" in note) == (is_copied, not is_copied)


def test_no_file_holds_a_word_that_people_typed(tmp_path: Path) -> None:
    typed = ("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "ProtocolName", "InstitutionName")
    ds = make.mr_series(1, **{keyword: f"Secret{keyword}" for keyword in typed}, ManufacturerModelName="Model")[0]
    image = volume(ct_of_a_ball(), modality="MR", attributes=describe(ds, []))
    options = replace(EVERYTHING, compress=False)
    files = write_volume(image, tmp_path, stem_of(image), options)
    assert json.loads((tmp_path / "volume.json").read_text())["ManufacturersModelName"] == "Model"
    for path in {file.path for file in files} | {path for file in files for path in file.companions}:
        assert b"secret" not in path.read_bytes().lower()
        assert "secret" not in path.name.lower()


def test_a_gradient_table_lies_along_the_axes_of_the_image(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2, 0], [2, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1.0]])  # sagittal: columns to P, rows to I
    directions = [None, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])]
    image = volume(
        np.zeros((4, 3, 4, 5), np.int16),
        affine,
        diffusion=tuple(Diffusion(0 if each is None else 1000, each) for each in directions),
    )
    assert np.linalg.det(affine[:3, :3]) < 0  # so that FSL takes x as it is
    write_volume(image, tmp_path, "left", WriteOptions(formats=("nifti",), thumbnails=False))
    assert (tmp_path / "left.bval").read_text() == "0 1000 1000 1000\n"
    np.testing.assert_allclose(np.loadtxt(tmp_path / "left.bvec").T, [[0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 0, 1]])
    mirrored = affine @ np.diag([1, 1, -1, 1])
    write_volume(
        replace(image, affine_lps=mirrored), tmp_path, "right", WriteOptions(formats=("nifti",), thumbnails=False)
    )
    np.testing.assert_allclose(np.loadtxt(tmp_path / "right.bvec").T, [[0, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, -1]])


def test_a_gradient_table_lies_beside_every_format(tmp_path: Path) -> None:
    diffusion = (Diffusion(0), Diffusion(1000, np.array([1.0, 0.0, 0.0])))
    image = volume(np.zeros((2, 3, 4, 5), np.int16), diffusion=diffusion)
    files = write_volume(
        image, tmp_path, "volume", WriteOptions(formats=("nifti", "nifti-pair", "mhd"), thumbnails=False)
    )
    table = {tmp_path / "volume.bval", tmp_path / "volume.bvec"}
    assert all(table <= set(file.companions) for file in files)


def test_without_known_directions_there_is_no_bvec(tmp_path: Path) -> None:
    image = volume(np.zeros((2, 3, 4, 5), np.int16), diffusion=(Diffusion(0), Diffusion(1000)))
    [file] = write_volume(image, tmp_path, "volume", WriteOptions(formats=("nifti",), thumbnails=False))
    assert [path.name for path in file.companions] == ["volume.bval", "volume.json"]


def test_a_body_mask_takes_the_patient_with_the_air_inside_and_not_the_table(tmp_path: Path) -> None:
    image = volume(ct_of_a_ball(), modality="CT", intercept=-1024.0)
    options = WriteOptions(formats=("npz",), thumbnails=False, body_masks=True, masked_volumes=True)
    files = write_volume(image, tmp_path, "volume", options)
    with np.load(files[1].path) as arrays:
        mask = arrays["data"]
    with np.load(files[2].path) as arrays:
        assert np.array_equal(arrays["data"], np.where(mask, image.voxels[0], 24))  # air: -1000 HU
        assert (arrays["slope"], arrays["intercept"]) == (1, -1024)
    z, y, x = np.mgrid[-10:10, -20:30, -20:20]
    ball = np.hypot(np.hypot(x, y), z) < 15
    assert [file.path.name for file in files[1:]] == ["volume_mask.npz", "volume_masked.npz"]
    assert not mask[:, 45:47].any()
    assert (mask[ball]).mean() > 0.97
    assert mask[10, 20, 20] == 1  # the bubble
    assert not mask[~ball].any()
    masked = write_volume(image, tmp_path, "alone", replace(options, thumbnails=True, body_masks=False))
    assert [file.kind for file in masked] == ["volume", "thumbnail", "masked"]
    assert [file.path.name for file in masked] == ["alone.npz", "alone_thumbnail.png", "alone_masked.npz"]
    assert masked[2].sha256 == files[2].sha256, "whether the mask itself is written or not"


def test_pictures_are_switched_one_by_one(tmp_path: Path) -> None:
    image = volume(np.zeros((1, 6, 20, 30), np.int16))
    options = WriteOptions(formats=("nifti",), thumbnails=False, projections=True)
    names = {file.path.name for file in write_volume(image, tmp_path, "volume", options)}
    planes = ("axial", "coronal", "sagittal")
    assert names == {"volume.nii.gz", *(f"volume_{kind}_{plane}.png" for kind in ("mip", "minip") for plane in planes)}


def test_a_sheared_volume_leaves_planes_across_the_stack_to_the_upright_one_beside_it(tmp_path: Path) -> None:
    image = volume(np.zeros((1, 6, 20, 30), np.int16), geometry=Geometry.SHEARED)
    options = WriteOptions(formats=("nifti",), previews=True, projections=True, montages=True)
    files = write_volume(image, tmp_path, "volume", options)
    assert [file.kind for file in files] == ["volume", "thumbnail", "montage"]


def test_the_times_of_a_single_slice_are_numbered_pictures_and_no_montage(tmp_path: Path) -> None:
    image = volume(np.zeros((12, 1, 20, 30), np.int16))
    options = WriteOptions(formats=("nifti",), thumbnails=False, montages=True, slices=True)
    names = [file.path.name for file in write_volume(image, tmp_path, "volume", options)]
    assert names == ["volume.nii.gz", *(f"volume_slice{number:02}.png" for number in range(1, 13))]


def test_a_picture_has_the_proportions_of_the_patient(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, 5.0, 1.0])
    image = volume(np.zeros((1, 3, 100, 400), np.int16), affine)
    [_, file] = write_volume(image, tmp_path, "volume", WriteOptions(formats=("nifti",)))
    with Image.open(file.path) as picture:
        assert picture.size == (256, 128)  # 400 mm by 200 mm


def test_what_formats_cannot_hold_is_in_one_order_in_every_process(tmp_path: Path) -> None:
    write_volume(volume(slope=2.0), tmp_path, "volume", WriteOptions(formats=("nifti", "nrrd", "mhd", "analyze")))
    assert list(json.loads((tmp_path / "volume.json").read_text())["formats"]) == ["analyze", "mhd", "nrrd"]
