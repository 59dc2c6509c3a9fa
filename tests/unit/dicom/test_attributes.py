"""What the index keeps of a data set."""

import datetime as dt
from io import BytesIO

import pytest
from pydicom import Dataset, config, dcmread, dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.dicom.attributes import InstanceAttributes, date_of, instance_attributes, is_identifier, time_of
from node.dicom.encoding import file_head
from node.errors import NotUnderstood
from tests import make

SYNTAX = ExplicitVRLittleEndian


def attributes(**values: object) -> InstanceAttributes:
    ds = make.dataset(SOPClassUID="1.2.1", SOPInstanceUID="1.2.2", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
    with config.disable_value_validation():
        make.changed(ds, **values)
    stream = BytesIO()
    dcmwrite(stream, ds, implicit_vr=False, little_endian=True)
    return instance_attributes(stream.getvalue(), SYNTAX)


def raw(tag: bytes, vr: bytes, value: bytes) -> bytes:
    return tag + vr + len(value).to_bytes(2, "little") + value


def test_dates_times_and_numbers_are_typed() -> None:
    found = attributes(StudyDate="20240229", StudyTime="101500.25", SeriesNumber="7", Rows=512)
    assert found.study["study_date"] == dt.date(2024, 2, 29)
    assert found.study["study_time"] == "10:15:00.25"
    assert found.series["series_number"] == 7
    assert found.image["rows"] == 512


@pytest.mark.parametrize("text", ["20240230", "99999999", "2024", "", "20240101-20240202", "abc"])
def test_a_date_that_is_none_is_null(text: str) -> None:
    assert date_of(text) is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("10", dt.time(10)),
        ("1015", dt.time(10, 15)),
        ("235960", dt.time(23, 59, 59)),
        ("10:15:30", dt.time(10, 15, 30)),
        ("2515", None),
        ("", None),
        ("1e9", None),
    ],
)
def test_times_come_in_many_lengths(text: str, time: dt.time | None) -> None:
    assert time_of(text) == time


def test_old_dates_with_dots_are_read() -> None:
    assert date_of("1998.03.21") == dt.date(1998, 3, 21)


@pytest.mark.parametrize("text", ["NaN", "1e999", "9" * 5000, "3000000000", "2.5", ""])
def test_an_integer_string_that_is_none_is_null(text: str) -> None:
    data = encoded() + raw(b"\x20\x00\x11\x00", b"IS", text.encode())
    assert instance_attributes(data, SYNTAX).series["series_number"] is None


def test_control_characters_and_escapes_never_reach_the_index() -> None:
    name = raw(b"\x10\x00\x10\x00", b"PN", b"Evil\x1b[31m\r\n\x00Name")
    found = instance_attributes(encoded(name), SYNTAX)
    assert found.patient["patient_name"] is not None
    assert str(found.patient["patient_name"]).isprintable()


def test_an_unknown_character_set_is_no_obstacle() -> None:
    data = raw(b"\x08\x00\x05\x00", b"CS", b"ISO_IR 999 ") + encoded(raw(b"\x10\x00\x10\x00", b"PN", b"M\xfcller"))
    assert instance_attributes(data, SYNTAX).patient["patient_name"] == "Müller"


def test_a_missing_identifier_is_named() -> None:
    with pytest.raises(NotUnderstood, match=r"Study Instance UID \(0020,000D\)"):
        attributes(StudyInstanceUID="")


def test_identifiers_are_visible_ascii_of_up_to_64_characters() -> None:
    assert is_identifier("1.2.3")
    assert is_identifier("9" * 64)
    for wrong in ("", "9" * 65, "1.2\n", "1 2", "1\\2", "ü", None):
        assert not is_identifier(wrong)


def test_the_head_of_a_file_is_read_by_pydicom() -> None:
    ds = make.dataset(PatientID="X")
    stream = BytesIO()
    dcmwrite(stream, ds, implicit_vr=False, little_endian=True)
    head = file_head("1.2.840.10008.5.1.4.1.1.2", "1.2.3", SYNTAX, "MODALITY")
    read = dcmread(BytesIO(head + stream.getvalue()))
    assert read.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert read.PatientID == "X"
    assert len(head) == 144 + read.file_meta.FileMetaInformationGroupLength


def requests(raw: bytes, transfer_syntax_uid: str = SYNTAX) -> object:
    head = b"".join(
        tag + len(b"1.2.").to_bytes(4, "little") + b"1.2."
        if transfer_syntax_uid == ImplicitVRLittleEndian
        else tag + b"UI\4\0" + b"1.2."
        for tag in (b"\x08\0\x16\0", b"\x08\0\x18\0", b"\x20\0\x0d\0", b"\x20\0\x0e\0")
    )
    return instance_attributes(head + raw, transfer_syntax_uid).series["request_attributes"]


def request_item(number: int) -> Dataset:
    item, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "X", "99X", "x" * 60
    item.RequestedProcedureDescription, item.RequestedProcedureCodeSequence = "y" * 60, [code]
    item.ScheduledProcedureStepID, item.RequestedProcedureID = f"S{number}", f"R{number}"
    return item


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_the_requests_of_a_series_are_read_from_every_encoding(implicit: bool, undefined: bool, count: int) -> None:
    ds = Dataset()
    ds.RequestAttributesSequence = Sequence([request_item(number) for number in range(count)])
    ds["RequestAttributesSequence"].is_undefined_length = undefined
    for item in ds.RequestAttributesSequence:
        item.is_undefined_length_sequence_item = undefined
        item["RequestedProcedureCodeSequence"].is_undefined_length = undefined
    stream = BytesIO()
    dcmwrite(stream, ds, implicit_vr=implicit, little_endian=True)
    found = requests(stream.getvalue(), ImplicitVRLittleEndian if implicit else SYNTAX)
    expected = [
        {"ScheduledProcedureStepID": f"S{number}", "RequestedProcedureID": f"R{number}"}
        for number in range(min(count, 16))
    ]
    assert found == expected


@pytest.mark.parametrize(
    "value",
    [b"", b"\xfe\xff", b"\xfe\xff\0\xe0\xff\xff\xff\x7f", b"\xff" * 40, b"\xfe\xff\0\xe0\x04\0\0\0\x40\0\x09\0",
     b"\xfe\xff\0\xe0\x0c\0\0\0" + raw(b"\x40\0\x09\0", b"SH", b"\0\0  "), b"\xfe\xff\x0d\xe0\0\0\0\0"],
)  # fmt: skip
def test_a_broken_sequence_of_requests_has_none(value: bytes) -> None:
    assert requests(b"\x40\0\x75\2SQ\0\0" + len(value).to_bytes(4, "little") + value) is None


UIDS = b"\x08\x00\x16\x00", b"\x08\x00\x18\x00", b"\x20\x00\x0d\x00", b"\x20\x00\x0e\x00"


def encoded(other: bytes = b"", **uids: bytes) -> bytes:
    """A data set with four UIDs, of which some are others by their keyword."""
    keywords = "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"
    values = [uids.get(keyword, b"1.2.") for keyword in keywords]
    elements = [raw(tag, b"UI", value) for tag, value in zip(UIDS, values, strict=True)]
    return b"".join([*elements[:2], other, *elements[2:]])


@pytest.mark.parametrize("uid", [b"1." * 33, b"1.2" + b" " * 5001 + b"3", b"1.2\x013.", b"1.2\n", b"1.\xff2"])
@pytest.mark.parametrize(
    ("keyword", "name"), [("StudyInstanceUID", "Study Instance UID"), ("SeriesInstanceUID", "Series Instance UID")]
)
def test_what_identifies_nothing_is_refused_rather_than_made_an_identifier(uid: bytes, keyword: str, name: str) -> None:
    with pytest.raises(NotUnderstood, match=rf"{name} \(.*\) is missing, or not a UID"):
        instance_attributes(encoded(**{keyword: uid}), SYNTAX)


@pytest.mark.parametrize("text", ["N" * 1024, "山" * 341, "ß" * 512])
def test_a_text_is_whole_however_long_the_standard_lets_it_be(text: str) -> None:
    found = attributes(
        SpecificCharacterSet="ISO_IR 192",
        PatientName=text,
        StudyDescription=text,
        Modality="M" * 40,
        PatientAge="1234Y",
    )
    assert (found.patient["patient_name"], found.study["study_description"]) == (text, text)
    assert (found.series["modality"], found.study["patient_age"]) == ("M" * 40, "1234Y")


@pytest.mark.parametrize("text", ["N" * 1025, "山" * 342, "\ufdfa" * 300, "N" + " " * 5000 + "N"])
def test_a_text_that_no_index_takes_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(NotUnderstood, match=r"Patient's Name \(0010,0010\) has more than 1024 bytes of text"):
        attributes(SpecificCharacterSet="ISO_IR 192", PatientName=text)
    with config.disable_value_validation():
        item = make.dataset(ScheduledProcedureStepID=text)
    with pytest.raises(NotUnderstood, match=r"Scheduled Procedure Step ID \(0040,0009\)"):
        attributes(SpecificCharacterSet="ISO_IR 192", RequestAttributesSequence=Sequence([item]))
