"""Tests enter by associations, HTTP, commands, `node.open` and views; those of pure functions are in tests/unit."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]

MOST_MODULES = 289
"""Of `node`, imported by tests outside tests/unit. It falls; who adds one finds another door."""


def test_tests_import_no_more_modules_of_the_node() -> None:
    imported = {
        module
        for folder in (TESTS, *(one for one in TESTS.iterdir() if one.is_dir() and one.name not in ("unit", "interop")))
        for path in (folder.glob("*.py") if folder == TESTS else folder.rglob("*.py"))
        for module in re.findall(r"^ *from (node\b\S*) import", path.read_text(), re.MULTILINE)
    }
    assert len(imported) <= MOST_MODULES
