"""Real spectra of Siemens and Philips, as spec2nii 0.8.15 and dcm2niix v1.0.20260724 read them.

The expectations are recorded: the digest of the voxels is that of both programs for each file, and so are the places,
but for Philips' (see there).
"""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from tests.signals import converted

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def spectra_of(corpus: Path, folder: str, tmp_path: Path) -> dict[str, tuple[nib.Nifti2Image, dict[str, object]]]:
    files = sorted((corpus.parent / "more" / "mrs" / folder).glob("*.*"))
    if not files:
        pytest.skip("no further real series beside the corpus")
    result, out = converted([dcmread(path) for path in files], tmp_path)
    assert not result.refusals
    assert not result.exclusions
    assert result.completeness.state == "complete"
    assert {uid for _, uid, _ in result.sources} == {dcmread(path).SOPInstanceUID for path in files}
    images = {}
    for file in result.files:
        image = nib.Nifti2Image.from_filename(out / file.path)
        images[file.suffix] = image, json.loads(image.header.extensions[0].text)
    return images


def digest(image: nib.Nifti2Image) -> str:
    without_negative_zeros = np.asarray(image.dataobj).astype("<c8") + np.complex64(0)
    return hashlib.sha256(without_negative_zeros.tobytes("F")).hexdigest()[:16]


@pytest.mark.parametrize(
    ("folder", "shape", "sha256", "dwell_s", "frequency_mhz", "affine_ras"),
    [
        (
            "30_svs_se",
            (1, 1, 1, 1024, 64),
            "f99e2c36ead3fb11",
            5e-4,
            297.154513,
            [[19.9985155, 0.14660505, 0.19464029, -17.3993], [0.1282547, -19.91628639, 1.82348211, 0],
             [0.20719216, -1.82209858, -19.91574824, 46.8949]],
        ),
        (
            "31_svs_se",
            (1, 1, 1, 1024),
            "df4b231d949c69d1",
            5e-4,
            297.154513,
            [[19.9985155, 0.14660505, 0.19464029, -17.3993], [0.1282547, -19.91628639, 1.82348211, 0],
             [0.20719216, -1.82209858, -19.91574824, 46.8949]],
        ),
        (
            "csa",
            (1, 1, 1, 1024),
            "433eaba3f069ca28",
            8.334e-4,
            123.234655,
            [[-19.35422032, 9.81800758, -1.14710004, -41.602906], [5.02818197, 36.94055353, -5.79363974, -21.569007],
             [-0.36268718, -11.78992078, -19.10805851, -4.958838]],
        ),
        (
            "xa60",
            (1, 1, 1, 1024),
            "71f642e40ba3743c",
            8.334e-4,
            123.255089,
            [[30, 0, 0, 0], [0, -30, 0, -57.4412], [0, 0, -30, -8.03879]],
        ),
    ],
)  # fmt: skip
def test_spectra_of_siemens_are_those_of_two_other_programs(
    corpus: Path,
    tmp_path: Path,
    folder: str,
    shape: tuple[int, ...],
    sha256: str,
    dwell_s: float,
    frequency_mhz: float,
    affine_ras: list[list[float]],
) -> None:
    [(image, meta)] = spectra_of(corpus, folder, tmp_path).values()
    assert image.shape == shape
    assert digest(image) == sha256
    assert image.header["pixdim"][4] == pytest.approx(dwell_s, rel=1e-12)
    assert image.affine[:3] == pytest.approx(np.array(affine_ras), abs=1e-4)
    assert (meta["SpectrometerFrequency"], meta["ResonantNucleus"]) == ([frequency_mhz], ["1H"])
    assert (meta["EchoTime"], meta["ExcitationFlipAngle"]) == (0.03, 90.0)


def test_a_spectrum_of_philips_and_its_reference_lie_in_the_volume_excited(corpus: Path, tmp_path: Path) -> None:
    """The voxels are those of dcm2niix. Its voxel is 25 x 25 x 15 mm: Pixel Spacing is that of the planning stack.

    The private volume says 25 mm from right to left and 15 mm along the others. spec2nii wants three items in Volume
    Localization Sequence (0018,9126) and fails, as this release writes one, with angles for a direction.
    """
    images = spectra_of(corpus, "philips", tmp_path)
    assert sorted(images) == ["", "ref"]
    assert [digest(images[suffix][0]) for suffix in ("", "ref")] == ["f57221d1808b36d7", "8d67e0895d6c83b5"]
    assert [images[suffix][1]["WaterSuppressed"] for suffix in ("", "ref")] == [True, False]
    for image, _ in images.values():
        assert image.header["pixdim"][1:4] == pytest.approx([25, 15, 15])
        assert (RAS @ image.affine)[:3, 3] == pytest.approx([6.0696, 15.2077, 3.9631], abs=1e-4)
        assert (RAS @ image.affine)[:3, 0] / 25 == pytest.approx([0.99662, -0.00738, 0.08181], abs=1e-4)
