"""`node.open` and `node.convert`: a program sees what became of every series."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import openpyxl
import pytest
from PIL import Image

import node
from node import registry
from node.api import UsageError, read_voxels, write_voxels
from node.cli import close_converters
from node.cli.application import main
from node.conversion.offline import convert_folder
from node.index.rows.backend import IndexUnusable
from node.volume.derived import masked, montage, project, threshold, viewed
from node.writers.options import WriteOptions
from tests import make
from tests.converting import convert_series, convert_with_all, here
from tests.integration.conftest import Root

ROOT = Path(__file__).parents[2]


def test_a_program_sees_patients_series_volumes_and_what_was_excluded(root: Root) -> None:
    instances = [*make.duplicate_series(5), make.structured_report()]
    instances[-1].StudyInstanceUID = instances[0].StudyInstanceUID
    instances[-1].SeriesInstanceUID = instances[0].SeriesInstanceUID
    root.take_all(instances)
    claimed = root.claim()
    options = WriteOptions(formats=("mhd", "nifti"), body_masks=True, slices=True)
    assert convert_series(claimed, root.archive, root.index, options, convert_with_all, root.clock)
    place = root.index.place
    opened = node.open(root.folder, {} if isinstance(place, Path) else {"index.url": place.url})
    [patient] = opened.patients()
    [study] = patient.studies()
    [series] = study.series()
    assert (series.uid, series.study_uid) == (instances[0].SeriesInstanceUID, instances[0].StudyInstanceUID)
    assert series.verdict == "complete"
    assert {"mask", "slice"} < {row["kind"] for row in series.files()}
    [volume] = series.volumes()
    assert volume.path.name.endswith(".nii.gz")
    there = nib.load(volume.path)
    assert np.array_equal(volume.array(), there.get_fdata())
    assert np.allclose(volume.affine_ras, there.affine)
    assert np.allclose(volume.affine_lps, volume.row["affine_lps"])
    assert volume.sidecar["Modality"] == "CT"
    used = {row["sop_instance_uid"] for row in volume.provenance["instances"]}
    excluded = {row["sop_instance_uid"] for row in series.exclusions}
    assert used | excluded == {ds.SOPInstanceUID for ds in instances}
    assert [row["path"] for row in opened.catalog()] == [str(volume.path)]
    metaimage, affine = read_voxels(volume.path.with_name(volume.path.name.replace(".nii.gz", ".mhd")))
    assert np.array_equal(metaimage, volume.array())
    assert np.allclose(affine, volume.affine_lps, atol=1e-4)
    for where, selected in (('modality == "CT" and slices > 1', True), ('modality == "MR"', False)):
        assert bool(opened.series(where=where)) == bool(opened.catalog(where)) == selected
    with pytest.raises(UsageError, match='unknown field "slicse", did you mean "slices"'):
        opened.catalog("slicse > 1")
    volume.path.write_bytes(volume.path.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read as a volume"):
        volume.array()


def test_a_saved_volume_has_what_belongs_to_it_and_replaces_no_other(tmp_path: Path) -> None:
    make.saved(make.ct_series(3), tmp_path / "scans")
    opened = node.convert(tmp_path / "scans", tmp_path / "volumes", formats=("mhd",))
    [volume] = [volume for series in opened.series() for volume in series.volumes()]
    saved = volume.save(tmp_path / "copies")
    assert saved == volume.save(tmp_path / "copies")
    assert {path.suffix for path in saved.parent.iterdir()} == {".mhd", ".zraw", ".json"}
    assert np.array_equal(read_voxels(saved)[0], volume.array())
    saved.write_bytes(b"the volume of another series")
    with pytest.raises(FileExistsError, match="is another volume: give each volume a folder of its own"):
        volume.save(tmp_path / "copies")
    assert saved.read_bytes() == b"the volume of another series"


def test_a_volume_of_uneven_slices_gives_its_resampled_copy(root: Root) -> None:
    root.take_all(make.gap_series(6))
    claimed = root.claim()
    options = WriteOptions(formats=("mhd", "nifti"), thumbnails=True)
    assert convert_series(claimed, root.archive, root.index, options, convert_with_all, root.clock)
    place = root.index.place
    opened = node.open(root.folder, {} if isinstance(place, Path) else {"index.url": place.url})
    [volume] = opened.series()[0].volumes()
    assert (volume.geometry, volume.array().shape[2]) == ("irregular", 5)
    assert (volume.resampled.geometry, volume.resampled.array().shape[2]) == ("regular", 6)
    assert volume.resampled.sidecar["interpolated_slices"] == [4]
    assert [row["path"] for row in opened.catalog()] == [str(volume.path)]


@pytest.mark.sqlite("a folder has no index")
def test_a_folder_of_conversions_has_a_row_in_the_catalog_for_each_volume(tmp_path: Path) -> None:
    nameless = make.ct_series(2)
    for ds in nameless:
        del ds.SeriesInstanceUID
    again = [make.ct_series(2, series_uid="1.2.3") for _ in range(2)]
    make.saved([*make.gap_series(6), *make.ct_series(3), *nameless, *again[0], *again[1]], tmp_path / "in")
    options = WriteOptions(formats=("mhd", "nifti", "analyze"), thumbnails=True)
    convert_folder([tmp_path / "in"], tmp_path / "out", options, here)
    opened = node.open(tmp_path / "out")
    assert [(row["kind"], row["format"]) for row in opened.catalog()] == [("volume", "nifti")] * 6
    [uneven] = [volume for series in opened.series() for volume in series.volumes() if volume.geometry == "irregular"]
    assert uneven.resampled.path == uneven.path.with_name(uneven.path.name.replace(".nii.gz", "_resampled.nii.gz"))
    convert_folder([tmp_path / "in"], tmp_path / "npz", WriteOptions(formats=("npz",)), here)
    assert [row["format"] for row in node.open(tmp_path / "npz").catalog()] == ["npz"] * 6


@pytest.mark.sqlite("the answer names the file")
def test_a_folder_of_conversions_knows_no_selectors(tmp_path: Path) -> None:
    (tmp_path / "conversion.json").write_text('{"volumes": [], "series": []}')
    assert node.open(tmp_path).catalog() == []
    with pytest.raises(UsageError, match="selects series of a node"):
        node.open(tmp_path).catalog('modality == "CT"')


@pytest.mark.sqlite("a database server has rows also where the files are not")
def test_a_folder_with_neither_an_index_nor_volumes_is_refused_with_what_reads_files(tmp_path: Path) -> None:
    make.saved(make.ct_series(1), tmp_path)
    [file] = tmp_path.iterdir()
    for path in (tmp_path, file):
        with pytest.raises(IndexUnusable, match=r"is not the root of a node.*`node\.convert\(.*\)` reads DICOM files"):
            node.open(path)
    (tmp_path / "objects").mkdir()  # a root in which no node has started yet
    with pytest.raises(IndexUnusable, match="no index at"):
        node.open(tmp_path)


@pytest.mark.slow
def test_a_program_sees_which_files_were_skipped(tmp_path: Path) -> None:
    (text := tmp_path / "notes.txt").write_text("no DICOM")
    opened = node.convert(text, tmp_path / "out")
    assert (opened.series(), [row["name"] for row in opened.skipped()]) == ([], [str(text)])
    assert opened.skipped()[0]["reason"]


def test_frames_without_their_library_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conversion.json").write_text('{"volumes": []}')
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        node.open(tmp_path).to_pandas()


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"formats": ("nifty",)}, "convert.formats.0: 'nifty': must be 'nifti', "),
        ({"format": "nifti"}, 'convert.format: unknown key, did you mean "formats"?'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_a_usage_error_of_one_line(tmp_path: Path, options: dict[str, Any], reported: str) -> None:
    with pytest.raises(UsageError) as refused:
        node.convert(tmp_path, tmp_path / "out", **options)
    [line] = str(refused.value).splitlines()
    assert line.startswith(reported)
    assert isinstance(refused.value, node.VoxelnodeError)


def test_volumes_are_not_written_into_a_file(tmp_path: Path) -> None:
    (out := tmp_path / "out").touch()
    with pytest.raises(UsageError, match="out is not a folder"):
        node.convert(tmp_path, out)


def test_derived_arrays_are_of_the_whole_volume_and_lie_as_they_are_viewed(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag((1.0, -1.0, 2.0, 1.0))  # j runs to the anterior
    assert project(array, affine, "axial").tolist() == array.max(axis=2).T[::-1].tolist()
    assert project(array, affine, "axial", "minip").tolist() == array.min(axis=2).T[::-1].tolist()
    assert project(array, affine, "coronal").tolist() == array.max(axis=1).T[::-1].tolist()
    assert project(array, affine, "sagittal").tolist() == array.max(axis=0)[::-1].T[::-1].tolist()
    assert montage(array, affine, step=2, columns=2).shape == (3, 4)
    mask = threshold(array, 3, 20)
    assert mask.sum() == 18
    assert set(masked(array, mask, -1000).ravel().tolist()) == {-1000, *range(3, 21)}
    with pytest.raises(ValueError, match="int16 has no such value"):
        masked(array, mask, 0.5)
    with pytest.raises(ValueError, match="'oblique' is not a plane"):
        project(array, affine, "oblique")  # type: ignore[arg-type]
    assert {index for index, _ in list(node.contours(mask, affine))} == {0, 1, 2, 3}
    file = tmp_path / "mask.nii.gz"
    write_voxels(file, array, affine)
    again, of_file = read_voxels(file)
    assert np.array_equal(again, array)
    assert np.allclose(of_file, affine)
    with pytest.raises(ValueError, match="cannot be written as a volume"):
        write_voxels(tmp_path / "mask.txt", array, affine)


def test_the_commands_write_projections_and_masks(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 2)

    def status(*command: object) -> object:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in command])
        return ended.value.code

    volume = tmp_path / "volume.nii.gz"
    write_voxels(volume, array, np.diag((1.0, 1.0, 2.0, 1.0)))
    out = tmp_path / "out.nii.gz"
    assert status("volume", "project", volume, "-o", out, "--minimum") == 0
    assert np.array_equal(read_voxels(out)[0], array.min(axis=2, keepdims=True))
    assert status("volume", "mask", volume, "-o", out, "--above", "10") == 0
    assert np.array_equal(read_voxels(out)[0], array >= 10)
    assert status("volume", "mask", volume, "-o", out, "--above", "10", "--outside", "-1") == 0
    assert np.array_equal(read_voxels(out)[0], np.where(array >= 10, array, -1))
    assert status("volume", "mask", volume, "-o", out) == 2
    assert status("volume", "project", volume, "-o", tmp_path / "out.txt") == 2


def voxelnode(*command: object) -> object:
    try:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in command])
    finally:
        close_converters()
    return ended.value.code


def gradient(folder: Path) -> tuple[Path, Any, Any]:
    """A volume whose values say where they are: more to the left, to the back and to the head; j runs to the front."""
    i, j, k = np.meshgrid(np.arange(20), np.arange(30), np.arange(12), indexing="ij")
    array, affine = (i + 20 * (29 - j) + 600 * k).astype(np.int16), np.diag((1.0, -1.0, 2.5, 1.0))
    write_voxels(folder / "volume.nii.gz", array, affine)
    return folder / "volume.nii.gz", array, affine


@pytest.mark.parametrize(
    ("plane", "count", "size"), [("axial", 12, (20, 30)), ("coronal", 30, (20, 30)), ("sagittal", 20, (30, 30))]
)
def test_slices_of_every_plane_become_pictures_as_they_are_viewed(
    tmp_path: Path, plane: Any, count: int, size: tuple[int, int]
) -> None:
    volume, array, affine = gradient(tmp_path)
    out = tmp_path / plane
    assert voxelnode("volume", "slices", volume, "-o", out, "--plane", plane, "--window", 3600, 7200) == 0
    files = sorted(out.iterdir())
    assert len(files) == count
    for number, seen in enumerate(viewed(array, affine, plane)):
        picture = np.asarray(Image.open(files[number]))
        assert picture.shape == size[::-1], "square pixels"
        grey = np.clip(seen / 7200, 0, 1) * 255
        wanted = np.asarray(Image.fromarray(np.rint(grey).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS))
        assert np.abs(picture.astype(int) - wanted).max() <= 1, "32 bits round otherwise"
    assert voxelnode("volume", "slices", volume, "-o", tmp_path / "some", "--plane", plane, "--step", 5) == 0
    assert {file.name for file in (tmp_path / "some").iterdir()} < {file.name for file in files}


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def test_a_montage_has_the_step_and_the_grid_that_were_asked_for(tmp_path: Path) -> None:
    volume, _, _ = gradient(tmp_path)
    out = tmp_path / "montage.png"
    assert voxelnode("volume", "montage", volume, "-o", out, "--step", 3, "--columns", 2) == 0
    assert size_of(out) == (2 * (20 + 2), 2 * (30 + 2))
    assert voxelnode("volume", "montage", volume, "-o", out, "--step", 1, "--columns", 12) == 0
    assert size_of(out) == (12 * (20 + 2), 30 + 2)


def test_holes_of_a_mask_are_filled_and_then_it_is_opened_in_each_slice(tmp_path: Path) -> None:
    array = np.zeros((24, 24, 12), np.int16)
    array[4:18, 4:18, 2:10] = 100
    array[9:12, 9:12, 5:7] = 0  # a hole
    array[18:23, 10, 5] = 100  # a wire
    volume, out = tmp_path / "volume.nii.gz", tmp_path / "mask.nii.gz"
    write_voxels(volume, array, np.diag((1.0, 1.0, 2.0, 1.0)))

    def mask(*words: object) -> Any:
        assert voxelnode("volume", "mask", volume, "-o", out, "--above", 50, *words) == 0
        return read_voxels(out)[0]

    assert np.array_equal(mask(), array > 50)
    assert mask("--fill")[9:12, 9:12, 5:7].all()
    opened = mask("--open", 2)
    assert not opened[18:].any()
    assert not opened[10, 10, 5]
    assert opened[10, 10, 2], "a single slice is not thin"
    refined = mask("--open", 3, "--fill")
    assert refined[9:12, 9:12, 5:7].all()
    assert not refined[18:].any()
    for side in (1, 2, 3, 4):
        noise = np.random.default_rng(side).integers(0, 6, array.shape, np.int16)
        write_voxels(volume, 20 * noise, np.eye(4))
        squares = np.zeros(array.shape, np.uint8)
        for i, j, k in np.ndindex(24 - side + 1, 24 - side + 1, 12):
            square = np.s_[i : i + side, j : j + side, k]
            squares[square] |= (20 * noise[square] >= 50).all()
        assert np.array_equal(mask("--open", side), squares), "bit for bit"
    array[9:12, 9:12, :] = 0  # a tunnel, which is a hole in each slice
    write_voxels(volume, array, np.diag((1.0, 1.0, 2.0, 1.0)))
    assert mask("--fill")[9:12, 9:12, 2:10].all()
    assert voxelnode("volume", "mask", volume, "-o", out, "--above", 50, "--open", 0.5) == 2


TABLE = [("Slice", "left", "top", "width", "height", "label"), (3, 4, 6, 8, 10, ""), (7, 0, 0, 20, 30, "all")]


def write_table(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    if path.suffix == ".xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path)
    else:
        separator = ";" if path.stem == "german" else ","
        path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("name", ["table.csv", "german.csv", "table.xlsx"])
def test_rectangles_of_a_table_are_drawn_on_their_slices(tmp_path: Path, name: str) -> None:
    volume, _, _ = gradient(tmp_path)
    out = tmp_path / "out"
    table = write_table(tmp_path / name, TABLE)
    assert voxelnode("volume", "rectangles", volume, table, "-o", out, "--window", 3600, 7200) == 0
    assert sorted(file.name for file in out.iterdir()) == ["axial03.png", "axial07.png"]
    is_line = (np.asarray(Image.open(out / "axial03.png")) == (255, 220, 0)).all(2)
    larger = 512 // 30
    wanted = np.zeros((30 * larger, 20 * larger), bool)
    wanted[6 * larger : 16 * larger, 4 * larger : 12 * larger] = True
    wanted[6 * larger + 1 : 16 * larger - 1, 4 * larger + 1 : 12 * larger - 1] = False
    assert np.array_equal(is_line, wanted)


@pytest.mark.parametrize(
    ("row", "reported"),
    [
        ((3, 4, 6, 80, 10, ""), "row 2: the rectangle is not within the slice of 20 x 30 pixels"),
        ((99, 4, 6, 8, 10, ""), "row 2: there is no axial slice 99"),
        ((3, "x", 6, 8, 10, ""), "row 2: left is not a number"),
        ((3, 4, 6, 0, 10, ""), "row 2: width and height are more than 0"),
        ((2.5, 4, 6, 8, 10, ""), "row 2: slice is not a whole number"),
    ],
)
def test_a_table_with_a_mistake_is_refused_with_its_row_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Sequence[Any], reported: str
) -> None:
    volume, _, _ = gradient(tmp_path)
    table = write_table(tmp_path / "table.csv", [TABLE[0], row])
    assert voxelnode("volume", "rectangles", volume, table, "-o", tmp_path / "out") == 2
    assert reported in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_in_xlsx_without_its_library_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, _, _ = gradient(tmp_path)
    table = write_table(tmp_path / "table.xlsx", TABLE)
    monkeypatch.setitem(registry.EXTRA_MODULES, "excel", ("a_module_that_is_not_there",))  # type: ignore[arg-type]
    assert voxelnode("volume", "rectangles", volume, table, "-o", tmp_path / "out") == 2
    assert "voxelnode[excel]" in capsys.readouterr().err


def test_an_npz_has_a_volume_and_its_labels_on_one_grid(tmp_path: Path) -> None:
    volume, array, affine = gradient(tmp_path)
    (tmp_path / "volume.json").write_text('{"Modality": "CT", "SeriesInstanceUID": "1.2.3"}')
    labels = np.zeros(array.shape, np.uint8)
    labels[5:9, 10:15, 4:7], labels[2, 3, 5] = 1, 7
    part = labels[:, ::-1, 3:8]  # fewer slices, j runs to the back
    place = affine @ [[1, 0, 0, 0], [0, -1, 0, 29], [0, 0, 1, 3], [0, 0, 0, 1]]
    segmentation, region, out = (tmp_path / name for name in ("seg.nii.gz", "roi.nrrd", "out.npz"))
    write_voxels(segmentation, part, place)
    write_voxels(region, (labels == 7).astype(np.uint8), affine)
    (tmp_path / "seg.json").write_text('{"segments": [{"number": 1, "label": "Lung"}]}')
    assert voxelnode("volume", "npz", volume, segmentation, "-o", out) == 0
    with np.load(out) as found:
        assert np.array_equal(found["labels"], labels.T)
        assert np.array_equal(found["data"], array.T)
        assert np.allclose(found["affine"], np.diag((-1, -1, 1, 1)) @ affine)
        assert str(found["series_uid"]) == "1.2.3"
        assert json.loads(str(found["labels_json"])) == [{"segments": [{"number": 1, "label": "Lung"}]}]
    assert voxelnode("volume", "npz", volume, segmentation, region, "-o", out) == 0
    with np.load(out) as found:
        assert np.array_equal(found["labels"], [labels.T, (labels == 7).T])
    write_voxels(segmentation, part, place @ [[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert voxelnode("volume", "npz", volume, segmentation, "-o", out) == 2
    write_voxels(segmentation, part, affine @ [[1, 0, 0, 15], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]])
    assert voxelnode("volume", "npz", volume, segmentation, "-o", out) == 2


@pytest.mark.slow
def test_an_npz_says_which_interpolated_slices_lack_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hook's mask has no plane where its images have a gap, and nobody looked there."""
    series = make.ct_series(8, rows=16, columns=20)
    del series[4]
    make.saved(series, tmp_path / "scans")
    assert voxelnode("convert", tmp_path / "scans", "-o", tmp_path / "out", "--flat") == 0
    [even] = (tmp_path / "out").glob("*_resampled.nii.gz")
    uneven = even.with_name(even.name.replace("_resampled", ""))
    affine = read_voxels(even)[1]
    labels = np.ones((20, 16, 8), np.uint8)
    labels[:, :, 4] = 0
    mask, out = tmp_path / "mask.nii.gz", tmp_path / "out.npz"
    write_voxels(mask, labels, affine)
    (tmp_path / "mask.json").write_text('{"geometry": "regular"}')
    assert voxelnode("volume", "npz", even, mask, "-o", out) == 0
    assert "slice 5 has no label: its image was interpolated" in capsys.readouterr().err
    with np.load(out) as found:
        assert json.loads(str(found["labels_json"])) == [{"geometry": "regular", "unlabelled_slices": [4]}]
    for few in (labels, labels[:, :, 5:7], labels[:, :, :7]):  # their places are not those that the affine tells
        write_voxels(mask, few, affine)
        assert voxelnode("volume", "npz", uneven, mask, "-o", out) == 2
        assert "the slices of the volume are uneven" in capsys.readouterr().err
    (tmp_path / "mask.json").unlink()
    write_voxels(mask, labels, affine)
    assert voxelnode("volume", "npz", uneven, mask, "-o", out) == 2
    assert "they have 20 x 16 x 8 voxels, and the volume 20 x 16 x 7" in capsys.readouterr().err
    labels[:, :, 4] = 1
    write_voxels(mask, labels, affine)
    assert voxelnode("volume", "npz", even, mask, "-o", out) == 0
    assert "no label" not in capsys.readouterr().err


@pytest.mark.slow
def test_an_npz_has_a_series_and_its_structure_set_as_they_were_converted(tmp_path: Path) -> None:
    ct = make.ct_series(8, rows=16, columns=20)
    region = [make.contour(make.on_slice(one, [(3, 3), (3, 10), (9, 10), (9, 3)]), [one]) for one in ct[2:6]]
    make.saved([*ct, make.structure_set(ct, {"Lung": region})], tmp_path / "scans")
    assert voxelnode("convert", tmp_path / "scans", "-o", tmp_path / "out", "--flat") == 0
    [image] = (tmp_path / "out").glob("*_CT.nii.gz")
    [mask] = (tmp_path / "out").glob("*roi1_mask.nii.gz")
    assert voxelnode("volume", "npz", image, mask, "-o", tmp_path / "out.npz") == 0
    with np.load(tmp_path / "out.npz") as found:
        assert found["data"].shape == found["labels"].shape == (8, 16, 20)
        assert sorted(set(np.argwhere(found["labels"])[:, 0].tolist())) == [2, 3, 4, 5]
        assert json.loads(str(found["labels_json"]))[0]["roi"]["name"] == "Lung"


def test_the_names_of_the_package_are_listed_before_they_are_loaded() -> None:
    program = "import node; print(*dir(node), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(node.__all__)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(node.open, marks=pytest.mark.sqlite("a database server has rows also where the files are not")),
        lambda path: node.convert(path, path.parent / "out"),
        lambda path: node.convert([path.parent, path], path.parent / "out"),
        node.read_rectangles,
    ],
    ids=["open", "convert", "convert several", "read_rectangles"],
)
def test_what_does_not_exist_is_not_taken_for_empty(tmp_path: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(FileNotFoundError):
        use(tmp_path / "nothing.csv")
    assert not list(tmp_path.iterdir())


AT_THE_TOP = """
import sys, threading
import node

held = threading.Event()
threading.Thread(target=held.wait, daemon=True).start()  # children are no copies of a process with threads
print("begins")
print(len(node.convert("scans", "volumes").series()))
"""


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("arguments", [["program.py"], ["-c", AT_THE_TOP], ["-"], ["-i"]], ids=lambda words: words[0])
def test_a_program_that_converts_at_its_top_runs_once(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "program.py").write_text(AT_THE_TOP)
    (tmp_path / "scans").mkdir()
    make.ct_series(1)[0].save_as(tmp_path / "scans" / "1.dcm", enforce_file_format=True)
    done = subprocess.run(
        [sys.executable, *arguments],
        input=AT_THE_TOP if arguments[0] in ("-", "-i") else "",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.splitlines(), done.returncode) == (["begins", "1"], 0), done.stderr
    assert len(list((tmp_path / "volumes").rglob("*.nii.gz"))) == 1


@pytest.mark.slow
def test_the_page_about_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    make.saved(make.ct_series(5), tmp_path / "scans")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "catalog.parquet").exists()
