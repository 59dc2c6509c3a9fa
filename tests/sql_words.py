"""A table, and what constructs of `node.index.rows.sql` find in it, whichever engine has it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, Column, Integer, MetaData, String, Table

from node.index.rows import sql

PARTIAL = sql.partial_index("ix_t_odd", "n", "a LIKE '%x'")
T = Table(
    "t",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("n", Integer),
    Column("a", String),
    Column("list", JSON),
    PARTIAL,
)
C = T.c

ROWS: Sequence[dict[str, Any]] = (
    {"id": 1, "n": 10, "a": "1.2.3", "list": [1, 2.5]},
    {"id": 2, "n": 20, "a": "1x2x3", "list": []},
    {"id": 3, "n": None, "a": "Müller^Ann_", "list": [3]},
)

CONDITIONS: Sequence[tuple[Any, list[int]]] = (
    (sql.matches(C.a, "1.2.*"), [1]),
    (sql.matches(C.a, "1?2?*"), [1, 2]),
    (sql.matches(C.a, "m*"), []),
    (sql.contains(C.a, "mü"), [3]),
    (sql.contains(C.a, "MÜ"), []),
    (sql.contains(C.a, "n_"), [3]),
    (sql.contains(C.a, "1_2"), []),
    (sql.starts_with(C.a, "1"), [1, 2]),
    (~sql.starts_with(C.a, "1"), [3]),
    (sql.PositionOf(C.a, "2") == 3, [1, 2]),
    (sql.listed_in(C.id, [2, 9]), [2]),
    (sql.looked_up_in(C.a, ["1.2.3", "?"]), [1]),
    (C.n.is_distinct_from(10), [2, 3]),
)
"""Conditions, and the rows for which each holds."""
