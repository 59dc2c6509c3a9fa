"""The list of what remains has all of it."""

from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from node.extensions.deidentify.remaining import NOT_READABLE, Remaining
from tests import make


def test_an_element_that_cannot_be_read_is_listed_as_such() -> None:
    ds = make.dataset(StudyDescription="Head")
    tag = BaseTag(0x00280010)
    ds[tag] = RawDataElement(tag, "US", 3, b"\0\1\2", 0, False, True)
    remaining = Remaining()
    remaining.add(ds)
    assert list(remaining.lines()) == [
        ("StudyDescription", "(0008,1030)", "LO", "Head", 1),
        ("Rows", "(0028,0010)", "", NOT_READABLE, 1),
    ]


def test_a_spreadsheet_takes_no_text_of_the_list_for_a_formula() -> None:
    texts = ["=1+1", "+cmd", "@SUM(A1)", "-2+3", "\tx"]
    remaining = Remaining()
    for text in (*texts, "-5.25", "+1e-3"):
        remaining.add(make.dataset(StudyDescription=text))
    lines = remaining.as_csv().decode().splitlines()
    assert [line.split(",")[4] for line in lines[1:]] == [*(f"'{text}" for text in texts), "-5.25", "+1e-3"]
