"""In the gate, a test that is skipped has failed, unless the reason is one of a few: nothing is left out in silence.

``VOXELNODE_REQUIRE=everything`` asks for that. The gate installs all programs and packages that tests need.
"""

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

VARIABLE = "VOXELNODE_REQUIRE"

MAY_SKIP = (
    "about SQLite",  # with an index in PostgreSQL
    "needs root",
    "this machine",  # has one disk, one processor, no systemd, or fewer open files
    "this kernel",  # confines nothing
    "for this Python",
    "without the extra ocr",  # takes minutes: `.ci/run --release` has it
    "beside the corpus",  # series that not everybody has
    "pydicom cannot tell",
    "no grey volume with a place",  # a case without anything to compare
    "the page is about another version",
)
"""What the gate cannot have everywhere, or is no want: words of the reasons."""

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


def is_required() -> bool:
    """Return whether everything must be there that a test needs."""
    return bool(os.environ.get(VARIABLE))


class NoSilentSkips:
    """The plugin: fails tests, and files of tests, that are skipped for another reason than those of `MAY_SKIP`."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        return _failed((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return _failed((yield))


def _failed(report: _Report) -> _Report:
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(words in reason for words in MAY_SKIP):
            report.outcome = "failed"
            report.longrepr = f"{reason}, but {VARIABLE} asks for everything (tests/skips.py has what may be missing)"
    return report
