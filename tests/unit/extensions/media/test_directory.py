"""The records of a DICOMDIR."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from node.extensions.media.directory import Directory, NotOnMedia, records_of
from tests import make


def test_an_instance_of_which_no_record_can_be_made_is_refused_alone() -> None:
    odd, directory = make.instance(PatientID="P1", PatientBirthDate="19700101", Rows=1), Directory("X")
    rows = Tag(0x0028, 0x0010)
    odd[rows] = RawDataElement(rows, "US", 3, b"abc", 0, False, True)  # type: ignore[assignment]
    with pytest.raises(NotOnMedia, match="record of type IMAGE"):
        directory.add(records_of(odd, ExplicitVRLittleEndian))
    assert not directory.invented
    directory.add(
        records_of(make.instance(PatientID="P1", PatientBirthDate="19710101", Rows=1), ExplicitVRLittleEndian)
    )
    assert directory.instances == 1


def test_a_document_without_a_title_gets_none_and_each_class_of_radiotherapy_its_type(tmp_path: Path) -> None:
    directory = Directory("X")
    kinds = {
        "104.1": "ENCAP DOC", "481.22": "RADIOTHERAPY", "481.23": "IMAGE", "481.24": "IMAGE", "481.25": "RADIOTHERAPY",
    }  # fmt: skip
    for sop_class in kinds:
        ds = make.instance(PatientID="P1", SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{sop_class}", Rows=1)
        ds.ContentDate, ds.ContentTime = "20260101", "120000"
        directory.add(records_of(ds, ExplicitVRLittleEndian))
    (tmp_path / "DICOMDIR").write_bytes(directory.encoded())
    records = dcmread(tmp_path / "DICOMDIR").DirectoryRecordSequence
    leaves = {str(one.ReferencedSOPClassUIDInFile)[24:]: one for one in records if "ReferencedSOPClassUIDInFile" in one}
    assert {sop_class: one.DirectoryRecordType for sop_class, one in leaves.items()} == kinds
    assert leaves["104.1"]["ConceptNameCodeSequence"].is_empty
    assert "ConceptNameCodeSequence" not in directory.invented


def test_values_that_their_representation_cannot_have_do_not_get_into_the_dicomdir(tmp_path: Path) -> None:
    ds = make.instance(Rows=2, Columns=2)
    wrong = {"PatientBirthDate": "***", "StudyDate": "1.2.2026", "StudyTime": "noon", "ImageType": ["ORIGINAL", "A/B"]}
    ds.update(make.dataset(**wrong))
    directory = Directory("X")
    directory.add(records_of(ds, ExplicitVRLittleEndian))
    path = tmp_path / "DICOMDIR"
    path.write_bytes(directory.encoded())
    patient, study, _, image = dcmread(path).DirectoryRecordSequence
    assert (study.StudyDate, study.StudyTime) == ("19000101", "000000")
    assert "PatientBirthDate" not in patient
    assert "ImageType" not in image
    assert directory.invented == {"StudyDate", "StudyTime"}
