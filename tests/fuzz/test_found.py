"""What fuzzing found, each made anew."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
from pydicom import FileDataset

from tests import make
from tests.fuzz.target import joined, run


def a_number_that_no_range_holds() -> list[FileDataset]:
    """The whole series failed: OverflowError while the missing Instance Numbers were counted."""
    series = make.mr_series(3)
    series[1].InstanceNumber = "99999999999999999999"
    return series


@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it writes
@pytest.mark.parametrize("made", [a_number_that_no_range_holds])
def test_what_was_found_is_converted_or_refused(made: Callable[[], list[FileDataset]]) -> None:
    files = []
    for ds in made():
        ds.save_as(file := BytesIO(), enforce_file_format=True)
        files.append(file.getvalue())
    run(joined(files))
