"""The Native DICOM Model beside that of DCMTK."""

import subprocess
from typing import Any

import pytest
from pydicom import dcmread

from node.dicom.json_model import Json, json_model
from node.extensions.dicomweb.xml_model import native_model
from tests.interop.conftest import needs
from tests.make import PYDICOM_FILES
from tests.unit.extensions.dicomweb.test_xml_model import with_numbers
from tests.web.native import json_from_native


@pytest.mark.peer
@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_RLE.dcm", "rtplan.dcm", "test-SR.dcm", "examples_palette.dcm"]
)
def test_dcmtk_writes_the_same_elements(name: str) -> None:
    needs("dcm2xml", "dcmtk")
    path = PYDICOM_FILES / name
    written = subprocess.run(["dcm2xml", "--native-format", path], check=True, capture_output=True).stdout
    theirs, ours = (
        _flat(json_from_native(written)),
        _flat(json_from_native(native_model(json_model(dcmread(path), lambda place: None)))),
    )
    missing = {place for place in theirs if place not in ours}
    assert {place for place in missing if not place.startswith("0002") and not place.endswith("0000")} == set()
    for place, (vr, values) in ours.items():
        if place in theirs and theirs[place][0] == vr and values:
            expected = pytest.approx(values) if all(isinstance(one, float) for one in values) else values
            assert theirs[place][1] == expected, place


def _flat(model: Json, place: str = "") -> dict[str, tuple[str, Any]]:
    """Every element by its path: VR and values, numbers as numbers."""
    found: dict[str, tuple[str, Any]] = {}
    for tag, element in with_numbers(model).items():
        if element["vr"] == "SQ":
            for number, item in enumerate(element.get("Value", [])):
                found |= _flat(item, f"{place}{tag}.{number}.")
        else:
            found[place + tag] = element["vr"], element.get("Value")
    return found
