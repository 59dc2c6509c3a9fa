"""Which functions of the node each test enters: ``benchmarks/mutants.py`` copies this as ``sitecustomize``.

Every Python process that a test starts imports it, so functions that run in child processes count as well: each
function of the rooms begins with a call. Lines of the file `REACHED_FILE`: kind, test, then path and first line of a
function, or the seconds of a test. (PYTEST_DONT_REWRITE: as a plugin it was imported before pytest.)
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
from contextlib import suppress
from importlib.machinery import FileFinder, SourceFileLoader
from types import CodeType
from typing import Any

FILE = os.environ.get("REACHED_FILE", "")
BELOW = tuple(os.environ.get("REACHED_BELOW", "").split(os.pathsep))
"""Beginnings of the paths of functions that count."""

_environment: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
"""Read for each call of a function: `os.environ` would decode it each time."""
_seen: set[tuple[bytes, str]] = set()


def _enter(function: str) -> None:
    test = _environment.get(b"PYTEST_CURRENT_TEST")
    if test is not None and (entered := (test, function)) not in _seen:
        _seen.add(entered)
        _write("entered", os.fsdecode(test), function)


class _Loader(SourceFileLoader):
    """Compiles modules of the rooms with a call at the beginning of each function, and keeps no compiled ones."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        if not path.startswith(BELOW):
            return super().get_code(fullname)
        tree = ast.parse(self.get_data(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                begins = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                call = ast.parse(f"__entered__({f'{path}:{begins}'!r})").body[0]
                for part in ast.walk(call):
                    ast.copy_location(part, node.body[0])
                node.body.insert(ast.get_docstring(node) is not None, call)
        return compile(tree, path, "exec", dont_inherit=True)


def _finder(folder: str) -> FileFinder:
    """Return what finds modules in a folder that has functions that count, or rooms. (Others may have libraries.)"""
    if not any(below.startswith(folder) or folder.startswith(below) for below in BELOW):
        raise ImportError(folder)
    return FileFinder(folder, (_Loader, [".py"]))


def _write(*words: str) -> None:
    # Opened each time: a process may have closed the descriptors that it inherited. Some may open no file at all.
    with suppress(Exception), open(FILE, "a", encoding="utf-8") as stream:
        stream.write("\t".join(words) + "\n")


def pytest_runtest_logreport(report: Any) -> None:
    """As a plugin, write how long tests took that passed, and which failed."""
    if FILE and "PYTEST_XDIST_WORKER" not in os.environ:
        if report.failed:
            _write("failed", report.nodeid, "")
        elif report.passed:
            _write("passed", report.nodeid, str(report.duration))


if FILE:
    vars(builtins)["__entered__"] = _enter
    sys.path_hooks.insert(0, _finder)
    sys.path_importer_cache.clear()
