"""`node.open` and `node.convert`: a program sees what became of every series."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import node
from node.cli.application import main
from node.index.engine.backend import IndexUnusable
from node.volume.derived import masked, montage, project, threshold
from node.writers.options import WriteOptions
from node.writers.reading import read_voxels
from node.writers.writing import write_voxels
from tests import make
from tests.converting import convert_series, convert_with_all
from tests.integration.conftest import Root

ROOT = Path(__file__).parents[2]


def test_a_program_sees_patients_series_volumes_and_what_was_excluded(root: Root) -> None:
    instances = [*make.duplicate_series(5), make.structured_report()]
    instances[-1].StudyInstanceUID = instances[0].StudyInstanceUID
    instances[-1].SeriesInstanceUID = instances[0].SeriesInstanceUID
    root.take_all(instances)
    claimed = root.claim()
    options = WriteOptions(formats=("mhd", "nifti"), projected_planes=("axial",), mask_above=0.0, slices=True)
    assert convert_series(claimed, root.archive, root.index, options, convert_with_all, root.clock)
    place = root.index.place
    opened = node.open(root.folder, {} if isinstance(place, Path) else {"index.url": place.url})
    [patient] = opened.patients()
    [study] = patient.studies()
    [series] = study.series()
    assert (series.uid, series.study_uid) == (instances[0].SeriesInstanceUID, instances[0].StudyInstanceUID)
    assert series.verdict == "complete"
    assert {"projected", "mask", "slice"} < {row["kind"] for row in series.files()}
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
    volume.path.write_bytes(volume.path.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read as a volume"):
        volume.array()


@pytest.mark.sqlite("the answer names the file")
def test_a_folder_with_neither_an_index_nor_volumes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="no index at"):
        node.open(tmp_path)


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
    outlines = list(node.contours(mask, affine))
    assert {index for index, _ in outlines} == {0, 1, 2, 3}
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


@pytest.mark.slow
def test_the_page_about_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    for number, ds in enumerate(make.ct_series(5)):
        ds.save_as(tmp_path / "scans" / f"{number}.dcm", enforce_file_format=True)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "catalog.parquet").exists()
