"""dcm2niix as an oracle: the same volumes in the same place, but where we differ on purpose."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from node.volume.assemble import assemble
from node.volume.model import Kind, Volume
from tests.conftest import corpus_folder
from tests.reference.cases import corpus_cases, read_series

DCM2NIIX = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")

pytestmark = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")

TOLERANCE_MM = 0.05  # dcm2niix keeps positions in 32 bits

DIFFERENCES = {
    "dcm_qa_ct/ct-gantry-tilt": "a tilted stack: its affine leaves slices up to 1.4 mm out of place",
    "dicom2nifti/ct-gantry-tilt": "a tilted stack: its affine leaves slices up to 0.4 mm out of place",
    "derived/ct-tilt-exact": "a tilted stack: its affine leaves slices up to 4.2 mm out of place",
    "dicom2nifti/mr-slope-per-slice": "slopes differ between slices: with -p n it applies the first one to all",
    "derived/pet-dynamic-slope-per-slice": "slopes differ between slices: with -p n it applies the first one to all",
    "dicom2nifti/philips-enhanced-dwi": "the volumes are in another order, and the gradient table with them",
    "dicom2nifti/siemens-mosaic-no-csa": "a mosaic without its header: it takes all 64 tiles for slices",
    "dcmstack/multi-echo-part": "uneven gaps: its affine takes the first distance, ours the usual one",
    "dcmqi/seg-overlapping": "segments overlap: it stacks all frames",
    "dcmqi/seg-labelmap-sparse": "an empty slice was left out of the file: it stacks what is there",
    "highdicom/seg-fractional": "fractions: it leaves 0..255",
    "pydicom/rt-dose-plan-structure": "a dose grid: it does not read the offsets",
    "derived/duplicate-new-instance": "a slice under a second identity: it keeps it as a slice",
    "derived/same-position-other-pixels": "a position taken twice: it keeps both as slices",
    "derived/interrupted-last-volume": "an interrupted scan: it makes 13 slices of 15",
    "J2K_pixelrep_mismatch.dcm": "the codestream's sign differs from the header's: it trusts the header",
}
"""Where dcm2niix is no oracle, with the reason; each must differ, or its entry is out of date."""

FILES = ("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "J2K_pixelrep_mismatch.dcm")
"""Files of pydicom that have a place in the patient."""


def oracle(files: Path, folder: Path) -> list[nib.Nifti1Image]:
    """What dcm2niix makes of a folder; values as stored and scaled by the file (``-p n``)."""
    subprocess.run(
        [str(DCM2NIIX), "-p", "n", "-z", "n", "-b", "n", "-f", "%s_%e_%n", "-o", str(folder), str(files)],
        check=False,  # it fails where nothing is to convert
        capture_output=True,
        timeout=60,
    )
    return [nib.load(path) for path in sorted(folder.rglob("*.nii"))]


def comparable(volumes: tuple[Volume, ...]) -> Iterator[nib.Nifti1Image]:
    """Grey volumes with a place, as images with real values."""
    for volume in volumes:
        if volume.kind is Kind.VOLUME and volume.affine_lps is not None and not volume.colour:
            values = (volume.voxels * np.float64(volume.slope) + volume.intercept).transpose(3, 2, 1, 0)
            values = values[..., 0] if values.shape[3] == 1 else values
            yield nib.Nifti1Image(values, np.diag([-1, -1, 1, 1]) @ volume.affine_lps)


def same(ours: nib.Nifti1Image, theirs: nib.Nifti1Image) -> bool:
    """Whether two images have the same voxels at the same corners, whichever way their axes run."""
    if theirs.get_data_dtype().fields:
        return False
    one, other = nib.as_closest_canonical(ours), nib.as_closest_canonical(theirs)
    if one.shape != other.shape:
        return False
    corners = np.array(list(itertools.product(*[(0, size - 1) for size in one.shape[:3]])))
    apart = nib.affines.apply_affine(one.affine, corners) - nib.affines.apply_affine(other.affine, corners)
    scale = max(1.0, float(np.abs(one.get_fdata()).max()))
    return bool(
        np.linalg.norm(apart, axis=1).max() <= TOLERANCE_MM
        and np.abs(one.get_fdata() - other.get_fdata()).max() <= 1e-4 * scale
    )


def compare(name: str, files: Path, tmp_path: Path) -> None:
    ours = [image for datasets in read_series(files).values() for image in comparable(assemble(datasets).volumes)]
    if not ours:
        pytest.skip("no grey volume with a place")
    theirs = oracle(files, tmp_path)
    agree = all(any(same(image, other) for other in theirs) for image in ours)
    assert agree is (name not in DIFFERENCES), DIFFERENCES.get(name, "dcm2niix makes something else of it")


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
@pytest.mark.parametrize("case", corpus_cases(corpus_folder()))
def test_a_case_of_the_corpus_is_as_dcm2niix_makes_it_but_for_the_listed_differences(case, corpus, tmp_path):
    compare(case, corpus / case, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_pydicom_is_as_dcm2niix_makes_it_but_for_the_listed_differences(name, tmp_path):
    files, made = tmp_path / "files", tmp_path / "made"
    files.mkdir()
    made.mkdir()
    source = get_testdata_file(name)
    assert isinstance(source, str)
    shutil.copy(source, files / name)
    assert pydicom.dcmread(files / name).get("ImagePositionPatient")
    compare(name, files, made)
