"""What fuzzing found, each made anew."""

from collections.abc import Callable

import pytest
from pydicom import DataElement, FileDataset
from pydicom.datadict import tag_for_keyword

from tests import make
from tests.fuzz.target import joined, run


def a_number_that_no_range_holds() -> list[FileDataset]:
    """The whole series failed: OverflowError while the missing Instance Numbers were counted."""
    series = make.mr_series(3)
    series[1].InstanceNumber = "99999999999999999999"
    return series


def uids_that_are_called_names(*keywords: str) -> list[FileDataset]:
    """The whole series failed: the identity of an instance was empty, whatever was put in its place."""
    series = make.mr_series(3)
    for ds in series:
        for keyword in keywords:
            ds[keyword] = DataElement(tag_for_keyword(keyword), "PN", str(ds[keyword].value))
    return series


def a_uid_that_is_called_a_name() -> list[FileDataset]:
    """Of the instance alone."""
    return uids_that_are_called_names("SOPInstanceUID")


def all_uids_that_are_called_names() -> list[FileDataset]:
    """Of the class, the instance, the study, the series and the frame of reference."""
    keywords = "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"
    return uids_that_are_called_names(*keywords)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it writes
@pytest.mark.parametrize(
    "made", [a_number_that_no_range_holds, a_uid_that_is_called_a_name, all_uids_that_are_called_names]
)
def test_what_was_found_is_converted_or_refused(made: Callable[[], list[FileDataset]]) -> None:
    run(joined([make.as_file(ds) for ds in made()]))
