"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = frozenset(os.environ.get("VOXELNODE_REQUIRE", "").split(","))
"""``peers``, ``corpus``: what must be there, so that a test that is skipped for want of it has failed."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, Any]:
    report = yield
    needs = {"peers" for _ in item.iter_markers("peer")} | {"corpus" for _ in item.iter_markers("corpus")}
    if "corpus" in getattr(item, "fixturenames", ()):
        needs.add("corpus")
    if report.skipped and not hasattr(report, "wasxfail") and needs & REQUIRED:
        report.outcome = "failed"
        report.longrepr = (
            f"skipped, but VOXELNODE_REQUIRE asks for {', '.join(sorted(needs & REQUIRED))}: {call.excinfo}"
        )
    return report


def corpus_folder() -> Path:
    """Where the corpus of real series is looked for."""
    return Path(os.environ.get("VOXELNODE_CORPUS", ROOT.parent / "shared" / "corpus"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of the corpus of real series; tests that need it are skipped where it is missing."""
    folder = corpus_folder()
    if not (folder / "expected.json").is_file():
        pytest.skip(f"no corpus of real series at {folder}; set VOXELNODE_CORPUS")
    return folder
