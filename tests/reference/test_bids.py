"""Data sets of the corpus of real series, and all names, as the validator of BIDS finds them."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from node.children.pseudonyms import PseudonymKey
from node.conversion.found_series import attributes_of_series, chosen
from node.extensions.bids.export import Exporter
from node.extensions.bids.names import CHOICES, ENTITIES, INDICES, KINDS, stem
from node.extensions.bids.sources import FolderSource
from node.extensions.bids.subjects import Pseudonyms
from tests.bids_validator import errors, needs_validator
from tests.converting import here
from tests.unit.extensions.bids.builders import AXIAL, EPI, Listed, Scanner, rules_of

pytestmark = [pytest.mark.slow, needs_validator]

PSEUDONYMS = Pseudonyms(PseudonymKey("test", b"k" * 32))
COLLECTIONS = ("dcm_qa_*", "dcmstack", "dicom2nifti", "pydicom-data")
"""Those with magnetic resonance, without the cases that are other cases in another encoding, or damaged."""

EVERYTHING = """
[dataset]
verdicts = ["complete", "suspect", "incomplete"]
participants = ["age", "sex"]

[[rules]]
name = "times"
where = 'modality == "MR" and times > 1 and directions == 0 and sequence == "*EPI*"'
suffix = "bold"
entities = { task = "any", acq = "{volume_suffix}" }

[[rules]]
name = "others"
where = '''modality == "MR" and times == 1 and directions == 0 and part != "fieldmap" and geometry != "none"
    and sequence_details != "*field_mapping*"'''
suffix = "T1w"
entities = { acq = "{volume_suffix}" }
"""


EMISSION: dict[str, Any] = {
    **{
        "Manufacturer": "M",
        "ManufacturersModelName": "N",
        "Units": "Bq/mL",
        "TracerName": "FDG",
        "TracerRadionuclide": "F18",
    },
    **{"InjectedRadioactivity": 2e8, "InjectedRadioactivityUnits": "Bq", "TimeZero": "08:00:00", "ScanStart": 0},
    **{"InjectionStart": 0, "FrameTimesStart": [0, 60], "FrameDuration": [60, 60], "ImageDecayCorrected": True},
    **{
        "ImageDecayCorrectionTime": 0,
        "ReconMethodName": "OSEM",
        "ReconMethodParameterLabels": ["subsets", "iterations"],
    },
    **{
        "ReconMethodParameterValues": [21, 3],
        "ReconFilterType": "Gaussian",
        "ReconFilterSize": 2,
        "AttenuationCorrection": "CT",
    },
}
"""What an ideal scanner states; the rest comes from the rule of docs/bids.md."""


def test_the_validator_finds_no_error_in_any_kind_of_file(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "bids.md").read_text(encoding="utf-8")
    example = dedent(document.split("and subjects of a table:\n")[1].split("### Keys")[0])
    (tmp_path / "subjects.csv").write_text("patient_id,subject\nP1,01\n")
    scanner = Scanner(tmp_path)
    readout = {**EPI, **AXIAL, "TotalReadoutTime": 0.05}
    labelled = {"ArterialSpinLabelingType": "PCASL", "RepetitionTimePreparation": 4.0, "EchoTime": 0.01}
    labelled |= {"MagneticFieldStrength": 3, "MRAcquisitionType": "3D", "RepetitionTime": 4.0}
    magnitudes = {"e1": {"EchoTime": 0.005}, "e2": {"EchoTime": 0.0075}}
    inversions = {"FlipAngle": 4, "RepetitionTimeExcitation": 0.007, "RepetitionTimePreparation": 5, "NumberShots": 176}
    rank = {"ti1": {"InversionTime": 0.7}, "ti2": {"InversionTime": 2.5}}
    series = [
        scanner.series("t1_mprage"),
        scanner.series("mp2rage", "ti1", "ti2", sidecars=rank, MagneticFieldStrength=7, **inversions),
        scanner.series("gre_field_mapping", "e1", "e2", sidecars=magnitudes),
        scanner.series("gre_field_mapping", ImageType=["ORIGINAL", "PRIMARY", "P"], EchoTime=0.0075),
        scanner.series("SpinEchoFieldMap_AP", **readout),
        scanner.series("rest_SBRef", **readout),
        scanner.series("rest fMRI", "e1", "e2", times=9, **readout),
        scanner.series("fMRI nback", "", "ph", times=100, **readout),
        scanner.series("ep2d_diff", times=2, gradients=True, **readout),
        scanner.series("pcasl", times=41, **labelled),
        scanner.series("FDG", times=2, modality="PT", **{**EMISSION, "TracerName": "Fludeoxyglucose F^18^"}),
    ]
    report = Exporter(Listed(*series), rules_of(example, tmp_path), PSEUDONYMS).export(tmp_path / "out")
    assert report.skipped == []
    assert report.volumes == 15
    assert errors(tmp_path / "out") == []


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
def test_the_validator_finds_no_error_in_a_data_set_of_the_corpus(corpus: Path, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    cases = [path for name in COLLECTIONS for path in corpus.glob(f"{name}/*/") if not path.name.startswith("codec")]
    source = FolderSource(cases, work, here, 1, chosen('modality == "MR"', None))
    studies = {found["study_instance_uid"]: found.get("patient_id") for found in attributes_of_series(cases)}
    subjects = {patient_id: f"{number}" for number, patient_id in enumerate(studies.values())}
    rows = [f"{patient_id},{uid},{subjects[patient_id]}" for uid, patient_id in studies.items() if patient_id]
    table = tmp_path / "subjects.csv"  # the people of this corpus share Patient IDs
    table.write_text("\n".join(("patient_id,study_instance_uid,subject", *rows)))
    rules = rules_of(f'{EVERYTHING}\n[subjects]\nmap = "{table.name}"\n', tmp_path)
    report = Exporter(source, rules, PSEUDONYMS).export(out)
    assert report.is_up_to_date
    assert len(report.change.added) == report.volumes >= 40
    assert {path.parent.name for path in out.rglob("*.nii.gz")} == {"anat", "dwi", "fmap", "func"}
    reasons = {skipped.reason.split(":")[0] for skipped in report.skipped}
    without_id = "the table of subjects has no row for this Patient ID"
    assert reasons <= {"its geometry is none", "its geometry is irregular", "no rule fits", without_id}
    assert errors(out) == []


def test_the_validator_knows_every_name(tmp_path: Path) -> None:
    names = [
        "sub-a/anat/sub-a_T1W.nii.gz",
        "sub-a/anat/sub-a_dir-a_T1w.nii.gz",
        "sub-a/func/sub-a_bold.nii.gz",
    ]  # wrong
    for kind in KINDS:
        labels = {
            entity: CHOICES[entity][0] if entity in CHOICES else "1" if entity in INDICES else "a"
            for entity in ENTITIES
            if entity in kind.entities
        }
        for entities in (labels, {entity: label for entity, label in labels.items() if entity in kind.required}):
            names.append(f"sub-a/{kind.datatype}/{stem({'sub': 'a', **entities}, kind.suffix)}.nii.gz")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = errors(tmp_path, "--ignoreNiftiHeaders")
    of_names = {error["location"] for error in found if error["code"] in OF_NAMES}
    assert of_names == {f"/{name}" for name in names[:3]}


OF_NAMES = {
    "NOT_INCLUDED",
    "ALL_FILENAME_RULES_HAVE_ISSUES",
    "ENTITY_NOT_IN_RULE",
    "MISSING_REQUIRED_ENTITY",
    "DATATYPE_MISMATCH",
    "EXTENSION_MISMATCH",
    "INVALID_ENTITY_LABEL",
}
"""What the validator calls errors in names."""
