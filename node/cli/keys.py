"""KEY=VALUE on a command line: the keys of a table of the configuration, which is set beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from node.errors import UsageError

_KEYS = typer.Argument(metavar="KEY=VALUE", help="Keys of the table in the configuration, with their values.")
Keys = Annotated[list[str], _KEYS]
OptionalKeys = Annotated[list[str] | None, _KEYS]
Drop = Annotated[int, typer.Option("--drop", metavar="N", min=0, help="Drop up to N messages that wait.")]

LISTS = frozenset({"to", "otherwise", "remove", "on", "calling_ae_titles"})
"""Keys that take several values; one alone needs no brackets."""

TEXTS = frozenset({"when", "where", "between", "priority", "transfer_syntax", "deidentify", "url", "keep_where"})
"""Keys whose value is a text, which needs no quotes."""


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
    """Return a value that is written as in the configuration; a list of one needs neither brackets nor quotes."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if key in LISTS and not isinstance(value, list):
        return [text.strip('"')]
    return value if isinstance(value, bool | int | float | list | dict) else text
