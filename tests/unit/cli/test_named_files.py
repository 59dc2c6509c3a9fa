"""Lists of skipped and refused files: the first ones, on one line each, and how many more there are."""

from __future__ import annotations

import pytest

from node.cli.output import MAX_NAMED_FILES, named_files


@pytest.mark.parametrize(("more", "last"), [(0, []), (1, ["1 more file"]), (2, ["2 more files"])])
def test_many_files_are_cut_to_the_first_and_a_count(more: int, last: list[str]) -> None:
    lines = list(named_files("skipped", [("a\x1b\nb", "not a DICOM file")] * (MAX_NAMED_FILES + more)))
    assert lines[:MAX_NAMED_FILES] == [r"skipped a\x1b\nb: not a DICOM file"] * MAX_NAMED_FILES
    assert lines[MAX_NAMED_FILES:] == [f"skipped {count}; --json lists all" for count in last]
