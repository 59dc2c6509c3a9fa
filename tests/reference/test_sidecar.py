"""Slice timing of real series against dcm2niix, and facts against what BIDS says of their types and ranges."""

import json
import subprocess
from pathlib import Path
from typing import Any

import dcm2niix
import pydicom
import pytest

from node.api import assemble

pytestmark = pytest.mark.corpus

CASES = (
    "dcm_qa_nih/siemens-mosaic-ap",
    "dcm_qa_nih/siemens-mosaic-rl",
    "dcm_qa_stc/siemens-xa10-enhanced-fmri",
    "dcm_qa_stc/siemens-mosaic-b13",
    "dcm_qa_nih/ge-4d-epi",
)


def sidecar_of_dcm2niix(folder: Path, out: Path) -> dict[str, Any]:
    subprocess.run([dcm2niix.bin, "-p", "n", "-z", "n", "-o", out, folder], check=True, capture_output=True, timeout=60)
    [path] = out.glob("*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("case", "tolerance_s"),
    [
        *((case, 2e-3) for case in (*CASES, "dcm_qa_stc/ge-epirt", "dcm_qa_12bit/mosaic-12bit-unsigned")),
        ("dcm_qa_uih/grid-dwi", 2e-2),  # the oracle holds a time of day in 32 bits there
    ],
)
def test_slice_timing_is_that_of_dcm2niix(corpus: Path, tmp_path: Path, case: str, tolerance_s: float) -> None:
    theirs = sidecar_of_dcm2niix(corpus / case, tmp_path)
    [one] = assemble([pydicom.dcmread(path) for path in sorted((corpus / case).iterdir())]).volumes
    assert one.attributes["SliceTiming"] == pytest.approx(theirs["SliceTiming"], abs=tolerance_s)


@pytest.mark.slow
def test_a_timer_of_ge_that_omits_the_first_volume_changes_no_slice_timing(corpus: Path, tmp_path: Path) -> None:
    folders = sorted((corpus.parent / "more" / "ge-slice-timing").glob("*epiRT*"))
    if not folders:
        pytest.skip("no further real series beside the corpus")
    for folder in folders:
        out = tmp_path / folder.name
        out.mkdir()
        theirs = sidecar_of_dcm2niix(folder, out)
        [one] = assemble([pydicom.dcmread(path) for path in sorted(folder.iterdir())]).volumes
        assert one.attributes["SliceTiming"] == pytest.approx(theirs["SliceTiming"], abs=2e-3), folder.name


ABOVE_ZERO = frozenset(
    {
        *("EchoTime", "EchoTime1", "EchoTime2", "RepetitionTime", "InversionTime", "FlipAngle", "SliceThickness"),
        *("AcquisitionDuration", "EffectiveEchoSpacing", "RepetitionTimeExcitation", "RepetitionTimePreparation"),
    }
)
NUMBERS = frozenset(
    {
        *("MagneticFieldStrength", "TotalReadoutTime", "DwellTime", "DelayTime", "PartialFourier"),
        *("ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane", "MultibandAccelerationFactor"),
        *("LabelingDuration", "PostLabelingDelay", "InjectedRadioactivity", "InjectedVolume", "DoseCalibrationFactor"),
        *("ScanStart", "InjectionStart", "ImageDecayCorrectionTime"),
    }
)
TEXTS = frozenset(
    {
        *("Manufacturer", "ManufacturersModelName", "SoftwareVersions", "BodyPart", "ReceiveCoilName"),
        *("ReceiveCoilActiveElements", "ParallelAcquisitionTechnique", "PartialFourierDirection", "Units"),
        *("TracerRadionuclide", "TracerName", "ReconMethodName", "AttenuationCorrection", "InjectedRadioactivityUnits"),
    }
)
LISTS_OF_TEXTS = frozenset({"ScanningSequence", "SequenceVariant", "ScanOptions"})
LISTS_OF_NUMBERS = frozenset({"SliceTiming", "DecayCorrectionFactor", "ScatterFraction"})
FLAGS = frozenset(
    {
        *("SpoilingState", "MTState", "NonlinearGradientCorrection", "ImageDecayCorrected", "BackgroundSuppression"),
        *("VascularCrushing", "BolusCutOffFlag"),
    }
)
ONE_OF = {
    "MRAcquisitionType": {"1D", "2D", "3D"},
    "SpoilingType": {"RF", "GRADIENT", "COMBINED"},
    "PhaseEncodingDirection": {"i", "i-", "j", "j-", "k", "k-"},
    "ArterialSpinLabelingType": {"CASL", "PCASL", "PASL"},
}


def is_of_bids(name: str, fact: Any) -> bool:
    """Whether a fact has the type and the range that the schema of BIDS 1.10 gives its name, if it knows it."""
    number = isinstance(fact, (int, float)) and not isinstance(fact, bool)
    several = fact if isinstance(fact, list) else []
    found = {
        name in ABOVE_ZERO: number and fact > 0,
        name in NUMBERS: number,
        name in TEXTS: isinstance(fact, str) and fact != "",
        name in LISTS_OF_TEXTS: bool(several) and all(isinstance(each, str) for each in several),
        name in LISTS_OF_NUMBERS: bool(several)
        and all(isinstance(each, (int, float)) and each >= 0 for each in several),
        name in FLAGS: isinstance(fact, bool),
        name in ONE_OF: fact in ONE_OF.get(name, ()) if isinstance(fact, str) else False,
    }
    return found.get(True, True)
