"""The public page of names: what it says, and that the example needs no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import node.api

ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[tuple[str, str]]:
    """Return the names that a module imports from the node, with their modules."""
    statements = (one for one in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(one, ast.ImportFrom))
    return {(one.module or "", name.name) for one in statements for name in one.names}


def test_each_name_is_what_its_type_says() -> None:
    declared = {one for one in imported(ROOT / "node" / "api.py") if one[0].startswith("node.")}
    assert declared == {(module, name) for module, names in node.api.PLACES.items() for name in names.split()}
    assert all(getattr(node.api, name) is not None for name in node.api.__all__)
    with pytest.raises(AttributeError, match=r"docs/extensions\.md"):
        node.api.nothing  # noqa: B018


def test_the_example_imports_nothing_else_of_the_node() -> None:
    for path in (ROOT / "examples" / "voxelnode-hello").rglob("*.py"):
        assert {module for module, _ in imported(path) if module.split(".")[0] == "node"} <= {"node.api"}, path
