"""Private elements: found by their creator, read whatever became of their value representation."""

import struct
from io import BytesIO

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.values import PrivateTag, private_bytes, private_items, private_numbers, private_text
from tests import make

VECTOR = PrivateTag(0x0019, "VENDOR HEADER", 0x0E, "FD")
NAME = PrivateTag(0x0019, "VENDOR HEADER", 0x0D, "CS")
PLANES = PrivateTag(0x0019, "VENDOR HEADER", 0x51, "SQ")


def sent(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """The data set as it comes out of a file: elements not yet converted."""
    out = BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(out, ds, implicit_vr=implicit, little_endian=little, force_encoding=True)
    out.seek(0)
    return pydicom.filereader.read_dataset(out, is_implicit_VR=implicit, is_little_endian=little)


def with_block(block: int = 0x10) -> Dataset:
    ds = Dataset()
    ds.add_new((0x0019, block), "LO", "VENDOR HEADER ")
    ds.add_new((0x0019, block << 8 | 0x0E), "FD", [0.6, 0.0, -0.8])
    ds.add_new((0x0019, block << 8 | 0x0D), "CS", "DIRECTIONAL")
    return ds


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("block", [0x10, 0x12, 0xFF])
def test_elements_are_found_in_any_block_and_encoding(syntax: str, block: int) -> None:
    ds = sent(with_block(block), syntax)
    assert private_numbers(ds, VECTOR, 3) == (0.6, 0.0, -0.8)
    assert private_numbers(ds, VECTOR, 2) is None
    assert private_text(ds, NAME) == "DIRECTIONAL"


def test_values_that_pydicom_has_converted_are_read_too() -> None:
    ds = with_block()
    assert private_numbers(ds, VECTOR) == (0.6, 0.0, -0.8)
    assert private_text(ds, NAME) == "DIRECTIONAL"
    assert private_bytes(ds, VECTOR) is None


def test_bytes_of_unknown_representation_are_read_as_the_vendor_says() -> None:
    ds = Dataset()
    ds.add_new((0x0019, 0x0010), "LO", "VENDOR HEADER")
    ds.add_new((0x0019, 0x100E), "UN", struct.pack("<3d", 0.6, 0.0, -0.8))
    ds.add_new((0x0019, 0x100D), "UN", b"NONE\0")
    assert private_numbers(ds, VECTOR, 3) == (0.6, 0.0, -0.8)
    assert private_text(ds, NAME) == "NONE"
    assert private_bytes(ds, NAME) == b"NONE\0"


def test_another_creators_block_is_never_read() -> None:
    ds = with_block()
    ds[0x0019, 0x0010].value = "ANOTHER"
    assert private_numbers(ds, VECTOR) is None
    assert private_text(ds, NAME) == ""


def test_where_all_creators_were_stripped_the_usual_block_is_taken() -> None:
    ds = with_block()
    del ds[0x0019, 0x0010]
    assert private_numbers(sent(ds), VECTOR, 3) == (0.6, 0.0, -0.8)


@pytest.mark.parametrize("value", [b"", b"\1\2\3", struct.pack("<d", float("nan"))])
def test_broken_numbers_are_absent(value: bytes) -> None:
    ds = with_block()
    ds[0x0019, 0x100E] = pydicom.DataElement((0x0019, 0x100E), "UN", value)
    assert private_numbers(ds, VECTOR) is None


def test_private_sequences_give_their_items() -> None:
    ds = with_block()
    ds.add_new((0x0019, 0x1051), "SQ", [make.dataset(PatientID="1")])
    assert [each.PatientID for each in private_items(sent(ds), PLANES)] == ["1"]
    assert private_items(with_block(), PLANES) == []
    ds[0x0019, 0x1051] = pydicom.DataElement((0x0019, 0x1051), "UN", b"no items")
    assert private_items(ds, PLANES) == []
