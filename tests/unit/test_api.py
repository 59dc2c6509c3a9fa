"""The public page of names: what it says, and who needs no other."""

import ast
from pathlib import Path

import pytest

import node.api

ROOT = Path(__file__).resolve().parents[2]


EXTENSIONS = ROOT / "node" / "extensions"

BEYOND_THE_PAGE = frozenset(
    {
        *("administration", "backup", "bids", "conformance", "deidentify", "dicomweb", "media"),
        *("object_store", "pages", "peers", "postgresql", "projects", "pynetdicom_acceptor", "results", "shares"),
        *("spectroscopy", "worklist"),
    }
)
"""Extensions of the node that import from its core what the page has not. No other may, and none comes to this list."""


def imported(path: Path) -> set[tuple[str, str]]:
    """Return the names that a module imports, with their modules."""
    found: set[tuple[str, str]] = set()
    for one in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(one, ast.ImportFrom):
            found |= {(one.module or "", name.name) for name in one.names}
        elif isinstance(one, ast.Import):
            found |= {(name.name, "") for name in one.names}
    return found


def of_the_core(path: Path, own: str) -> set[str]:
    """Return the modules of the node that a module imports, but those of the package that it is part of."""
    modules = {module for module, _ in imported(path) if module.split(".")[0] == "node"}
    return {module for module in modules if not f"{module}.".startswith(f"{own}.")}


def test_each_name_is_what_its_type_says() -> None:
    declared = {one for one in imported(ROOT / "node" / "api.py") if one[0].startswith("node.")}
    assert {name for _, name in declared} == set(node.api.__all__)
    assert all(getattr(node.api, name) is not None for name in node.api.__all__)
    with pytest.raises(AttributeError, match=r"docs/extensions\.md"):
        node.api.nothing  # noqa: B018


def test_the_example_imports_nothing_else_of_the_node() -> None:
    for path in (ROOT / "examples" / "voxelnode-hello").rglob("*.py"):
        assert of_the_core(path, "voxelnode_hello") <= {"node.api"}, path


@pytest.mark.slow
def test_only_listed_extensions_import_what_the_page_has_not() -> None:
    more = {
        path.relative_to(EXTENSIONS).parts[0]
        for path in EXTENSIONS.glob("*/**/*.py")
        if of_the_core(path, f"node.extensions.{path.relative_to(EXTENSIONS).parts[0]}") - {"node.api"}
    }
    assert more == BEYOND_THE_PAGE, "import from node.api, and take from the list who does"
