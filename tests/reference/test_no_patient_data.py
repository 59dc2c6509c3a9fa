"""No name, identifier or institution of a real series is found in anything that is written of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.multival import MultiValue

from node.conversion.offline import convert_folder
from node.conversion.out_folder import Layout
from node.volume.reasons import Reason, WarningKind
from node.writers.options import WriteOptions
from tests.conftest import corpus_folder
from tests.converting import here
from tests.reference.cases import corpus_cases, read_series

pytestmark = pytest.mark.corpus

PERSONAL = frozenset(
    {
        *("PatientID", "OtherPatientIDs", "PatientAddress", "PatientTelephoneNumbers", "PatientBirthDate"),
        *("PatientComments", "AccessionNumber", "StudyID", "InstitutionName", "InstitutionAddress"),
        *("InstitutionalDepartmentName", "StationName", "DeviceSerialNumber", "IssuerOfPatientID"),
        *("StudyDescription", "SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription"),
        *("RequestedProcedureDescription", "AdditionalPatientHistory", "ImageComments", "StudyDate", "SeriesDate"),
    }
)
"""Attributes that tell, or in practice hold, who somebody is; with them every person's name (VR PN)."""

SHORTEST = 4
"""Characters of a value that is looked for: shorter ones turn up by chance."""

EVERYTHING = WriteOptions(
    formats=("nifti", "nifti-pair", "analyze", "mhd", "nrrd", "npz"),
    compress=False,
    previews=True,
    montages=True,
    suv=True,
)
NAMELESS = Layout(anonymous=True)
"""As a node, which leaves out of every sidecar what people typed."""

NIFTI_HEADER_BYTES = 544

DEVICE_FACTS = ("Manufacturer", "ManufacturerModelName", "BodyPartExamined")
"""Facts that a sidecar keeps even if a site or a phantom is named after them."""

OUR_WORDS = frozenset({"modality", "patient", "name", "none", "perfusion", "head", *WarningKind, *Reason})
"""Words of the sidecar, and values of coded attributes, that people also type as a name or a description."""


def personal_values(ds: Dataset) -> Iterator[str]:
    """What must not be found, from every depth of a data set."""
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from personal_values(item)
        elif element.VR == "PN" or element.keyword in PERSONAL:
            several = element.value if isinstance(element.value, MultiValue) else [element.value]
            for each in several:
                yield from re.split(r"[\^=]", str(each))


def written_text(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything that a file says beside its voxels and pixels, and its name."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.name, path.stem
        if path.suffix in (".json", ".mhd", ".bval", ".bvec"):
            yield path.name, path.read_text("utf-8")
        elif path.suffix in (".nii", ".hdr"):
            with path.open("rb") as file:
                yield path.name, file.read(NIFTI_HEADER_BYTES).decode("latin-1")
        elif path.suffix == ".nrrd":
            yield path.name, path.read_bytes().partition(b"\n\n")[0].decode("latin-1")
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                yield path.name, f"{arrays['json']} {arrays['series_uid']} {sorted(arrays)}"
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
                yield path.name, str(picture.info)
        else:
            assert path.suffix in (".img", ".raw"), path.name


def without(facts: set[str], text: str) -> str:
    """A text without the facts of the device, whose words may be a patient's: "Test Manufacturer" of "Test Patient"."""
    for fact in facts - {""}:
        text = re.sub(rf"(?<!\w){re.escape(fact)}(?!\w)", "", text, flags=re.IGNORECASE)
    return text


@pytest.mark.sample(0, 12)
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
@pytest.mark.parametrize("case", corpus_cases(corpus_folder()))
def test_nothing_personal_of_a_series_is_written(corpus: Path, tmp_path: Path, case: str) -> None:
    for number, (uid, datasets) in enumerate(read_series(corpus / case).items()):
        values = {value.strip() for ds in datasets for value in personal_values(ds)}
        facts = {str(ds.get(keyword, "")).casefold() for ds in datasets for keyword in DEVICE_FACTS}
        values = {value for value in values if len(value) >= SHORTEST and value.casefold() not in OUR_WORDS | facts}
        out = tmp_path / str(number)
        convert_folder([Path(ds.filename) for ds in datasets], out, EVERYTHING, here, layout=NAMELESS)
        found = {
            (uid, name, value)
            for name, text in written_text(out)
            for value in values
            if re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", without(facts, text), re.IGNORECASE)
        }
        assert found == set()
