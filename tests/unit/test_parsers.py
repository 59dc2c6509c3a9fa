"""Nothing in the process of a node parses what came from outside but the bounded reader, `node.dicom.header`.

pydicom makes an object of every element, inflates what is deflated, and holds the interpreter's lock meanwhile: it runs
in children, in commands, or behind a count of the elements. This walks from its parsers to every caller in `node`.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import node

PARSERS = frozenset(
    {
        "pydicom.dcmread",
        "pydicom.Dataset.from_json",
        "pydicom.dataset.Dataset.from_json",
        "pydicom.filereader.data_element_generator",
        "pydicom.filereader.dcmread",
        "pydicom.filereader.read_dataset",
        "pydicom.filereader.read_file_meta_info",
        "pydicom.filereader.read_partial",
        "pydicom.filereader.read_sequence",
        "pynetdicom.dsutils.decode",
    }
)

IN_CHILDREN = (
    "node.children.decoding",
    "node.children.forwarding",
    "node.conversion",
    "node.dicom.dump",
    "node.dicom.values",
    "node.dicom.reading",
    "node.extensions.deidentify",
    "node.extensions.dicomweb.decoding",
    "node.extensions.dicomweb.pixel_element",
    "node.extensions.dicomweb.report",
    "node.extensions.media.medium.records_of_file",
    "node.extensions.results",
    "node.extensions.spectroscopy",
    "node.extensions.structure_sets",
    "node.files.reading",
    "node.volume",
)
"""What runs in child processes."""

IN_PARSERS = ("node.dicom.element_generator",)
"""What pydicom itself calls while it parses."""

IN_COMMANDS = (
    "node.association.client.send.read_outgoing",
    "node.association.client.send.send_files",
    "node.cli",
    "node.control.care",
    "node.control.opened.convert",
    "node.extensions.backup",
    "node.extensions.bids",
    "node.extensions.demo",
    "node.lifecycle.fsck",
    "node.lifecycle.repair",
)
"""What a command, or a program with `node.open`, does in a process of its own."""

COUNTED = frozenset(
    {
        "node.association.client.association.RequestedAssociation",
        "node.association.operation.Operation",
        "node.extensions.media.directory._decoded",
        "node.extensions.worklist.modality_worklist._of_dicom",
    }
)
"""What counts the elements first, by `node.dicom.header.require_few_elements`."""

APART = COUNTED | {
    "node.dicom.answers.encoded_answer",  # parses what the node has encoded
    "node.extensions.pynetdicom_acceptor.handlers._decoded",  # likewise
    "node.extensions.pynetdicom_acceptor.handlers._instances",  # where pynetdicom parses everything
    "node.extensions.deidentify.ways.DeidentifyWay",  # made in the node; forwarding in a child calls its methods
}
"""Where the walk ends: who calls these parses nothing himself."""


class _Module(ast.NodeVisitor):
    """The calls of a module: which function or class of it calls what, by full names."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name, self.calls = name, defaultdict[str, set[str]](set)
        self._names: dict[str, str] = {}
        for found in ast.walk(tree):
            if isinstance(found, ast.ImportFrom):
                self._names |= {one.asname or one.name: f"{found.module}.{one.name}" for one in found.names}
            elif isinstance(found, ast.Import):
                self._names |= {one.asname or one.name: one.name for one in found.names}
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self._names[statement.name] = f"{name}.{statement.name}"
        self._arguments: list[set[str]] = []
        for statement in tree.body:
            self._within = f"{name}.{getattr(statement, 'name', '<module>')}"
            self.visit(statement)

    def visit_FunctionDef(self, function: ast.FunctionDef) -> None:
        of_function = function.args
        self._arguments.append({one.arg for one in (*of_function.args, *of_function.kwonlyargs)})
        self.generic_visit(function)
        self._arguments.pop()

    def visit_Call(self, call: ast.Call) -> None:
        if (called := self._named(call.func)) is not None:
            self.calls[called].add(self._within)
        self.generic_visit(call)

    def _named(self, expression: ast.expr) -> str | None:
        if isinstance(expression, ast.Name):
            hidden = any(expression.id in arguments for arguments in self._arguments)
            return None if hidden else self._names.get(expression.id)
        if isinstance(expression, ast.Attribute) and (before := self._named(expression.value)) is not None:
            return f"{before}.{expression.attr}"
        return None


@cache
def callers() -> dict[str, set[str]]:
    found = defaultdict[str, set[str]](set)
    root = Path(node.__file__).parent
    for path in root.rglob("*.py"):
        name = ".".join(("node", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for called, by in _Module(name, ast.parse(path.read_text())).calls.items():
            found[called] |= by
    return found


def walked(names: frozenset[str]) -> Iterator[str]:
    """Yield every function and class that calls one of `names`, directly or by others that do."""
    waiting, seen = list(names), set(names)
    while waiting:
        for caller in sorted(callers()[waiting.pop()] - seen):
            seen.add(caller)
            yield caller
            if caller not in APART:
                waiting.append(caller)


@pytest.mark.slow
def test_every_caller_of_a_parser_is_in_a_child_or_a_command_or_counts_first() -> None:
    allowed = (*IN_CHILDREN, *IN_PARSERS, *IN_COMMANDS, *APART)
    found = list(walked(PARSERS))
    assert set(found) >= APART, "the walk ends where nothing is parsed any more"
    outside = [name for name in found if not any(name == one or name.startswith(f"{one}.") for one in allowed)]
    assert outside == []
