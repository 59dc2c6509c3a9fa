"""dcm2niix as an oracle for the gradient tables of vendors."""

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import FileDataset, dcmread
from pydicom.uid import MRImageStorage, generate_uid

from node.volume.read.diffusion import diffusion_of
from tests import make
from tests.programs import DCM2NIIX

SLICES, WEIGHTED = 4, 7
TILTED = (0.955336, 0.0, -0.29552, 0.0, 1.0, 0.0)

pytestmark = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")


def weigh(ds: FileDataset, vendor: str, b_value: int, direction: np.ndarray) -> None:
    """Write a weighting as the vendor does."""
    words = [f"{value:.3f}" for value in direction]
    if vendor == "GE":
        ds.Manufacturer, ds.SoftwareVersions = "GE MEDICAL SYSTEMS", "27"
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [b_value, 8, 0, 0])
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        for offset, word in zip((0xBB, 0xBC, 0xBD), words, strict=True):
            block.add_new(offset, "DS", word)
    elif vendor == "CANON":
        ds.Manufacturer, ds.SoftwareVersions, ds.DiffusionBValue = "CANON_MEC", "V6.0", float(b_value)
        if b_value:
            ds.ImageComments = f"b={b_value}({','.join(words)})"
    elif vendor == "PHILIPS":
        ds.Manufacturer, ds.DiffusionBValue = "Philips Medical Systems", float(b_value)
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", float(b_value))
        block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        for offset, word in zip((0xB0, 0xB1, 0xB2), words, strict=True):
            block.add_new(offset, "FL", float(word))
    elif vendor == "SIEMENS":
        ds.Manufacturer, ds.SoftwareVersions = "SIEMENS", "syngo MR E11"
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", b_value)
        block.add_new(0x0D, "CS", "DIRECTIONAL" if b_value else "NONE")
        if b_value:
            block.add_new(0x0E, "FD", list(map(float, words)))
    else:
        ds.Manufacturer = "UIH"
        block = ds.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x09, "FD", float(b_value))
        block.add_new(0x37, "FD", list(map(float, words)))


def write_series(folder: Path, vendor: str, orientation: make.Numbers, phase: str) -> list[Path]:
    """Write a diffusion series; return the first slice of each volume."""
    rng = np.random.default_rng(5)
    series_uid, study_uid, first_slices = generate_uid(), generate_uid(), []
    for time in range(WEIGHTED + 1):
        direction = rng.normal(size=3) if time else np.zeros(3)
        direction /= np.linalg.norm(direction) or 1
        volume = make.image_series(
            SLICES,
            orientation=orientation,
            series_uid=series_uid,
            study_uid=study_uid,
            sop_class_uid=MRImageStorage,
            modality="MR",
            pixels=rng.integers(0, 500, (SLICES, 16, 16), np.uint16),
            PatientPosition="HFS",
            AcquisitionNumber=1,
            RepetitionTime=5000,
            EchoTime=80,
            SpacingBetweenSlices=2.5,
            AcquisitionTime=f"1010{time:02}",
            InPlanePhaseEncodingDirection=phase,
        )
        for index, ds in enumerate(volume):
            ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
            ds.InstanceNumber = time * SLICES + index + 1
            weigh(ds, vendor, 1000 if time else 0, direction)
            path = folder / f"{ds.InstanceNumber:03}.dcm"
            ds.save_as(path, enforce_file_format=True)
            first_slices += [path] if index == 0 else []
    return first_slices


def directions_of_dcm2niix(folder: Path, out: Path) -> np.ndarray:
    """Return the (times, 3) directions in LPS that dcm2niix writes, by FSL's convention and its own affine."""
    out.mkdir()
    subprocess.run([DCM2NIIX, "-z", "n", "-f", "dwi", "-o", out, folder], check=True, capture_output=True)
    vectors = np.loadtxt(out / "dwi.bvec").reshape(3, -1)
    axes = nib.load(out / "dwi.nii").affine[:3, :3]
    axes /= np.linalg.norm(axes, axis=0)
    if np.linalg.det(axes) > 0:
        vectors[0] *= -1
    return (np.diag([-1, -1, 1]) @ axes @ vectors).T


@pytest.mark.sample(0, 6)
@pytest.mark.parametrize("vendor", ["SIEMENS", "PHILIPS", "GE", "CANON", "UIH"])
@pytest.mark.parametrize(
    ("orientation", "phase"),
    [
        *((make.AXIAL, "COL"), (TILTED, "ROW"), (make.SAGITTAL, "COL"), (make.CORONAL, "ROW")),
        *(
            pytest.param(orientation, phase, marks=pytest.mark.long)
            for orientation, phase in [
                *((make.AXIAL, "ROW"), (TILTED, "COL"), (make.SAGITTAL, "ROW"), (make.CORONAL, "COL"))
            ]
        ),
    ],
)
def test_directions_agree_with_dcm2niix(vendor: str, orientation: make.Numbers, phase: str, tmp_path: Path) -> None:
    (folder := tmp_path / "dicom").mkdir()
    first_slices = write_series(folder, vendor, orientation, phase)
    theirs = directions_of_dcm2niix(folder, tmp_path / "out")
    ours = [diffusion_of(dcmread(path)) for path in first_slices]
    assert [found.b_value for found in ours if found] == [0.0, *[1000.0] * WEIGHTED]
    for found, reference in zip(ours[1:], theirs[1:], strict=True):
        assert abs(found.direction_lps @ reference) > 0.999  # three digits, which dcm2niix does not normalise
