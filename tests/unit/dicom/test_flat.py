"""What is encoded here is what pydicom reads, and what it would have written."""

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, config
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.answers import encoded_data_set
from tests import make

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)

values = st.fixed_dictionaries(
    {},
    optional={
        "PatientName": st.sampled_from([None, "Doe^Jane", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Müller^Jörg"]),
        "PatientID": st.sampled_from([None, "A", "AB", "Ä%_["]),
        "StudyDate": st.sampled_from([None, "20240131"]),
        "StudyTime": st.sampled_from([None, "101530.250000"]),
        "StudyInstanceUID": st.sampled_from(["1.2.3", "1.2.34"]),
        "ModalitiesInStudy": st.sampled_from([None, "CT", ["CT", "SR"], ["CT", "MR", "PT"]]),
        "SOPClassesInStudy": st.sampled_from([None, ["1.2.3", "1.2.4"]]),
        "NumberOfStudyRelatedInstances": st.one_of(st.none(), st.integers(0, 10**6)),
        "Rows": st.one_of(st.none(), st.integers(0, 65535)),
        "PatientAge": st.just("045Y"),
        "RetrieveAETitle": st.just("VOXELNODE"),
    },
)


def data_set(reported: dict[str, Any]) -> Dataset:
    named = {} if str(reported).isascii() else {"SpecificCharacterSet": "ISO_IR 192"}
    return make.changed(make.dataset(**named), **reported)


@pytest.mark.slow
@given(reported=values, syntax=st.sampled_from(SYNTAXES))
def test_it_is_encoded_as_pydicom_does(reported: dict[str, Any], syntax: Any) -> None:
    ds = data_set(reported)
    stream = BytesIO()
    target = DicomIO(stream)
    target.is_implicit_VR, target.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(target, ds, "utf-8")
    assert encoded_data_set(ds, syntax) == stream.getvalue()


def test_it_is_read_back() -> None:
    ds = data_set({"PatientName": "Müller^Jörg", "ModalitiesInStudy": ["CT", "SR"], "Rows": 512})
    for syntax in SYNTAXES:
        stream = BytesIO(encoded_data_set(ds, syntax))
        read = read_dataset(stream, syntax.is_implicit_VR, syntax.is_little_endian)
        assert (read.PatientName, list(read.ModalitiesInStudy), read.Rows) == ("Müller^Jörg", ["CT", "SR"], 512)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize(
    "element",
    [
        DataElement("StudyDescription", "LO", ["Ä", "B"]),
        DataElement("RequestAttributesSequence", "SQ", [make.dataset(PatientComments="ä\\ö", ReferencedFrameNumber=3)]),
        DataElement("DiffusionBValue", "FD", 0.5),
        DataElement("FrameIncrementPointer", "AT", 0x00181063),
        DataElement("SOPClassesInStudy", "UI", ["1.2.3.4"] * 10_000, validation_mode=config.IGNORE),
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
