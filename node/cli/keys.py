"""KEY=VALUE on a command line: the keys of a table of the configuration."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from node.cli.output import Answer
from node.counted import counted
from node.errors import UsageError

Keys = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys of the table in the configuration, with their values. Several values: may=echo,store.",
    ),
]
Drop = Annotated[int, typer.Option("--drop", metavar="N", min=0, help="Drop up to N messages that wait.")]

LISTS = frozenset(
    {"to", "otherwise", "remove", "on", "calling_ae_titles", "called_ae_titles", "networks", "may", "takes", "projects"}
)
"""Keys that take several values; commas between them stand for brackets and quotes."""

TEXTS = frozenset(
    {
        "when",
        "where",
        "between",
        "priority",
        "transfer_syntax",
        "deidentify",
        "url",
        "keep_where",
        "ae_title",
        "host",
        "certificate",
    }
)
"""Keys whose value is a text, which needs no quotes."""


def in_force(done: Mapping[str, Any], *more: str) -> Answer:
    """Return what a change of the configuration has done, for people, and what `more` there is to say."""
    lines = [f"in force: {', '.join(done['changed'])}" if done["changed"] else "in force: no change"]
    lines += [f"needs a restart of the node: {', '.join(done['restart'])}"] if done["restart"] else []
    for one in done.get("reset", ()):
        lines.append(f"{one['key']} was {_written(one['was'])}, now the default: {_written(one['default'])}")
    lines += more
    lines += [done["senders"]] if done.get("senders") else []
    lines += [f"{counted(done['dropped'], 'message')} that waited: dropped"] if done.get("dropped") else []
    return Answer(dict(done), "\n".join(lines))


def _written(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def table_of(keys: Sequence[str]) -> dict[str, Any]:
    """Return the table that keys with values stand for. Raises UsageError."""
    table: dict[str, Any] = {}
    for given in keys:
        key, equals, text = given.partition("=")
        if not equals or key in table:
            raise UsageError(f"{given!r}: write each key once, as KEY=VALUE, such as to=PACS")
        table[key] = text if key in TEXTS else _value(key, text)
    return table


def _value(key: str, text: str) -> Any:
    """Return a value that is written as in the configuration; a list needs neither brackets nor quotes."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if key in LISTS and not isinstance(value, list):
        return [value] if value is not text else [one.strip() for one in text.split(",")]
    return value if isinstance(value, bool | int | float | list | dict) else text
