"""What `node.dicom.values`, `node.dicom.uids` and `node.dicom.reading` rely on in pydicom beyond its documentation."""

from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.tag import BaseTag

from node.dicom.reading import LONG_PIXELS
from node.dicom.uids import registered
from node.dicom.values import held, held_elements, standard_tag
from node.files.reading import read_instance
from tests import make

ROWS = BaseTag(0x00280010)


def raw(value: bytes) -> RawDataElement:
    return RawDataElement(ROWS, "US", len(value), value, 0, False, True)


def test_a_data_set_holds_raw_elements_until_they_are_accessed() -> None:
    element = raw(b"\x07\0")
    ds = Dataset({ROWS: element})
    assert held(ds, ROWS) is element
    assert list(held_elements(ds).items()) == [(ROWS, element)]
    assert ds.Rows == 7
    assert isinstance(held(ds, ROWS), DataElement)
    assert held(ds, standard_tag("Columns")) is None


def test_an_element_that_is_set_or_deleted_is_held_or_not() -> None:
    ds = make.dataset(Columns=5)
    assert held(ds, standard_tag("Columns")).value == 5
    del ds.Columns
    assert not held_elements(ds)


@pytest.mark.parametrize(
    ("uid", "entry"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", ("CT Image Storage", "SOP Class", False)),
        ("1.2.840.10008.1.2.2", ("Explicit VR Big Endian", "Transfer Syntax", True)),
        ("1.2.840.99999.1", ("1.2.840.99999.1", "", False)),
        ("no UID", ("no UID", "", False)),
    ],
)
def test_registered_uids_have_name_type_and_retired_mark(uid: str, entry: tuple[str, str, bool]) -> None:
    known = registered(uid)
    assert (known.name, known.type, bool(known.type) and known.is_retired) == entry


def test_deferred_pixels_are_read_by_pydicom_from_the_file_of_a_data_set(tmp_path: Path) -> None:
    ds = make.ct_series(1, rows=256, columns=256)[0]
    ds.save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    partly = read_instance(tmp_path / "ct.dcm")
    assert len(ds.PixelData) >= LONG_PIXELS
    assert isinstance(partly, FileDataset)
    assert held(partly, standard_tag("PixelData")).value is None
    assert partly.PixelData == dcmread(tmp_path / "ct.dcm").PixelData
