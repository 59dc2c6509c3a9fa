"""dcm2niix as an oracle: the same volumes in the same place, but where we differ on purpose."""

import itertools
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import data_store
import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pynetdicom
import pytest

from node.api import Volume, VolumeKind, assemble
from node.writers.nifti import nifti_header
from tests.conftest import corpus_folder
from tests.make import PYDICOM_FILES
from tests.programs import DCM2NIIX
from tests.reference.cases import corpus_cases, read_series

pytestmark = [pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed"), pytest.mark.slow]

TOLERANCE_MM = 0.01

COLOUR_TOLERANCE = 8  # of 255: inverse transforms of lossy JPEG and of YBR are rounded differently

DIFFERENCES = {
    "dcm_qa_ct/ct-gantry-tilt": "a tilted stack: its affine leaves slices up to 1.4 mm out of place",
    "dicom2nifti/ct-gantry-tilt": "a tilted stack: its affine leaves slices up to 0.4 mm out of place",
    "derived/ct-tilt-exact": "a tilted stack: its affine leaves slices up to 4.2 mm out of place",
    "dicom2nifti/mr-slope-per-slice": "slopes differ between slices: with -p n it applies the first one to all",
    "derived/pet-dynamic-slope-per-slice": "slopes differ between slices: with -p n it applies the first one to all",
    "dicom2nifti/philips-enhanced-dwi": "the volumes are in another order, and the gradient table with them",
    "dicom2nifti/siemens-mosaic-no-csa": "a mosaic without its header: it takes all 64 tiles for slices",
    "dcmqi/seg-overlapping": "segments overlap: it stacks all frames",
    "dcmqi/seg-labelmap-sparse": "an empty slice was left out of the file: it stacks what is there",
    "highdicom/seg-fractional": "fractions: it leaves 0..255",
    "pydicom/rt-dose-plan-structure": "a dose grid: it does not read the offsets",
    "derived/duplicate-new-instance": "a slice under a second identity: it keeps it as a slice",
    "derived/same-position-other-pixels": "a position taken twice: it keeps both as slices",
    "derived/interrupted-last-volume": "an interrupted scan: it makes 13 slices of 15",
}
"""Where dcm2niix is no oracle, with the reason; each must differ, or its entry is out of date."""

DIFFERENCES_IN_FILES = {
    "J2K_pixelrep_mismatch.dcm": "the codestream's sign differs from the header's: it trusts the codestream",
    "JPEG-lossy.dcm": "JPEG Extended of 12 bits: it has no decoder",
    "image_dfl.dcm": "a deflated data set: it cannot read it",
    "SC_rgb_dcmtk_+eb+cr.dcm": "subsampled colours of lossy JPEG: it repeats them, libjpeg interpolates",
    "SC_rgb.dcm": "subsampled colours of lossy JPEG: it repeats them, libjpeg interpolates",
    "badVR.dcm": "Number of Frames is '1A': it makes two frames of fifteen, we refuse",
    "6293": "two scouts of different orientation: it stacks them, as it does with all CT",
    "17106": "slices at -99.5, 103.0, 104.3 and 105.5 mm: its affine takes the first distance, ours the usual one",
    "examples_palette.dcm": "a colour palette: it leaves the indices",
    "OBXXXX1A.dcm": "a colour palette: it leaves the indices",
    "gdcm-US-ALOKA-16.dcm": "a colour palette: it leaves the indices",
    "RG1_J2KI.dcm": "three radiographs in one series: it stacks them",
    "RG3_J2KI.dcm": "three radiographs in one series: it stacks two of them",
    "MR2_J2KI.dcm": "a lossy version of a slice beside the slice: it stacks them",
    "JPEG-LL.dcm": "two views of a gamma camera: it stacks them",
    "0.dcm": "mosaics whose size their tiles do not divide: it takes 36 x 36 of 37 pixels, we refuse them",
    "slicethickness_empty_string.dcm": "a slice without a thickness: its step is 0 mm, ours 1 mm",
    "MRImageStorage_ExplicitVRBigEndian.dcm": "a slice under a second identity: it keeps it as a slice",
    "SCImageStorage_Deflated.dcm": "a deflated data set: it cannot read it",
    "mlut_18.dcm": "a Modality LUT: it leaves it out",
}
"""The same for series among the files of pydicom, pydicom-data, nibabel and pynetdicom, by their first file's name."""


def made_by_dcm2niix(paths: Iterable[Path], folder: Path) -> list[tuple[nib.Nifti1Image, dict[str, Any]]]:
    """What dcm2niix makes of files: its images, with values as stored and scaled (``-p n``), each with its sidecar."""
    (files := folder / "files").mkdir(parents=True)
    for number, path in enumerate(paths):
        (files / f"{number:04}.dcm").symlink_to(path)
    command = [DCM2NIIX, "-p", "n", "-z", "n", "-b", "y", "-ba", "n", "-f", "%s_%e_%n_%t", "-o", folder, files]
    subprocess.run(list(map(str, command)), check=False, capture_output=True, timeout=60)  # it fails where nothing is
    return [
        (nib.load(path), json.loads(sidecar.read_text("utf-8", "replace")))
        for path in sorted(folder.glob("*.nii"))
        if (sidecar := path.with_suffix(".json")).exists()
    ]


def comparable(volumes: tuple[Volume, ...]) -> Iterator[nib.Nifti1Image]:
    """Grey volumes with a place, as images with real values."""
    for volume in volumes:
        if volume.kind is VolumeKind.VOLUME and volume.affine_lps is not None and not volume.colour:
            values = (volume.voxels * np.float64(volume.slope) + volume.intercept).transpose(3, 2, 1, 0)
            values = values[..., 0] if values.shape[3] == 1 else values
            image = nib.Nifti1Image(values, np.diag([-1, -1, 1, 1]) @ volume.affine_lps)
            header = nifti_header(volume, pair=False)
            for field in ("dim_info", "slice_code"):
                image.header[field] = header[field]
            yield image


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


def acquired_alike(ours: nib.Nifti1Image, theirs: nib.Nifti1Image) -> bool:
    """Whether the axes of the acquisition and the order of slices are the same, where dcm2niix states them."""
    same_slices = ours.affine[:3, 2] @ theirs.affine[:3, 2] > 0
    axes, code = theirs.header.get_dim_info(), int(theirs.header["slice_code"])
    return (axes[1] is None or ours.header.get_dim_info() == axes) and (
        not same_slices or code in (0, int(ours.header["slice_code"]))
    )


def compare(name: str, files: Path, tmp_path: Path) -> None:
    ours = [image for datasets in read_series(files).values() for image in comparable(assemble(datasets).volumes)]
    if not ours:
        pytest.skip("no grey volume with a place")
    theirs = [image for image, _ in made_by_dcm2niix(sorted(filter(Path.is_file, files.rglob("*"))), tmp_path / "made")]
    alike = [[other for other in theirs if same(image, other)] for image in ours]
    assert all(acquired_alike(image, other) for image, others in zip(ours, alike, strict=True) for other in others)
    assert all(alike) is (name not in DIFFERENCES), DIFFERENCES.get(name, "dcm2niix makes something else of it")


@pytest.mark.sample(0, 20)
@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
@pytest.mark.parametrize("case", corpus_cases(corpus_folder()))
def test_a_case_of_the_corpus_is_as_dcm2niix_makes_it_but_for_the_listed_differences(case, corpus, tmp_path):
    compare(case, corpus / case, tmp_path)


PACKAGED = (
    PYDICOM_FILES,
    Path(data_store.__file__).parent / "data",
    Path(nib.__file__).parent / "nicom" / "tests" / "data",
    Path(pynetdicom.__file__).parent / "tests" / "dicom_files",
)


def packaged_series() -> Iterator[list[Path]]:
    """Series with pixels among the files that packages bring along; of an instance the first file."""
    found: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for root in PACKAGED:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            try:
                ds = pydicom.dcmread(path)
            except (pydicom.errors.InvalidDicomError, OSError, ValueError, NotImplementedError):
                continue
            if any(keyword in ds for keyword in ("PixelData", "FloatPixelData")) and "SeriesInstanceUID" in ds:
                found[root, str(ds.SeriesInstanceUID)].setdefault(str(ds.SOPInstanceUID), path)
    return (list(paths.values()) for paths in found.values())


def frames_of(values: Any) -> Any:
    """(frames, rows, columns, samples) of an array of (columns, rows, slices[, times][, samples])."""
    values = np.stack([values[name] for name in "RGB"], axis=-1) if values.dtype.fields else values[..., None]
    values = values.reshape(*values.shape[:3], -1, values.shape[-1])
    return values.transpose(3, 2, 1, 0, 4).reshape(-1, *values.shape[1::-1], values.shape[-1])


def same_frames(volume: Volume, theirs: nib.Nifti1Image) -> bool:
    """Whether an image has the frames of a volume: for those in colour or without a place, which it stacks."""
    other = frames_of(np.asanyarray(theirs.dataobj))
    values = volume.voxels if volume.colour else (volume.voxels * volume.slope + volume.intercept)[..., None]
    ours = values.reshape(-1, *values.shape[2:])
    if ours.shape != other.shape:
        return False
    tolerance = COLOUR_TOLERANCE if volume.colour else 1e-6 * max(1.0, float(np.abs(ours).max()))
    exact = np.int32 if volume.colour else np.float64

    def agree(one: Any, two: Any) -> bool:
        return bool(np.abs(np.subtract(one, two, dtype=exact)).max() <= tolerance)

    # Frame by frame: the differences of a whole clip would fill gigabytes.
    return any(all(map(agree, ours, flipped)) for flipped in (other, other[:, ::-1]))


def as_theirs(volume: Volume, theirs: nib.Nifti1Image) -> bool:
    images = list(comparable((volume,)))
    return all(same(image, theirs) for image in images) if images else same_frames(volume, theirs)


def agrees(paths: list[Path], folder: Path) -> bool:
    """Whether dcm2niix makes each of our volumes of a series, or nothing where we refuse it."""
    theirs = [image for image, _ in made_by_dcm2niix(paths, folder)]
    volumes = [volume for volume in assemble(map(pydicom.dcmread, paths)).volumes if volume.kind is VolumeKind.VOLUME]
    return all(any(as_theirs(volume, other) for other in theirs) for volume in volumes) and bool(volumes or not theirs)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
def test_the_series_that_packages_bring_along_are_as_dcm2niix_makes_them_but_for_the_listed_differences(tmp_path):
    series = {str(number): paths for number, paths in enumerate(packaged_series())}
    assert len(series) > 50
    differ = {paths[0].name for number, paths in series.items() if not agrees(paths, tmp_path / number)}
    assert differ == set(DIFFERENCES_IN_FILES)
