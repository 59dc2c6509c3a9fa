"""Rows of an index that were configuration, until files were the only source of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from node.errors import UsageError
from node.index.engine.sqlite_file import connect, missing

_TABLES = {"added_peers": "peers", "added_routes": "routes", "added_hooks": "hooks"}


def former_tables(index: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the tables of the configuration that an index has, such as ``peers.CT1``, with their keys.

    Raises UsageError if there is no index, or it has no such rows.
    """
    if (problem := missing(index)) is not None:
        raise UsageError(problem)
    try:
        with closing(connect(index, read_only=True)) as connection:
            return list(_read(connection))
    except sqlite3.Error as error:
        raise UsageError(f"{index}: peers, routes, hooks and rules of retention are not in it ({error})") from error


def _read(connection: sqlite3.Connection) -> Iterator[tuple[str, dict[str, Any]]]:
    for table, section in _TABLES.items():
        for name, settings, secret in connection.execute(f"SELECT name, settings, secret FROM {table} ORDER BY name"):
            kind = {"kind": "webhook"} if section == "hooks" else {}  # the pages added no others
            yield f"{section}.{name}", _set({**kind, **json.loads(settings), "secret": secret})
    for (settings,) in connection.execute("SELECT settings FROM added_retention"):
        if rules := json.loads(settings)["rules"]:
            yield "retention", _set(rules)


def _set(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if value is not None}
