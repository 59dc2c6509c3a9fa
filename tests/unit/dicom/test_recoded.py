"""Two encodings of one data set are the same; a change of one value, or of one pixel, is not."""

from collections.abc import Callable
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.dicom.header import WINDOW_BYTES
from node.dicom.recoded import Encoded, is_recoded
from tests import make
from tests.make import PYDICOM_FILES

IMPLICIT, EXPLICIT = ImplicitVRLittleEndian, ExplicitVRLittleEndian


def encoded(ds: Dataset, syntax: UID) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(stream, Dataset(deepcopy(dict(ds))))
    return stream.getvalue()


def same(one: Dataset, other: Dataset, syntax: UID = EXPLICIT, other_syntax: UID = IMPLICIT) -> bool | None:
    answers = {
        is_recoded(mine, theirs)
        for mine, theirs in [
            (Encoded.of(encoded(one, syntax), syntax), Encoded.of(encoded(other, other_syntax), other_syntax)),
            (Encoded.of(encoded(other, other_syntax), other_syntax), Encoded.of(encoded(one, syntax), syntax)),
        ]
    }
    assert len(answers) == 1
    return answers.pop()


def image(**attributes: object) -> Dataset:
    """An image with sequences in sequences, also private ones."""
    [ds] = make.ct_series(1, **attributes)
    inner = make.dataset(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning="one")
    ds.RequestAttributesSequence = [
        make.dataset(ScheduledProcedureStepID="A", ScheduledProtocolCodeSequence=[inner, deepcopy(inner)]),
        make.dataset(ScheduledProcedureStepID="B"),
    ]
    ds.ReferencedStudySequence = []
    block = ds.private_block(0x0099, "VOXELNODE TEST", create=True)
    block.add_new(1, "SQ", [make.dataset(PatientID="inside")])
    block.add_new(2, "LO", "private")
    return ds


def with_undefined_lengths(ds: Dataset) -> Dataset:
    ds = deepcopy(ds)

    def undefine(_: Dataset, element: object) -> None:
        if element.VR == "SQ":  # type: ignore[attr-defined]
            element.is_undefined_length = True  # type: ignore[attr-defined]
            for item in element.value:  # type: ignore[attr-defined]
                item.is_undefined_length_sequence_item = True

    ds.walk(undefine)
    return ds


def test_a_data_set_is_the_same_with_other_vrs_and_lengths_and_with_group_lengths_and_padding() -> None:
    ds = image()
    assert same(ds, ds)
    assert same(ds, with_undefined_lengths(ds), EXPLICIT, EXPLICIT)
    assert same(with_undefined_lengths(ds), ds)
    padded = deepcopy(ds)
    padded.add_new(0x00100000, "UL", 42)
    padded.add_new(0xFFFCFFFC, "OB", bytes(8))
    assert same(ds, padded)
    unknown = deepcopy(ds)
    unknown["RescaleSlope"].VR = "UN"
    unknown["RescaleSlope"].value = b"1 "
    assert same(ds, unknown, EXPLICIT, EXPLICIT)


CHANGES: dict[str, Callable[[Dataset], object]] = {
    "a value": lambda ds: make.changed(ds, PatientID="other"),
    "an element more": lambda ds: make.changed(ds, PatientComments="more"),
    "an element less": lambda ds: ds.__delattr__("StudyID"),
    "a value in an item": lambda ds: make.changed(ds.RequestAttributesSequence[1], ScheduledProcedureStepID="C"),
    "an item less": lambda ds: ds.RequestAttributesSequence.pop(),
    "an item elsewhere": lambda ds: ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence.pop(),
    "a private value": lambda ds: ds.private_block(0x0099, "VOXELNODE TEST")[2].__setattr__("value", "other"),
    "a value in a private item": lambda ds: ds[0x00991001].value[0].__setattr__("PatientID", "beside"),
    "a pixel": lambda ds: make.changed(ds, PixelData=ds.PixelData[:-1] + b"\x7f"),
    "fewer pixels": lambda ds: make.changed(ds, PixelData=ds.PixelData[:-2]),
    "no pixels": lambda ds: ds.__delattr__("PixelData"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_one_change_is_a_difference(change: str, syntax: UID) -> None:
    ds = image()
    other = deepcopy(ds)
    CHANGES[change](other)
    assert not same(ds, other, EXPLICIT, syntax)


def test_pixels_longer_than_what_is_read_at_once_are_compared_to_their_end() -> None:
    ds = image()
    ds.PixelData = bytes(3 * WINDOW_BYTES + 10)
    ds.add_new(0xFFFAFFFA, "SQ", [make.dataset(PatientID="behind")])
    assert same(ds, with_undefined_lengths(ds))
    other = deepcopy(ds)
    other.PixelData = bytes(3 * WINDOW_BYTES + 8) + b"\0\1"
    assert not same(ds, other)
    other = deepcopy(ds)
    other[0xFFFAFFFA].value[0].PatientID = "before"
    assert not same(ds, other)


def test_a_header_longer_than_what_is_read_at_once_is_compared() -> None:
    ds = image()
    ds.EncapsulatedDocument = bytes(WINDOW_BYTES)
    assert same(ds, ds)
    assert not same(ds, make.changed(deepcopy(ds), RescaleSlope=2))


def test_a_vr_that_both_have_counts_and_what_is_not_compared_is_different() -> None:
    ds = image()
    signed = deepcopy(ds)
    signed["Rows"].VR = "SS"
    assert not same(ds, signed, EXPLICIT, EXPLICIT)
    for syntax in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        assert not same(ds, ds, EXPLICIT, syntax)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "test-SR.dcm"])
def test_instances_of_many_makers_are_the_same_in_both_encodings(name: str) -> None:
    ds = dcmread(PYDICOM_FILES / name)
    assert same(ds, ds)
    assert same(ds, with_undefined_lengths(ds))


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 2000), byte=st.integers(0, 255), lost=st.integers(0, 3))
def test_bytes_that_mean_no_good_raise_nothing(at: int, byte: int, lost: int) -> None:
    data = encoded(with_undefined_lengths(image()), EXPLICIT)
    spoiled = data[:at] + bytes([byte]) + data[at + 1 + lost :]
    if is_recoded(Encoded.of(data, EXPLICIT), Encoded.of(spoiled, EXPLICIT)):
        assert len(spoiled) == len(data)
