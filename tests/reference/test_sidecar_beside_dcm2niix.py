"""Sidecars field by field beside those of dcm2niix: equal, or one of the listed rules explains why not."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from node.api import Volume, VolumeKind, assemble
from node.writers.options import WriteOptions
from node.writers.sidecar import sidecar_fields, write_sidecar
from tests.conftest import corpus_folder
from tests.reference.cases import corpus_cases, read_series
from tests.reference.sidecar_differences import DIFFERENCES, Pair
from tests.reference.test_dcm2niix import DCM2NIIX, as_theirs, made_by_dcm2niix, packaged_series

pytestmark = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")

TOLERANCE = 1e-4  # dcm2niix writes six digits, from numbers of 32 bits

AXES = {"i": 0, "j": 1, "k": 2}


def pairs(datasets: list[Dataset], folder: Path) -> Iterator[tuple[Pair, Volume, nib.Nifti1Image]]:
    """The volumes of a series that both make, with their sidecars."""
    theirs = made_by_dcm2niix([Path(str(ds.filename)).resolve() for ds in datasets], folder / "theirs")
    by_uid = {str(ds.SOPInstanceUID): ds for ds in datasets}
    for number, volume in enumerate(assemble(datasets).volumes):
        match = next((pair for pair in theirs if volume.kind is VolumeKind.VOLUME and as_theirs(volume, pair[0])), None)
        if match is not None:
            written = write_sidecar(sidecar_fields(volume, WriteOptions(), {}), folder, f"{number}")
            ds = by_uid[volume.sources[0].sop_instance_uid]
            yield Pair(match[1], json.loads(written.read_text("utf-8")), ds), volume, match[0]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-6)
    return bool(one == other)


def direction_in_space(letters: str, affine_ras: np.ndarray) -> np.ndarray:
    axis = affine_ras[:3, AXES[letters[0]]]
    return axis / np.linalg.norm(axis) * (-1 if letters.endswith("-") else 1)


def unexplained(pair: Pair, volume: Volume, image: nib.Nifti1Image, used: set[str]) -> Iterator[tuple[str, Any, Any]]:
    """Fields that differ without a reason; the reasons of the others are collected in `used`."""
    for name, theirs in pair.theirs.items():
        ours = pair.ours.get(name)
        if name == "PhaseEncodingDirection" and ours is not None and volume.affine_lps is not None:
            here = direction_in_space(ours, np.diag([-1, -1, 1, 1]) @ volume.affine_lps)
            if here @ direction_in_space(theirs, image.affine) < 0.999:
                yield name, theirs, ours
        elif not equal(ours, theirs):
            reasons = [rule.reason for rule in DIFFERENCES if name in rule.fields and rule.holds(name, pair)]
            if not reasons:
                yield name, theirs, ours
            used.update(reasons)


OF_SCANNERS = ("dcm_qa", "dcmstack", "dicom2nifti", "-")
"""Collections of what scanners wrote; the long test compares the others too."""


@pytest.mark.sample(0, 12)
@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
@pytest.mark.parametrize("case", [case for case in corpus_cases(corpus_folder()) if case.startswith(OF_SCANNERS)])
def test_sidecars_are_those_of_dcm2niix_but_for_what_is_explained(case: str, corpus: Path, tmp_path: Path) -> None:
    for number, datasets in enumerate(read_series(corpus / case).values()):
        for pair, volume, image in pairs(datasets, tmp_path / str(number)):
            assert list(unexplained(pair, volume, image, set())) == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
def test_every_explanation_is_needed_and_no_series_of_the_packages_needs_another(corpus: Path, tmp_path: Path) -> None:
    packaged = [[dcmread(path) for path in paths] for paths in packaged_series()]
    cases = [datasets for case in corpus_cases(corpus) for datasets in read_series(corpus / case).values()]
    used: set[str] = set()
    compared, found = 0, []
    for number, datasets in enumerate((*cases, *packaged)):
        for pair, volume, image in pairs(datasets, tmp_path / str(number)):
            compared += 1
            found += list(unexplained(pair, volume, image, used))
        shutil.rmtree(tmp_path / str(number))
    assert found == []
    assert compared > 100
    assert {rule.reason for rule in DIFFERENCES} - used == set()


@pytest.mark.slow
@pytest.mark.corpus
def test_a_timer_of_ge_that_omits_the_first_volume_changes_no_slice_timing(corpus: Path, tmp_path: Path) -> None:
    folders = sorted((corpus.parent / "more" / "ge-slice-timing").glob("*epiRT*"))
    if not folders:
        pytest.skip("no further real series beside the corpus")
    for folder in folders:
        [(pair, _, _)] = pairs([dcmread(path) for path in sorted(folder.iterdir())], tmp_path / folder.name)
        assert pair.ours["SliceTiming"] == pytest.approx(pair.theirs["SliceTiming"], abs=2e-3), folder.name
