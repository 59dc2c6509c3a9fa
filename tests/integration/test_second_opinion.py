"""`voxelnode convert --compare dcm2niix`, with the real dcm2niix: where it agrees, where not, and what decides it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from node.extensions.second_opinion.differences import differences, volumes_in
from node.extensions.second_opinion.evidence import ATTRIBUTES
from tests import make
from tests.programs import DCM2NIIX

needs_dcm2niix = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")


def convert(folder: Path, *options: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", "convert", str(folder / "in"), "-o", str(folder / "out"), *options]
    environment = os.environ if path is None else os.environ | {"PATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


def saved(instances: list[Any], folder: Path) -> None:
    (folder / "in").mkdir()
    for number, ds in enumerate(instances):
        ds.save_as(folder / "in" / f"{number}.dcm", enforce_file_format=True)


def comparisons(folder: Path, *options: str) -> list[dict[str, Any]]:
    ended = convert(folder, "--compare", "dcm2niix", *options)
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads((folder / "out" / "conversion.json").read_text())["comparisons"]
    return found


@pytest.mark.slow
@needs_dcm2niix
def test_series_on_which_both_agree_are_said_to_agree_whichever_way_their_axes_run(tmp_path: Path) -> None:
    oblique = make.mr_series(6, orientation=(0.96, 0.28, 0, 0, 0, -1))
    saved(make.ct_series(5) + make.time_series(3, 4) + oblique, tmp_path)
    found = comparisons(tmp_path)
    assert [(row["agrees"], row["differences"], row["problem"]) for row in found] == [(True, [], None)] * 3
    assert all(row["program"].startswith("dcm2niix v") for row in found)


def test_colours_are_compared_as_stored_whatever_slope_a_header_has(tmp_path: Path) -> None:
    colours = np.zeros((6, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = np.arange(4)
    paths = []
    for name, intercept in (("one", 0.0), ("other", -1024.0)):
        image = nib.Nifti1Image(colours, np.eye(4))
        image.header["scl_slope"], image.header["scl_inter"] = 1.0, intercept
        written = image.to_bytes()
        paths.append(tmp_path / f"{name}.nii")
        header = nib.Nifti1Header.from_fileobj(io.BytesIO(written))
        header["scl_slope"], header["scl_inter"] = 1.0, intercept
        paths[-1].write_bytes(header.binaryblock + written[len(header.binaryblock) :])
    assert differences(volumes_in(paths[:1]), volumes_in(paths[1:]), []) == []


@needs_dcm2niix
@pytest.mark.slow
def test_a_doubled_slice_is_a_difference_of_shape_with_the_positions_that_decide_it(tmp_path: Path) -> None:
    instances = make.duplicate_series(5, same_pixels=False)
    saved(instances, tmp_path)
    [found] = comparisons(tmp_path)
    [row] = [row for row in found["differences"] if row["what"] == "shape"]
    assert not found["agrees"]
    assert [row["ours"][-4:], row["theirs"][-4:]] == [" x 5", " x 6"]
    assert next(iter(row["decided_by"])) == "ImagePositionPatient"
    assert "(5 values)" in row["decided_by"]["ImagePositionPatient"]


@needs_dcm2niix
@pytest.mark.slow
def test_slopes_that_differ_between_slices_are_a_difference_of_values_with_the_slopes(tmp_path: Path) -> None:
    instances = make.mr_series(4)
    for number, ds in enumerate(instances):
        ds.RescaleSlope, ds.RescaleIntercept = 1 + number, 0
    saved(instances, tmp_path)
    [found] = comparisons(tmp_path)
    [row] = found["differences"]
    assert row["what"] == "values"
    assert row["decided_by"]["RescaleSlope"] == "1.0, 2.0, 3.0, 4.0"


@needs_dcm2niix
@pytest.mark.slow
def test_what_differs_is_printed_with_the_values_of_the_headers(tmp_path: Path) -> None:
    saved(make.duplicate_series(5, same_pixels=False), tmp_path)
    ended = convert(tmp_path, "--compare", "dcm2niix")
    assert "shape: " in ended.stdout
    assert "ImagePositionPatient: " in ended.stdout


@pytest.mark.slow
def test_a_converter_that_is_unknown_or_absent_is_told_before_anything_is_converted(tmp_path: Path) -> None:
    saved(make.ct_series(2), tmp_path)
    ended = convert(tmp_path, "--compare", "other")
    assert (ended.returncode, ended.stderr) == (2, "voxelnode: --compare other: known converters are dcm2niix\n")
    ended = convert(tmp_path, "--compare", "dcm2niix", "--format", "mhd")
    assert (ended.returncode, "add --format nifti" in ended.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_without_the_option_nothing_is_said_of_other_converters(tmp_path: Path) -> None:
    saved(make.ct_series(2), tmp_path)
    assert convert(tmp_path).returncode == 0
    assert "comparisons" not in json.loads((tmp_path / "out" / "conversion.json").read_text())


@pytest.mark.parametrize("what", ATTRIBUTES)
def test_every_attribute_that_may_decide_is_a_keyword_or_a_private_tag(what: str) -> None:
    for name in ATTRIBUTES[what]:
        if name.startswith("("):
            assert Tag(*(int(part, 16) for part in name.strip("()").split(",")))
        else:
            assert tag_for_keyword(name) is not None, name


@needs_dcm2niix
def test_a_mirrored_gradient_and_reversed_slice_times_are_no_difference(tmp_path: Path) -> None:
    """What a file states along its own axes is compared in the patient."""
    import nibabel as nib

    from node.extensions.second_opinion.differences import differences, volumes_in

    values = np.arange(2 * 3 * 4 * 2, dtype=np.int16).reshape(2, 3, 4, 2)
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    flipped = affine @ nib.orientations.inv_ornt_aff([[0, 1], [1, -1], [2, -1]], (2, 3, 4))
    for name, image, times, sign in (
        ("one", nib.Nifti1Image(values, affine), [0.0, 0.5, 0.1, 0.6], 1),
        ("other", nib.Nifti1Image(values[:, ::-1, ::-1], flipped), [0.6, 0.1, 0.5, 0.0], -1),
    ):
        image.set_sform(image.affine, 1)
        nib.save(image, tmp_path / f"{name}.nii")
        sidecar = {"SliceTiming": times, "PhaseEncodingDirection": "j" if sign > 0 else "j-"}
        (tmp_path / f"{name}.json").write_text(json.dumps(sidecar))
        (tmp_path / f"{name}.bval").write_text("0 1000\n")
        (tmp_path / f"{name}.bvec").write_text(f"0 0.6\n0 {0.8 * sign}\n0 0\n")
    [one], [other] = volumes_in([tmp_path / "one.nii"]), volumes_in([tmp_path / "other.nii"])
    assert differences([one], [other], []) == []
    (tmp_path / "other.json").write_text(json.dumps(sidecar | {"PhaseEncodingDirection": "j"}))
    (tmp_path / "other.bvec").write_text("0 0.6\n0 0.8\n0 0\n")
    [changed] = volumes_in([tmp_path / "other.nii"])
    assert [row["what"] for row in differences([one], [changed], [])] == ["PhaseEncodingDirection", "gradients"]
