"""Fast reading of single values."""

from __future__ import annotations

import math
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.values import stated_numbers, texts
from node.volume.elements import instant, instant_of, number, seconds_of_day, text
from tests.make import ct_series


def raw(keyword_tag, vr, data):
    ds = Dataset()
    ds[keyword_tag] = RawDataElement(Tag(keyword_tag), vr, len(data), data, 0, False, True)
    return ds


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_are_the_same_in_every_encoding_and_after_pydicom_touched_them(syntax):
    (source,) = ct_series(1, PixelSpacing=r"0.75\0.5")
    source.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    source.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    source.save_as(buffer, enforce_file_format=True)
    for touched in (False, True):
        ds = dcmread(BytesIO(buffer.getvalue()))
        if touched:
            list(ds)
        assert stated_numbers(ds, "PixelSpacing") == (0.75, 0.5)
        assert number(ds, "Rows") == 16
        assert texts(ds, "ImageType") == ("ORIGINAL", "PRIMARY", "AXIAL")
        assert text(ds, "SOPInstanceUID") == source.SOPInstanceUID
        assert number(ds, "EchoTime") is None
        assert texts(ds, "ConvolutionKernel") == ()


def test_what_is_no_number_is_not_a_number_and_never_an_exception():
    ds = raw(0x00280030, "DS", b"0.5\\abc ")
    values = stated_numbers(ds, "PixelSpacing")
    assert values is not None
    assert values[0] == 0.5
    assert math.isnan(values[1])
    assert number(raw(0x00280030, "DS", b"nan "), "PixelSpacing") is None
    assert stated_numbers(raw(0x00280030, "DS", b"  "), "PixelSpacing") is None


def test_a_binary_value_that_is_cut_gives_the_numbers_that_are_whole():
    assert stated_numbers(raw(0x00280010, "US", b"\x10\x00\x01"), "Rows") == (16,)
    assert stated_numbers(raw(0x00280010, "US", b"\x10"), "Rows") is None


def test_a_word_that_is_no_keyword_is_a_fault_of_the_program():
    with pytest.raises(LookupError):
        stated_numbers(Dataset(), "NoSuchKeyword")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("101530.25", 36930.25),
        ("1015", 36900),
        ("10", 36000),
        ("10:15:30", 36930),
        ("", None),
        (None, None),
        ("x", None),
    ],
)
def test_times_are_seconds_since_midnight(time, seconds):
    assert seconds_of_day(time) == seconds


def test_a_night_between_two_times_does_not_turn_their_order():
    before, after = instant("20240131", "235959"), instant("20240201", "000001.5")
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(2.5)
    assert instant_of("20240201000001.500000-0500") == after
    assert instant("20249999", "000001") == 1
    assert instant_of("2024") is None
