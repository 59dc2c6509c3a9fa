"""Conditions that a text has another text in it, whichever engine looks; those of whole texts are `sql.matches`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, String, bindparam

from node.index.engine.sql import Condition
from node.index.engine.view_rows import literal, pattern_of


def contains(column: Any, part: str) -> ColumnElement[bool]:
    """Return the condition that a text contains another; ASCII letters match in either case, others in their own."""
    return _Like(column, f"%{literal(part)}%")


def contains_words(column: Any, words: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that a text contains words with one character between them; letters as by `contains`."""
    return _Like(column, pattern_of(words))


def starts_with(column: Any, start: str) -> ColumnElement[bool]:
    """Return the condition that a text starts with another; letters match as by `contains`."""
    return _Like(column, f"{literal(start)}%")


class _Like(Condition):
    """LIKE of SQLite, which ignores the case of ASCII letters; the pattern has none of A to Z.

    lower() of PostgreSQL changes these letters alone under the collation "C". ILIKE would change the pattern for each
    row.
    """

    inherit_cache = True
    in_sqlite = "({0} LIKE {1} ESCAPE '/')"
    in_postgresql = "(lower({0} COLLATE \"C\") LIKE {1} ESCAPE '/')"

    def __init__(self, column: Any, pattern: str) -> None:
        super().__init__(column, bindparam(None, pattern, type_=String))
