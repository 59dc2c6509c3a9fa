"""ORU^R01 of results, and what acknowledgments of them mean."""

from __future__ import annotations

import datetime as dt

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.extensions.hl7_results.oru import Envelope, NoResult, is_result, oru_of
from node.extensions.hl7_results.sending import verdict_of
from node.extensions.worklist.hl7 import Message, parse
from tests import make

ENVELOPE = Envelope("NODE^WEST", "RIS", "C1", dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC))


def code(value: str, scheme: str, meaning: str) -> Sequence:
    return Sequence([make.dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)])


def item(kind: str, concept: Sequence, *below: Dataset, **values: object) -> Dataset:
    return make.dataset(
        RelationshipType="CONTAINS", ValueType=kind, ConceptNameCodeSequence=concept, **values,
        **({"ContentSequence": Sequence(below)} if below else {}),
    )  # fmt: skip


def report(*content: Dataset, **attributes: object) -> Dataset:
    ds = make.structured_report(
        study_uid="1.2.3", series_uid="1.2.3.1", sop_instance_uid="1.2.3.1.1", PatientID="P|1", AccessionNumber="A7",
        PatientName="Müller^Jörg^Q^Dr^III=x", PatientBirthDate="19700131", PatientSex="M", StudyDate="20260304",
        StudyTime="101112.5", StudyDescription="Chest & more", **attributes,
    )  # fmt: skip
    ds.ConceptNameCodeSequence = code("126000", "DCM", "Imaging Measurement Report")
    ds.ContentSequence = Sequence(content)
    return ds


def parsed(ds: Dataset) -> Message:
    return parse(oru_of(ds, ENVELOPE))


def observations(message: Message) -> list[list[str]]:
    return [list(segment[2:]) for segment in message.segments if segment[0] == "OBX"]


def test_measurements_codes_and_texts_of_a_report_are_observations_at_their_places() -> None:
    volume = item("NUM", code("118565006", "SCT", "Volume"))
    volume.MeasuredValueSequence = [
        make.dataset(NumericValue="12.5", MeasurementUnitsCodeSequence=code("cm3", "UCUM", "cubic centimeter"))
    ]
    none = item("NUM", code("1", "99X", "Lesions"))
    none.MeasuredValueSequence = [
        make.dataset(NumericValue="0", MeasurementUnitsCodeSequence=code("1", "UCUM", "no units"))
    ]
    missing = item("NUM", code("410668003", "SCT", "Length"))
    library = item(
        "CONTAINER", code("111028", "DCM", "Image Library"), item("TEXT", code("1", "99X", "x"), TextValue="x")
    )
    group = item(
        "CONTAINER", code("125007", "DCM", "Measurement Group"), volume, none, missing,
        item("TEXT", code("121106", "DCM", "Comment"), TextValue="two|lines\r\nof ^ text"),
        item("CODE", code("121071", "DCM", "Finding"), ConceptCodeSequence=code("108369006", "SCT", "Neoplasm")),
    )  # fmt: skip
    message = parsed(report(library, group))
    header, patient, request = (message.named(name) for name in ("MSH", "PID", "OBR"))
    assert header[2:9] == ("NODE", "WEST", "RIS", "", "20260304050607+0000", "", "ORU^R01^ORU_R01")
    assert message.value(patient, 3) == "P|1"
    assert patient[5:9] == ("Müller^Jörg^Q^III^Dr", "", "19700131", "M")
    assert (request[3], request[18], request[7], request[25]) == ("A7", "A7", "20260304101112", "R")
    assert message.value(request, 4, 2) == "Chest & more"
    assert observations(message) == [
        ["ST", "110180^Study Instance UID^DCM", "", "1.2.3", "", "", "", "", "", "R"],
        ["ST", "112002^Series Instance UID^DCM", "", "1.2.3.1", "", "", "", "", "", "R"],
        ["ST", "110181^SOP Class UID^DCM", "", "1.2.840.10008.5.1.4.1.1.88.33", "", "", "", "", "", "R"],
        ["RP", "126000^Imaging Measurement Report^DCM", "", "1.2.3.1.1^^AP^dicom", "", "", "", "", "", "R"],
        ["NM", "118565006^Volume^SCT", "2.1", "12.5", "cm3^cubic centimeter^UCUM", "", "", "", "", "R"],
        ["NM", "1^Lesions^99X", "2.2", "0", "1^no units^UCUM", "", "", "", "", "R"],
        ["NM", "410668003^Length^SCT", "2.3", "", "", "", "", "", "", "X"],
        ["FT", "121106^Comment^DCM", "2.4", r"two\F\lines\.br\of \S\ text", "", "", "", "", "", "R"],
        ["CWE", "121071^Finding^DCM", "2.5", "108369006^Neoplasm^SCT", "", "", "", "", "", "R"],
    ]


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        ({"VerificationFlag": "VERIFIED"}, "F"),
        ({"VerificationFlag": "VERIFIED", "PreliminaryFlag": "PRELIMINARY"}, "P"),
        ({"CompletionFlag": "PARTIAL"}, "P"),
    ],
)
def test_the_status_is_that_of_the_report(flags: dict[str, str], status: str) -> None:
    ds = report()
    for keyword, value in flags.items():
        setattr(ds, keyword, value)
    message = parsed(ds)
    assert {one[9] for one in observations(message)} == {message.named("OBR")[25]} == {status}


@pytest.mark.slow
def test_a_report_without_bounds_is_refused_and_an_original_is_no_result() -> None:
    deep = item("TEXT", code("1", "99X", "x"), TextValue="x")
    for _ in range(70):
        deep = item("CONTAINER", code("1", "99X", "x"), deep)
    with pytest.raises(NoResult, match="levels"):
        oru_of(report(deep), ENVELOPE)
    with pytest.raises(NoResult, match="5000"):
        oru_of(report(*(item("TEXT", code("1", "99X", "x"), TextValue="x") for _ in range(5001))), ENVELOPE)
    assert is_result("1.2.840.10008.5.1.4.1.1.66.4")
    assert is_result("1.2.840.10008.5.1.4.1.1.7")
    assert not is_result("1.2.840.10008.5.1.4.1.1.2")
    assert not is_result("1.2.840.10008.5.1.4.1.1.77.1.6")


def test_numbers_have_no_exponent_and_lines_end_only_in_formatted_text() -> None:
    def number(written: str) -> Dataset:
        one = item("NUM", code("1", "99X", "two\r\nlines"))
        one.MeasuredValueSequence = [make.dataset(NumericValue=written)]
        return one

    message = parsed(report(number("1.5E-3"), number("-2e+2"), number("1E-300"), number("12.50")))
    assert [one[:4:3] for one in observations(message)][4:] == [
        ["NM", "0.0015"], ["NM", "-200"], ["ST", "1E-300"], ["NM", "12.50"],
    ]  # fmt: skip
    assert observations(message)[4][1] == "1^two lines^99X"


@pytest.mark.parametrize(
    ("msa", "is_final", "reason"),
    [
        ("MSA|AR|C1\rERR|||203|E", True, "with AR: unsupported version id (203)"),
        ("MSA|AR|C1", False, "with AR: its log"),
        ("MSA|AE|C1|Jane Doe is unknown", True, "with AE: its log"),
        ("MSA|AE|C1\rERR||OBX^2^5|206|E", False, "application record locked (206) at OBX-5"),
    ],
)
def test_a_refusal_is_final_unless_its_code_says_otherwise(msa: str, is_final: bool, reason: str) -> None:
    problem = verdict_of(f"MSH|^~\\&|||||||ACK|1|P|2.5.1\r{msa}\r".encode(), "C1")
    assert problem is not None
    assert problem.is_final is is_final
    assert reason in str(problem)
    assert "Doe" not in str(problem)
