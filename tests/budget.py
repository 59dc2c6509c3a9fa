"""How large the project is, and how large it may be: the table of docs/project/development.md.

``python -m tests.budget`` gives the figures there that do not fit the tree any more.
"""

import ast
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from node.index.rows.extension_tables import every_table
from node.registry import KIND_TABLES
from node.settings.model import Settings
from node.settings.tables import kinds

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "project" / "development.md"
STATEMENT = ROOT / "docs" / "conformance.md"
BEGIN, END = "<!-- budget: begin -->", "<!-- budget: end -->"

LOOSE = 1.02
"""A figure that the tree does not reach by more than this is none that holds."""

INSTALLED = frozenset({"node_modules", ".venv"})


def code_lines(source: str) -> int:
    """Return the lines of a module that hold more than a comment or a part of a docstring, and are not blank."""
    strings, docstrings = set[int](), set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant | ast.JoinedStr) and isinstance(getattr(node, "value", ""), str | bytes):
            strings.update(range(node.lineno, (node.end_lineno or 0) + 1))
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str())):
                    docstrings.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(
        number not in docstrings and (number in strings or (bool(line.strip()) and not line.lstrip().startswith("#")))
        for number, line in lines
    )


def _modules(folder: Path, pattern: str = "**/*.py") -> list[Path]:
    """Return the Python modules in a folder, without what is installed there."""
    return [path for path in folder.glob(pattern) if not INSTALLED & set(path.parts)]


def _lines(folder: Path, pattern: str = "**/*.py") -> int:
    return sum(code_lines(path.read_text(encoding="utf-8")) for path in _modules(folder, pattern))


def _words(paths: typing.Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").split()) for path in paths)


def _settings(model: type[BaseModel], seen: set[type[BaseModel]]) -> int:
    """Return how many keys a model has, with those of the tables in it; those of a table count once."""
    seen.add(model)
    count = 0
    for field in model.model_fields.values():
        tables = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        count += sum(_settings(table, seen) for table in tables if table not in seen) if tables else 1
    return count


def _parts(annotation: Any) -> list[Any]:
    """Return what a type consists of, such as the members of a union in a list."""
    inner = typing.get_args(annotation)
    return [part for argument in inner for part in _parts(argument)] if inner else [annotation]


def _commands() -> int:
    from typer.main import get_command

    from node.cli.application import application

    return len(get_command(application()).commands)  # type: ignore[attr-defined]


def figures() -> dict[str, int]:
    """Return what is counted in the tree, in the order of the table."""
    node = ROOT / "node"
    rooms = sorted({path.parent.name for path in node.glob("[!_]*/*.py")} - {"extensions"})
    by_room = {room: _lines(node / room) for room in rooms}
    loose, extensions = _lines(node, "*.py"), _lines(node / "extensions")
    core = sum(by_room.values()) + loose
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    _, _, access = (ROOT / "docs" / "access.md").read_text(encoding="utf-8").partition("<!-- requests: begin -->")
    rest = re.findall(r"^- ([A-Z, ]+): (.*(?:\n  .*)*)", access, re.MULTILINE)
    return {
        **{f"lines of `node/{room}/`": lines for room, lines in by_room.items()},
        "lines of modules beside the rooms": loose,
        "lines of the core": core,
        "lines of `node/extensions/`": extensions,
        "lines of `node/`": core + extensions,
        "modules of `node/`": len(_modules(node)),
        "lines of `tests/`": _lines(ROOT / "tests"),
        "settings": _settings(Settings, set()) + sum(len(own) for name in KIND_TABLES for _, _, own in kinds(name)),
        "tables of the index": len(every_table()),
        "commands": _commands(),
        "operations of REST": sum(len(methods.split()) * paths.count("`/api/v1/") for methods, paths in rest),
        "dependencies": len(project["dependencies"]),
        "words of `docs/` without the conformance statement": _words({*(ROOT / "docs").rglob("*.md")} - {STATEMENT}),
        "words of the conformance statement": _words([STATEMENT]),
    }


def budget() -> dict[str, int]:
    """Return the figures of the table."""
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = re.findall(r"^\| (.*) \| ([\d ]+) \|$", table, flags=re.MULTILINE)
    return {name: int(figure.replace(" ", "")) for name, figure in rows}


def holds(allowed: int, counted: int) -> bool:
    """Whether a figure allows what is counted, and not much more."""
    return counted <= allowed <= counted * LOOSE


def with_table() -> str:
    """Return the document with a table in which all figures hold; those that do already stay."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    allowed = budget()
    lines = ["| Counted | At most |", "|---|---|"]
    for name, counted in figures().items():
        figure = allowed[name] if name in allowed and holds(allowed[name], counted) else counted
        lines.append(f"| {name} | {f'{figure:,}'.replace(',', ' ')} |")
    return "\n".join([f"{before}{BEGIN}", *lines, f"{END}{rest.partition(END)[2]}"])


if __name__ == "__main__":
    while (text := with_table()) != DOCUMENT.read_text(encoding="utf-8"):  # the table has words, too
        DOCUMENT.write_text(text, encoding="utf-8")
