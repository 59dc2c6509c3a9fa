"""The manifests of a Helm chart, for machines without Helm: the part of its template language that our chart uses.

python -m tests.documents.chart deploy/helm/voxelnode [KEY.PATH=VALUE ...]
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:\\.|[^"\\])*"|[()|]|[^\s()|]+')


class ChartError(Exception):
    """The chart uses what is not known here, or is wrong."""


class Chart:
    """A chart in a folder."""

    def __init__(self, folder: Path) -> None:
        self._chart = yaml.safe_load((folder / "Chart.yaml").read_text())
        self._values = yaml.safe_load((folder / "values.yaml").read_text())
        self._defined: dict[str, list[Any]] = {}
        self._files = {path.name: _parsed(path.read_text()) for path in sorted((folder / "templates").iterdir())}
        for path, nodes in self._files.items():
            if path.endswith(".tpl"):
                self._defined |= {node[1]: node[2] for node in nodes if node[0] == "define"}

    def manifests(self, release: str, changed: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the resources of a release; `changed` are values by their path, as ``receive.replicas``."""
        values = yaml.safe_load(yaml.safe_dump(self._values))
        for path, value in changed.items():
            *folders, key = path.split(".")
            place = values
            for folder in folders:
                place = place[folder]
            if key not in place:
                raise ChartError(f"values.yaml has no {path}")
            place[key] = value
        chart = {key[0].upper() + key[1:]: value for key, value in self._chart.items()}
        scope = {"Values": values, "Release": {"Name": release}, "Chart": chart}
        texts = [self._text(nodes, scope) for name, nodes in self._files.items() if name.endswith(".yaml")]
        return [found for text in texts for found in yaml.safe_load_all(text) if found is not None]

    def _text(self, nodes: list[Any], scope: Any) -> str:
        return "".join(self._texts(nodes, scope))

    def _texts(self, nodes: list[Any], scope: Any) -> Iterator[str]:
        for node in nodes:
            if node[0] == "text":
                yield node[1]
            elif node[0] == "value":
                value = self._value(node[1], scope)
                if value is None:
                    raise ChartError(f"{{{{ {node[1]} }}}} has no value")
                yield str(value).lower() if isinstance(value, bool) else str(value)
            elif node[0] == "if":
                yield from self._texts(node[2] if self._value(node[1], scope) else node[3], scope)

    def _value(self, expression: str, scope: Any) -> Any:
        words = _WORD.findall(expression)
        value = self._pipeline(words, scope)
        if words:
            raise ChartError(f"unexpected {words[0]!r} in {expression!r}")
        return value

    def _pipeline(self, words: list[str], scope: Any) -> Any:
        value = self._command(words, scope, [])
        while words and words[0] == "|":
            words.pop(0)
            value = self._command(words, scope, [value])
        return value

    def _command(self, words: list[str], scope: Any, piped: list[Any]) -> Any:
        name = ""
        if words[0] != "(" and not words[0].startswith((".", '"')):
            name = words.pop(0)
        arguments = []
        while words and words[0] not in "|)":
            word = words.pop(0)
            if word == "(":
                arguments.append(self._pipeline(words, scope))
                words.pop(0)
            elif word.startswith('"'):
                arguments.append(yaml.safe_load(word))
            elif word.startswith("."):
                arguments.append(_at(scope, word))
            else:
                arguments.append(int(word))
        return self._call(name, [*arguments, *piped]) if name else arguments[0]

    def _call(self, name: str, arguments: list[Any]) -> Any:
        if name == "include":
            template, scope = arguments
            return self._text(self._defined[template], scope)
        if name not in _FUNCTIONS:
            raise ChartError(f"{name} is not known here")
        return _FUNCTIONS[name](*arguments)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "dict": lambda *pairs: dict(zip(pairs[::2], pairs[1::2], strict=True)),
    "merge": lambda first, second: {**second, **first},
    "eq": lambda first, second: first == second,
    "not": lambda value: not value,
    "default": lambda value, given: given or value,
    "printf": lambda template, *values: template % values,
    "quote": lambda value: '"{}"'.format(str(value).replace("\\", "\\\\").replace('"', '\\"')),
    "toYaml": lambda value: yaml.safe_dump(value).rstrip("\n"),
    "nindent": lambda spaces, text: "\n" + "\n".join(" " * spaces + line for line in text.split("\n")),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}


def _at(scope: Any, path: str) -> Any:
    for key in path.split(".")[1:]:
        if key:
            if key not in scope:
                raise ChartError(f"no {path}")
            scope = scope[key]
    return scope


def _parsed(text: str) -> list[Any]:
    """Return the nodes of a template: text, value, if, define."""
    root: list[Any] = []
    open_nodes: list[tuple[Any, list[Any]]] = [(None, root)]
    end, trims = 0, False
    for match in _ACTION.finditer(text):
        before = text[end : match.start()]
        before = before.lstrip() if trims else before
        open_nodes[-1][1].append(("text", before.rstrip() if match[1] else before))
        end, trims = match.end(), bool(match[3])
        keyword, _, rest = match[2].partition(" ")
        if keyword == "if":
            node: Any = ("if", rest, [], [])
            open_nodes[-1][1].append(node)
            open_nodes.append((node, node[2]))
        elif keyword == "define":
            node = ("define", yaml.safe_load(rest), [])
            open_nodes[-1][1].append(node)
            open_nodes.append((node, node[2]))
        elif keyword == "else":
            open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][0][3])
        elif keyword == "end":
            open_nodes.pop()
        else:
            open_nodes[-1][1].append(("value", match[2]))
    open_nodes[-1][1].append(("text", text[end:].lstrip() if trims else text[end:]))
    if len(open_nodes) != 1:
        raise ChartError("an if or define has no end")
    return root


if __name__ == "__main__":
    given = (argument.partition("=") for argument in sys.argv[2:])
    found = Chart(Path(sys.argv[1])).manifests("voxelnode", {path: yaml.safe_load(value) for path, _, value in given})
    print(yaml.safe_dump_all(found), end="")
