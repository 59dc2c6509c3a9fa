"""Names in docstrings and comments are those of the code: modules, their members, and parameters."""

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NAME = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)`(?!`)")
"""In one pair of backticks; what is in two is no name of the code."""
DOCUMENTED = re.compile(r"\s*(`[a-z_]\w*`(?:(?:, (?:and )?| and )`[a-z_]\w*`)*)(?:, [^:\n]{0,60})?:(?:\s|$)")
"""A line that begins with `NAME` or several: they are parameters, fields, or attributes of an object."""

NAMED = frozenset(["name", "id", "attr", "arg", "asname", "module"])


def _texts(source: str, parts: Iterable[ast.AST]) -> Iterator[str]:
    """Yield docstrings, also those below what they describe, and comments."""
    for part in parts:
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
            yield part.value.value
    yield from re.findall("#.*", source)


def _names(parts: Iterable[ast.AST]) -> Iterator[str]:
    for part in parts:
        for field in NAMED.intersection(part._fields):
            yield from (getattr(part, field) or "").split(".")
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value) < 60:
            yield part.value  # a column, or a key


def _without_parameter(parts: Iterable[ast.AST]) -> Iterator[str]:
    """Yield what a docstring documents and neither a signature nor a class has; a class with bases may inherit it."""
    for part in parts:
        if not isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or getattr(part, "bases", None):
            continue
        lines = map(DOCUMENTED.match, (ast.get_docstring(part) or "").splitlines())
        if documented := [name for found in lines if found for name in NAME.findall(found[1])]:
            if isinstance(part, ast.ClassDef):
                own = set(_names(ast.walk(part)))
            else:
                own = {one.arg for one in ast.walk(part.args) if isinstance(one, ast.arg)}
            yield from (f"{part.name}: {name}" for name in documented if name not in own)


def _dangling(sources: dict[str, str]) -> Iterator[str]:
    """Yield names of `sources`, by dotted module, that lead nowhere. Modules may be named by the end of their path."""
    members: dict[str, set[str]] = defaultdict(set)
    known = set(dir(builtins))
    named: dict[str, list[str]] = {}
    for module, source in sources.items():
        tree = list(ast.walk(ast.parse(source)))
        named[module] = [name for text in _texts(source, tree) for name in NAME.findall(text)]
        yield from (f"{module}.{name}" for name in _without_parameter(tree))
        own = set(_names(tree))
        known |= own
        parts = module.split(".")
        for begin in range(len(parts)):
            members[".".join(parts[begin:])] |= own
            for end in range(begin + 1, len(parts)):
                members[".".join(parts[begin:end])].add(parts[end])
    for module, names in named.items():
        for name in names:
            head, _, last = name.rpartition(".")
            if name not in members and not (last in members[head] if head in members else {*name.split(".")} <= known):
                yield f"{module}: {name}"


@pytest.mark.slow
def test_names_in_docstrings_resolve() -> None:
    paths = sorted(
        path for room in ("node", "tests") for path in (ROOT / room).rglob("*.py") if ".venv" not in path.parts
    )
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    assert list(_dangling({module: path.read_text("utf-8") for module, path in modules.items()})) == []


def test_a_name_that_leads_nowhere_is_found() -> None:
    source = (
        'def read(path):\n    """See `a.write`, `a.read`, `Reader` and `gone.b`.\n\n    `path`, `size`: of it.\n    """'
    )
    assert list(_dangling({"node.a": source})) == [
        *("node.a.read: size", "node.a: a.write", "node.a: Reader", "node.a: gone.b", "node.a: size")
    ]
