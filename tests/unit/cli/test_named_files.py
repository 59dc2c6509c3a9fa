"""Lists of skipped and refused files: the first ones, on one line each, and how many more there are."""

import pytest

from node.cli.output import MAX_NAMED_FILES, MAX_OF_A_REASON, named_files


@pytest.mark.parametrize(("more", "last"), [(0, []), (1, ["1 more file"]), (2, ["2 more files"])])
def test_many_files_are_cut_to_the_first_and_a_count(more: int, last: list[str]) -> None:
    files = [("a\x1b\nb", f"damaged at {number // 2}") for number in range(MAX_NAMED_FILES + more)]
    lines = list(named_files("skipped", files))
    assert lines[:MAX_NAMED_FILES] == [
        rf"skipped a\x1b\nb: damaged at {number // 2}" for number in range(MAX_NAMED_FILES)
    ]
    assert lines[MAX_NAMED_FILES:] == [f"skipped {count}; --json lists all" for count in last]


def test_a_few_files_with_one_reason_are_all_named() -> None:
    files = [(f"{number}.gz", "compressed with gzip") for number in range(5)]
    assert list(named_files("skipped", files)) == [f"skipped {name}: {reason}" for name, reason in files]


def test_many_files_with_one_reason_hide_no_other() -> None:
    files = [(f"{number}.gz", "compressed with gzip") for number in range(MAX_NAMED_FILES + 1)]
    first = ", ".join(name for name, _ in files[:MAX_OF_A_REASON])
    assert list(named_files("skipped", [*files, ("notes.txt", "not a DICOM file")])) == [
        f"skipped {len(files)} files: compressed with gzip: {first}, ...",
        "skipped notes.txt: not a DICOM file",
    ]
