"""Answers are encoded as pydicom encodes the same data sets, and are what it reads."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.answers import Answer, AnswerEncoder, answer_model, encoded_data_set
from node.dicom.keys import KEYS_OF_ANSWERS, Level, key_of
from tests import make

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
ITEM_KEYWORDS = ("ScheduledProcedureStepID", "RequestedProcedureID")

ITEMS = st.lists(
    st.fixed_dictionaries({keyword: st.sampled_from(["", "S1", "Rü"]) for keyword in ITEM_KEYWORDS}), max_size=2
)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "PatientName": st.sampled_from(["", "Doe^Jane", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Müller^Jörg"]),
        "PatientID": st.sampled_from(["", "A", "AB", "Ä%_["]),
        "StudyDate": st.sampled_from(["", "20240131"]),
        "StudyTime": st.sampled_from(["", "101530.250000"]),
        "StudyInstanceUID": st.sampled_from(["1.2.3", "1.2.34"]),
        "ModalitiesInStudy": st.sampled_from(["", "CT", "CT\\SR", "CT\\MR\\PT"]),
        "SOPClassesInStudy": st.sampled_from(["", "1.2.3\\1.2.4"]),
        "NumberOfStudyRelatedInstances": st.one_of(st.just(""), st.integers(0, 10**6).map(str)),
        "Rows": st.one_of(st.just(""), st.integers(0, 65535).map(str)),
        "PatientAge": st.just("045Y"),
        "RetrieveAETitle": st.just("VOXELNODE"),
        "RequestAttributesSequence": ITEMS,
    },
)


def data_set(answer: Mapping[str, Any], *, is_item: bool = False) -> Dataset:
    """The same with pydicom."""
    ds = Dataset()
    for keyword, value in answer.items():
        vr = dictionary_VR(keyword)
        if vr == "SQ":
            ds.add(DataElement(keyword, vr, [data_set(item, is_item=True) for item in value]))
        else:
            number = int(value) if vr in ("IS", "US") and value else value or None
            ds.add(DataElement(keyword, vr, number, validation_mode=pydicom_config.IGNORE))
    if not is_item and not str(answer).isascii():
        ds.SpecificCharacterSet = "ISO_IR 192"
    return ds


def encoded(answer: Answer, syntax: UID) -> bytes:
    return AnswerEncoder(answer, syntax, {"RequestAttributesSequence": ITEM_KEYWORDS}).encode(answer)


@pytest.mark.slow
@given(answer=ANSWERS, syntax=st.sampled_from(SYNTAXES))
def test_answers_are_encoded_as_pydicom_does(answer: Answer, syntax: Any) -> None:
    stream = BytesIO()
    target = DicomIO(stream)
    target.is_implicit_VR, target.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(target, data_set(answer), "utf-8")
    assert encoded(answer, syntax) == encoded_data_set(data_set(answer), syntax) == stream.getvalue()


@given(answer=ANSWERS)
def test_the_json_model_is_the_one_of_pydicom(answer: Answer) -> None:
    expected = data_set(answer).to_json_dict()
    found = answer_model(answer)
    assert found.keys() == expected.keys()
    assert without_empty(found) == without_empty(expected)


def without_empty(value: Any) -> Any:
    """A model without empty values, which pydicom writes in several ways."""
    if isinstance(value, dict):
        return {name: inner for name, given in value.items() if (inner := without_empty(given))}
    return [without_empty(inner) for inner in value] if isinstance(value, list) else value


def test_an_empty_alphabetic_name_is_left_out() -> None:
    """PS3.18 F.2.2."""
    assert answer_model({"PatientName": "=山"})["00100010"] == {"vr": "PN", "Value": [{"Ideographic": "山"}]}


def test_attributes_that_an_answer_lacks_are_empty() -> None:
    ds = read_dataset(BytesIO(AnswerEncoder(["PatientID", "Rows"], ExplicitVRLittleEndian).encode({})), False, True)
    assert [(element.keyword, element.value) for element in ds] == [("PatientID", ""), ("Rows", None)]


def test_values_too_long_for_their_representation_are_of_unknown_representation() -> None:
    value = "\\".join(["1.2.840.10008.5.1.4.1.1.2"] * 3000)
    for syntax in SYNTAXES:
        content = encoded({"PatientID": "A", "SOPClassesInStudy": value, "StudyID": "7"}, syntax)
        read = read_dataset(BytesIO(content), syntax.is_implicit_VR, syntax.is_little_endian)
        assert (read.PatientID, read.StudyID) == ("A", "7")
        classes = read.SOPClassesInStudy
        assert (classes.decode() if isinstance(classes, bytes) else "\\".join(classes)).rstrip("\0") == value


def test_representations_of_keys_are_those_of_the_dictionary() -> None:
    for keyword in KEYS_OF_ANSWERS:
        assert key_of(keyword, Level.STUDY).vr == dictionary_VR(keyword)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "element",
    [
        DataElement("PatientName", "PN", "Müller^Jörg"),
        DataElement("ModalitiesInStudy", "CS", ["CT", "SR"]),
        DataElement("Rows", "US", 512),
        DataElement("StudyDescription", "LO", ["Ä", "B"]),
        DataElement("RequestAttributesSequence", "SQ", [make.dataset(PatientComments="ä\\ö", ReferencedFrameNumber=3)]),
        DataElement("DiffusionBValue", "FD", 0.5),
        DataElement("FrameIncrementPointer", "AT", 0x00181063),
        DataElement("SOPClassesInStudy", "UI", ["1.2.3.4"] * 10_000, validation_mode=pydicom_config.IGNORE),
    ],
)
def test_every_representation_is_read_back(element: DataElement, syntax: Any) -> None:
    ds = Dataset()
    ds.add(element)
    read = read_dataset(BytesIO(encoded_data_set(ds, syntax)), syntax.is_implicit_VR, syntax.is_little_endian)
    found = read[element.tag].value
    assert (found.decode().rstrip("\0").split("\\") if isinstance(found, bytes) else found) == element.value


def test_sequences_are_read_back() -> None:
    step = make.dataset(ScheduledProcedureStepID="S1", Modality="CT")
    ds = make.dataset(RequestAttributesSequence=[step, make.dataset(RequestedProcedureID="Rü")], PatientID="P")
    ds.ScheduledProcedureStepSequence = [make.dataset(ScheduledProtocolCodeSequence=[make.dataset(CodeValue="1")])]
    ds.ReferencedStudySequence = []
    for syntax in SYNTAXES:
        stream = BytesIO(encoded_data_set(ds, syntax))
        read = read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian)
        assert read.RequestAttributesSequence[0].ScheduledProcedureStepID == "S1"
        assert read.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence[0].CodeValue == "1"
        assert (len(read.RequestAttributesSequence), len(read.ReferencedStudySequence)) == (2, 0)
        assert read.PatientID == "P"
