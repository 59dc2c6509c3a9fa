"""The DICOM JSON Model; pydicom's own, slower way is the oracle."""

import json
import warnings
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from node.dicom.json_model import json_model
from node.files.reading import read_instance
from tests import make
from tests.make import PYDICOM_FILES

NAMES = sorted(path.name for path in PYDICOM_FILES.glob("*.dcm"))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom finds fault with its own test files


def compared(reported: dict[str, Any]) -> dict[str, Any]:
    """A model without what pydicom tells otherwise: group lengths, bulk data, padding, and values that are empty."""
    kept = {}
    for name, element in reported.items():
        if (
            name.endswith("0000")
            or name.startswith(("0002", "7FE0"))
            or "BulkDataURI" in element
            or element["vr"] == "UN"
        ):
            continue
        values = [
            compared(value) if element["vr"] == "SQ" else value.strip() or None if isinstance(value, str) else value
            for value in element.get("Value", [])
        ]
        if any(value is not None for value in values):
            kept[name] = {**element, "Value": values}
    return kept


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_pydicom_makes_of_the_same_file(name: str) -> None:
    try:
        ds = dcmread(PYDICOM_FILES / name)
        expected = ds.to_json_dict(
            bulk_data_threshold=1024, bulk_data_element_handler=lambda _: "uri", suppress_invalid_tags=True
        )
    except Exception:  # a file that is damaged on purpose
        pytest.skip("pydicom cannot tell")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = json_model(read_instance(PYDICOM_FILES / name), lambda path: f"there/{path}")
    found_values, expected_values = compared(model), compared(expected)
    assert {name: found_values.get(name) for name in expected_values} == expected_values
    json.dumps(model, allow_nan=False)


def test_long_values_are_reported_by_their_place() -> None:
    item = Dataset()
    item.add_new(0x54001010, "OW", bytes(2000))
    ds = Dataset()
    ds.add_new(0x54000100, "SQ", [Dataset(), item])
    ds.add_new(0x00420011, "OB", bytes(1025))
    ds.add_new(0x00282000, "OB", bytes(4))
    ds.add_new(0x7FE00010, "OW", b"\0\0")
    model = json_model(ds, lambda path: path)
    assert model["54000100"]["Value"][1]["54001010"] == {"vr": "OW", "BulkDataURI": "54000100.2.54001010"}
    assert model["00420011"] == {"vr": "OB", "BulkDataURI": "00420011"}
    assert model["00282000"] == {"vr": "OB", "InlineBinary": "AAAAAA=="}
    assert model["7FE00010"] == {"vr": "OW", "BulkDataURI": "7FE00010"}
    assert json_model(ds, lambda path: None)["7FE00010"] == {"vr": "OW"}


@pytest.mark.parametrize(
    ("tag", "vr", "value", "reported"),
    [
        (0x00101030, "DS", b"heavy ", {"vr": "DS", "Value": ["heavy"]}),
        (0x00101030, "DS", b"1e999 ", {"vr": "DS", "Value": ["1e999"]}),
        (0x00101030, "DS", b"nan\\2 ", {"vr": "DS", "Value": ["nan", 2.0]}),
        (0x00101030, "DS", b"\\2 ", {"vr": "DS", "Value": [None, 2.0]}),
        (0x00200013, "IS", b"1e999 ", {"vr": "IS", "Value": ["1e999"]}),
        (0x00200013, "IS", b"7.5 ", {"vr": "IS", "Value": ["7.5"]}),
        (0x00200013, "IS", b"7.0 ", {"vr": "IS", "Value": [7]}),
        (0x00280010, "US", b"\x01", {"vr": "UN", "InlineBinary": "AQ=="}),
        (0x00280010, "US", b"\x01\0\x02\0", {"vr": "US", "Value": [1, 2]}),
        (0x00100020, "LO", b"  ", {"vr": "LO"}),
        (0x00100020, "LO", b" a \\b\0", {"vr": "LO", "Value": ["a", "b"]}),
    ],
)
def test_values_that_anyone_may_have_sent(tag: int, vr: str, value: bytes, reported: dict[str, Any] | None) -> None:
    ds = Dataset({BaseTag(tag): RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)})
    assert json_model(ds, lambda path: None).get(f"{tag:08X}") == reported


@pytest.mark.parametrize("implicit", [False, True])
def test_a_sequence_has_its_items_however_long_it_is(implicit: bool) -> None:
    ds = make.dataset(Modality="RTSTRUCT")
    ds.ROIContourSequence = [make.dataset(ContourSequence=[make.dataset(ContourData=[1.5] * 12_000)])] * 3
    items = json_model(read_back(ds, implicit=implicit), lambda path: path)["30060039"]["Value"]
    assert [len(item["30060040"]["Value"][0]["30060050"]["Value"]) for item in items] == [12_000] * 3


def test_long_sequences_are_nested_so_deep_and_no_deeper() -> None:
    value = b"\x08\0\x60\0CS\2\0OT" + b"\x54\0\1\x10OB\0\0" + (70_000).to_bytes(4, "little") + bytes(70_000)
    for _ in range(100):
        item = b"\xfe\xff\0\xe0" + len(value).to_bytes(4, "little") + value
        value = b"\x40\0\x30\xa7SQ\0\0" + len(item).to_bytes(4, "little") + item
    model, depth = json_model(dcmread(BytesIO(value), force=True), lambda path: "there"), 0
    while "Value" in model["0040A730"]:
        (model,), depth = model["0040A730"]["Value"], depth + 1
    assert (depth, model) == (32, {"0040A730": {"vr": "UN", "BulkDataURI": "there"}})


def test_a_private_element_without_a_known_vr_is_unknown_however_long_it_is() -> None:
    ds = Dataset()
    block = ds.private_block(0x0029, "ACME", create=True)
    block.add_new(1, "UN", bytes(100))
    block.add_new(2, "UN", bytes(70_000))
    model = json_model(read_back(ds, implicit=True), lambda path: path)
    assert model["00291001"]["vr"] == "UN"
    assert model["00291002"] == {"vr": "UN", "BulkDataURI": "00291002"}


@pytest.mark.parametrize("implicit", [False, True])
def test_empty_pixel_data_have_no_bulk_data(implicit: bool) -> None:
    ds = Dataset()
    ds.BitsAllocated = 16
    ds.add_new(0x7FE00010, "OW", b"")
    assert json_model(ds, lambda path: path)["7FE00010"] == {"vr": "OW"}
    assert json_model(read_back(ds, implicit=implicit), lambda path: path)["7FE00010"] == {"vr": "OW"}


@pytest.mark.parametrize(
    "names",
    [["Ärzt^A", "Bob^B"], ["Ärzt^A", "", "Bob^B"], ["Art^A", "", "Bob^B"], ["", "Ärzt^A"], ["", ""], ["山^田=X"]],
)
def test_lists_of_names_keep_every_value(names: list[str]) -> None:
    ds = Dataset()
    ds.SpecificCharacterSet, ds.PhysiciansOfRecord = "ISO_IR 192", names
    ds.OtherPatientIDsSequence = [make.dataset(PatientID="1", PatientName="Ärzt^A")]
    model = json_model(read_back(ds), lambda path: None)
    groups = [name.partition("=") for name in names]
    expected = [
        {key: text for key, text in (("Alphabetic", first), ("Ideographic", second)) if text} or None
        for first, _, second in groups
    ]
    assert model["00081048"] == ({"vr": "PN", "Value": expected} if any(expected) else {"vr": "PN"})


def test_every_element_that_a_file_has_is_in_its_model() -> None:
    for name in NAMES:
        try:
            ds = read_instance(PYDICOM_FILES / name)
        except Exception:  # a file that is damaged on purpose
            continue
        model = json_model(ds, lambda path: path)
        assert set(model) == {f"{tag:08X}" for tag in ds.keys() if tag & 0xFFFF and tag >> 16 != 2}, name  # noqa: SIM118


def read_back(ds: Dataset, *, implicit: bool = False) -> Dataset:
    out = BytesIO()
    ds.save_as(out, implicit_vr=implicit, little_endian=True)
    return dcmread(BytesIO(out.getvalue()), force=True)
