"""Command lines of dcm2niix become those that the documents give for them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from node.cli.convert.from_dcm2niix import rewritten

DOCUMENT = Path(__file__).parents[3] / "docs" / "convert.md"
PAIRS = re.findall(r"^\| `dcm2niix (.*?)` \| `(voxelnode .*?)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)


def words(line: str | None) -> list[str]:
    return sorted(shlex.split(line or ""))


def test_each_line_of_the_documents_is_what_is_told() -> None:
    assert len(PAIRS) > 5
    for theirs, ours in PAIRS:
        told = rewritten(shlex.split(theirs))
        if "-f" not in shlex.split(ours):  # the name is the one that files have without -f
            told = re.sub(r" -f \S+", "", told or "")
        assert words(told) == words(ours)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("-z y scans", "voxelnode convert -o OUT --flat scans"),
        ("-9 -z y -o v 'my scans'", "voxelnode convert -o v --flat 'my scans'"),
        ("-v y -b n -m n -o v scans", "voxelnode convert -o v --flat --no-compress scans"),
    ],
)
def test_options_that_change_nothing_here_are_not_in_the_line(theirs: str, ours: str) -> None:
    assert rewritten(shlex.split(theirs)) == ours


@pytest.mark.parametrize("theirs", ["-z y --flat scans", "-z y", "scans -z", "-o v -z y"])
def test_what_is_no_command_line_of_dcm2niix_is_not_rewritten(theirs: str) -> None:
    assert rewritten(shlex.split(theirs)) is None
