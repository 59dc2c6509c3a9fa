"""The list of what remains has all of it."""

from __future__ import annotations

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
