"""Values of data sets that anyone may have sent: what cannot be read is absent."""

from io import BytesIO

import pydicom
import pytest
from pydicom import Dataset

from node.dicom.values import items, number, numbers, text, texts, value, whole

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")


def element(tag: int, vr: bytes, content: bytes) -> Dataset:
    """A data set of one element with these very bytes."""
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr
    return pydicom.filereader.read_dataset(BytesIO(head + len(content).to_bytes(2, "little") + content), False, True)


def test_numbers_are_finite_and_as_many_as_asked_for() -> None:
    spacing = element(0x00280030, b"DS", b"0.5\\0.75")
    assert numbers(spacing, "PixelSpacing", 2) == (0.5, 0.75)
    assert numbers(spacing, "PixelSpacing", 3) is None
    assert number(spacing, "PixelSpacing") == 0.5
    assert whole(spacing, "PixelSpacing") is None
    assert whole(element(0x00280010, b"US", b"\x40\0"), "Rows") == 64


@pytest.mark.parametrize("content", [b"", b"nan\\1 ", b"inf\\1 ", b"1E999\\1 ", b"abc\\1 ", b"\\\\\\ "])
def test_numbers_that_are_none_are_absent(content: bytes) -> None:
    assert numbers(element(0x00280030, b"DS", content), "PixelSpacing", 2) is None


def test_broken_binary_values_are_absent() -> None:
    assert whole(element(0x00280010, b"US", b"\x40"), "Rows") is None
    assert value(element(0x00280010, b"US", b""), "Rows") is None


def test_texts_lose_their_padding() -> None:
    ds = element(0x00080008, b"CS", b"ORIGINAL\\PRIMARY \0")
    assert texts(ds, "ImageType") == ("ORIGINAL", "PRIMARY")
    assert text(ds, "ImageType") == "ORIGINAL"
    assert text(ds, "Modality") == ""
    assert texts(ds, "Modality") == ()


def test_a_sequence_that_is_none_has_no_items() -> None:
    ds = Dataset()
    assert items(ds, "ModalityLUTSequence") == ()
    ds.ModalityLUTSequence = [Dataset()]
    assert len(items(ds, "ModalityLUTSequence")) == 1
    ds.PatientID = "1"
    assert items(ds, "PatientID") == ()
