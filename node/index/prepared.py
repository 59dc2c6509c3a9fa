"""Statements that run for every instance: compiled once, then executed by the driver directly.

SQLAlchemy's handling of a statement (cache key, context, result) takes five times as long as SQLite itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from sqlalchemy import ClauseElement, Connection, Select, String, bindparam, func, select
from sqlalchemy.dialects import sqlite


class Prepared:
    """A SQLAlchemy statement compiled to SQL, with its parameters in order and the conversion of each value.

    Parameters
    ----------
    statement : ClauseElement
        An INSERT, UPDATE or SELECT; rows are returned as the driver gives them.
    columns : iterable of str or None
        The columns that an INSERT sets.
    """

    def __init__(self, statement: ClauseElement, columns: Iterable[str] | None = None) -> None:
        dialect = sqlite.dialect(paramstyle="qmark")
        compiled: Any = statement.compile(dialect=dialect, column_keys=list(columns) if columns else None)
        self._sql = str(compiled)
        self._parameters: list[tuple[str, Callable[[Any], Any] | None, Any]] = []
        for name in compiled.positiontup:
            bind = compiled.binds[name]
            process = bind.type.dialect_impl(dialect).bind_processor(dialect)
            self._parameters.append((name, process, None if bind.required else bind.value))

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> sqlite3.Cursor:
        """Run the statement once, in the transaction of `connection`.

        Raises
        ------
        sqlite3.Error
            From the driver, not wrapped by SQLAlchemy.
        """
        return _driver(connection).execute(self._sql, self._bound(values))

    def execute_many(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run the statement for each of `rows`. Raises the same exceptions as `execute`."""
        _driver(connection).executemany(self._sql, [self._bound(values) for values in rows])

    def _bound(self, values: Mapping[str, Any]) -> list[Any]:
        return [
            process(value) if process is not None and value is not None else value
            for name, process, default in self._parameters
            for value in (values.get(name, default),)
        ]


class PreparedRows:
    """A SELECT compiled once, whose rows are read in one step.

    The driver gives up the interpreter's lock for each step and waits for it afterwards. While other threads compute,
    each of these waits takes up to a turn of theirs, and delays them as well. One step therefore returns all rows, as a
    JSON array.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        rows = statement.subquery()
        self._prepared = Prepared(select(func.json_group_array(func.json_array(*rows.c))))

    def read(self, connection: Connection, **values: Any) -> list[list[Any]]:
        """Return the rows: texts, numbers and None. Raises the same exceptions as `Prepared.execute`."""
        rows: list[list[Any]] = json.loads(self._prepared.execute(connection, values).fetchone()[0])
        return rows


def read_ids(connection: Connection, statement: Select[int]) -> list[int]:
    """Return the row ids that a SELECT with a LIMIT finds, in its order and in one step; see `PreparedRows`.

    SQLite keeps the order of a subquery that has a limit.
    """
    rows = statement.subquery()
    ids: list[int] = json.loads(connection.execute(select(func.json_group_array(*rows.c))).scalar_one())
    return ids


def listed_ids() -> Select[Any]:
    """Return a SELECT of row ids that are bound as ``ids``, a JSON array: one text for any number of them."""
    return select(func.json_each(bindparam("ids", type_=String)).table_valued("value").c.value)


def _driver(connection: Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.dbapi_connection)
