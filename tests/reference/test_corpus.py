"""Every case of the corpus of real series, scored by the corpus' own script."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from node.api import Assembly, assemble
from node.writers.base import stem_of
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests.conftest import corpus_folder
from tests.reference.cases import corpus_cases, read_series
from tests.unit.writers.test_documented import named_in

pytestmark = pytest.mark.corpus

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


@pytest.fixture(scope="module")
def check(corpus: Path) -> ModuleType:
    """The corpus' script, as a module."""
    spec = importlib.util.spec_from_file_location("corpus_check", corpus / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(uid: str, assembly: Assembly, folder: Path) -> dict[str, list[dict[str, str]]]:
    """Write the volumes of one series; return its part of a listing as ``conversion.json`` has it."""
    folder.mkdir()
    reported = [
        {"series_instance_uid": uid, "reason": refusal.reason.value, "detail": refusal.detail}
        for refusal in assembly.refusals
    ]
    made = [
        {"series_instance_uid": uid, "kind": file.kind, "path": str(file.path)}
        for volume in assembly.volumes
        for file in write_volume(volume, folder, stem_of(volume), WriteOptions(formats=("nifti",), thumbnails=False))
    ]
    return {"volumes": made, "refusals": reported}


@pytest.mark.sample(32)
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
@pytest.mark.parametrize("case", corpus_cases(corpus_folder()))
def test_a_case_gives_the_expected_volumes_refusals_and_warnings(case, corpus, check, tmp_path):
    listing: dict[str, list[dict[str, str]]] = {"volumes": [], "refusals": []}
    expected = json.loads((corpus / "expected.json").read_text())["cases"][case]["series"]
    for number, (uid, datasets) in enumerate(read_series(corpus / case).items()):
        assembly = assemble(datasets)
        assert assembly.unaccounted({str(ds.SOPInstanceUID) for ds in datasets}) == set()
        reported = {warning.name.value for volume in assembly.volumes for warning in volume.warnings}
        assert set(expected[uid].get("warnings", ())) <= reported or not assembly.volumes
        facts = [fact for volume in assembly.volumes for fact in volume.attributes.items()]
        assert {name for name, _ in facts} <= named_in("Sidecar")
        assert [fact for fact in facts if not is_of_bids(*fact)] == []
        for name, entries in written(uid, assembly, tmp_path / str(number)).items():
            listing[name] += entries
    (tmp_path / "conversion.json").write_text(json.dumps(listing))
    asked = Namespace(produced=tmp_path / "conversion.json", expected=corpus / "expected.json", case=[case])
    result = check.check(asked)[case]
    assert result["pass"], result["why"]
