"""The Native DICOM Model carries what the DICOM JSON Model carries; DCMTK reads and writes it the same."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pydicom import Dataset, dcmread

from node.dicom.json_model import Json, json_model
from node.extensions.dicomweb.xml_model import native_model
from tests.make import PYDICOM_FILES
from tests.web.mixed import NAMES
from tests.web.native import json_from_native


def model_of(path: Path) -> Json:
    return json_model(dcmread(path), lambda place: f"http://node/bulkdata/{place}")


def with_numbers(value: Any) -> Any:
    """Make DS and IS numbers, as the DICOM JSON Model writes them; names lose their empty last components."""
    if isinstance(value, list):
        return [with_numbers(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("vr") in ("DS", "IS"):
        kind = float if value["vr"] == "DS" else int
        return value | ({"Value": [v and kind(v) for v in value["Value"]]} if "Value" in value else {})
    if value.get("vr") == "PN" and "Value" in value:
        return value | {"Value": [name and _without_carets(name) for name in value["Value"]]}
    return {name: with_numbers(item) for name, item in value.items()}


def _without_carets(name: dict[str, str]) -> dict[str, str] | None:
    return {group: text for group, whole in name.items() if (text := whole.rstrip("^"))} or None


@pytest.mark.parametrize(
    "name", [*NAMES, "test-SR.dcm", "examples_overlay.dcm", "chrX2.dcm", "chrH32.dcm", "nested_priv_SQ.dcm"]
)
def test_xml_carries_what_json_carries(name: str) -> None:
    model = model_of(PYDICOM_FILES / name if (PYDICOM_FILES / name).exists() else _charset_file(name))
    assert with_numbers(json_from_native(native_model(model))) == with_numbers(json.loads(json.dumps(model)))


def _charset_file(name: str) -> Path:
    return PYDICOM_FILES.parent / "charset_files" / name


def test_values_that_are_hard_to_write_come_back() -> None:
    model = {
        "00080008": {"vr": "CS", "Value": ["A", None, "C", None]},
        "00081140": {"vr": "SQ", "Value": [{}, {"00080018": {"vr": "UI", "Value": ["1.2"]}}]},
        "00100010": {
            "vr": "PN",
            "Value": [{"Alphabetic": "a^^c^d^e^f", "Phonetic": "x"}, None, {"Ideographic": "山^太"}],
        },
        "00104000": {"vr": "LT", "Value": [" <&>\"'\r\n\ttwo  blanks "]},
        "00189073": {"vr": "FD", "Value": [0.1, "NaN", "inf", "-inf", 1e-300, None]},
        "00280009": {"vr": "AT", "Value": ["00181063"]},
        "00281101": {"vr": "US"},
        "00090010": {"vr": "LO", "Value": ['ACME "1"']},
        "00090011": {"vr": "LO", "Value": ['ACME "1"']},
        "00091001": {"vr": "SH", "Value": ["one"]},
        "00091101": {"vr": "SH", "Value": ["two"]},
        "00092001": {"vr": "UN", "InlineBinary": "AAE="},
        "00720082": {"vr": "SV", "Value": [-(2**63)]},
    }
    assert json_from_native(native_model(model)) == model


def test_characters_that_xml_cannot_have_are_replaced() -> None:
    document = native_model({"00104000": {"vr": "LT", "Value": ["a\x0cb\x1b\ud800"]}})
    assert json_from_native(document)["00104000"]["Value"] == ["a\ufffdb\ufffd\ufffd"]


def test_private_elements_go_with_their_creator() -> None:
    root = ElementTree.fromstring(native_model(model_of(PYDICOM_FILES / "CT_small.dcm")))
    creators = {one.get("privateCreator") for one in root if one.get("tag", "").startswith("000900E6")}
    assert creators == {"GEMS_IDEN_01"}


def test_no_element_of_an_empty_data_set() -> None:
    assert json_from_native(native_model(json_model(Dataset(), lambda place: None))) == {}
