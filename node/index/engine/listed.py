"""Conditions on many values, as one parameter of a statement: it is the same statement for any number of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import JSON, BindParameter, ColumnElement, Integer, bindparam, cast, func, select


def listed_in(column: Any, values: Collection[Any] | BindParameter[Any]) -> ColumnElement[bool]:
    """Return the condition that a column has one of `values`, a collection or a parameter for one."""
    parameter = values if isinstance(values, BindParameter) else bindparam(None, list(values), type_=JSON)
    value = func.json_each(parameter).table_valued("value").c.value
    condition: ColumnElement[bool] = column.in_(select(cast(value, Integer) if _has_numbers(column) else value))
    return condition


def _has_numbers(column: Any) -> bool:
    return isinstance(column.type, Integer)
