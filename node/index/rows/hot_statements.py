"""Statements that run for every instance: compiled once, then executed by the driver directly.

SQLAlchemy's handling of a statement (cache key, context, result) takes five times as long as SQLite itself.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Select, Table, insert, select
from sqlalchemy.dialects import sqlite

from node.index.rows.backend import server_backend
from node.index.rows.sql import JsonArray, JsonGroupArray


class _Compiled:
    """A statement in the SQL of a dialect, with its parameters in order and the conversion of each value."""

    def __init__(self, statement: ClauseElement, columns: list[str] | None, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self.sql = str(compiled)
        self._parameters: list[tuple[str, Any]] = []
        self._processed: list[tuple[int, Callable[[Any], Any]]] = []
        for place, name in enumerate(compiled.positiontup):
            bind = compiled.binds[name]
            self._parameters.append((name, None if bind.required else bind.value))
            if (process := bind.type.dialect_impl(dialect).bind_processor(dialect)) is not None:
                self._processed.append((place, process))

    def bound(self, values: Mapping[str, Any]) -> list[Any]:
        bound = [values.get(name, default) for name, default in self._parameters]
        for place, process in self._processed:
            if bound[place] is not None:
                bound[place] = process(bound[place])
        return bound


class PreparedStatement:
    """A SQLAlchemy statement compiled to SQL, with its parameters in order and the conversion of each value.

    `statement`: An INSERT, UPDATE or SELECT; rows are returned as the driver gives them. `columns`: the columns that an
    INSERT sets.
    """

    def __init__(self, statement: ClauseElement, columns: Iterable[str] | None = None) -> None:
        self._statement, self._columns = statement, list(columns) if columns else None
        self._sqlite = _Compiled(statement, self._columns, sqlite.dialect(paramstyle="qmark"))

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Run the statement once, in the transaction of `connection`; return the cursor of the driver.

        Rows have the values that SQLite gives them, whichever the database is.

        Raises Exception if from the driver, not wrapped by SQLAlchemy; see `node.index.rows.backend.Backend.Error`.
        """
        driver: Any = connection.connection.dbapi_connection
        if isinstance(driver, sqlite3.Connection):
            return driver.execute(self._sqlite.sql, self._sqlite.bound(values))
        compiled = self._on_server
        cursor = server_backend().prepared_cursor(driver)
        cursor.execute(compiled.sql, compiled.bound(values))
        return cursor

    def execute_each(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of some rows, in their order; PostgreSQL gets all of them at once."""
        if not rows:
            return
        driver: Any = connection.connection.dbapi_connection
        compiled = self._sqlite if isinstance(driver, sqlite3.Connection) else self._on_server
        driver.cursor().executemany(compiled.sql, [compiled.bound(values) for values in rows])

    @cached_property
    def _on_server(self) -> _Compiled:
        return _Compiled(self._statement, self._columns, server_backend().prepared_dialect())


class PreparedInsert:
    """An INSERT of any number of rows with an `id`, none of which is in the table.

    SQLite gets them one by one. PostgreSQL gets them in one statement with an array for each column, and inserts them
    sorted, so that of two writers with the same rows one waits for the other. Ids are in the order of the rows in both.

    `order_by`: a column whose values are unique.
    """

    def __init__(self, table: Table, order_by: str) -> None:
        self._table, self._order_by = table, order_by
        self._names = [column.name for column in table.columns if column.name != "id"]
        self._sqlite = _Compiled(insert(table), self._names, sqlite.dialect(paramstyle="qmark"))

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> set[Any]:
        """Insert rows, in the transaction of `connection`; they have a value for each column.

        Returns the values of `order_by` of rows that another writer has inserted meanwhile, and committed. Raises
        Exception if from the driver, not wrapped by SQLAlchemy; see `node.index.rows.backend.Backend.Error`.
        """
        driver: Any = connection.connection.dbapi_connection
        if isinstance(driver, sqlite3.Connection):
            driver.executemany(self._sqlite.sql, [self._sqlite.bound(values) for values in rows])
            return set()
        statement, compiled = self._on_server
        bound = zip(*map(compiled.bound, rows), strict=True)
        inserted = driver.execute(statement, [list(values) for values in bound]).fetchall()
        if len(inserted) == len(rows):
            return set()
        return {row[self._order_by] for row in rows}.difference(value for (value,) in inserted)

    @cached_property
    def _on_server(self) -> tuple[str, _Compiled]:
        server = server_backend()
        dialect = server.prepared_dialect()
        types = (self._table.c[name].type.compile(dialect) for name in self._names)
        arrays = ", ".join(f"%s::{kind}[]" for kind in types)
        columns = ", ".join(f'"{name}"' for name in self._names)
        # OFFSET 0 keeps the subquery apart: rows get their ids before they are sorted.
        numbered = (
            f"SELECT {server.next_number(self._table.name)} AS id, * FROM unnest({arrays}) AS new ({columns}) OFFSET 0"
        )
        statement = (
            f'INSERT INTO "{self._table.name}" (id, {columns}) SELECT * FROM ({numbered}) AS numbered '
            f'ORDER BY "{self._order_by}" ON CONFLICT DO NOTHING RETURNING "{self._order_by}"'
        )
        return statement, _Compiled(insert(self._table), self._names, dialect)


class PreparedRows:
    """A SELECT compiled once, whose rows are read in one step.

    The driver gives up the interpreter's lock for each step and waits for it afterwards. While other threads compute,
    each of these waits takes up to one of their time slices, and delays them as well. One step therefore returns all
    rows, as a JSON array.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]]) -> None:
        rows = statement.subquery()
        self._prepared = PreparedStatement(select(JsonGroupArray(JsonArray(*rows.c))))

    def read(self, connection: Connection, **values: Any) -> list[list[Any]]:
        """Return the rows: texts, numbers and None. Raises the same exceptions as `PreparedStatement.execute`."""
        rows: list[list[Any]] = json.loads(self._prepared.execute(connection, values).fetchone()[0])
        return rows


def read_ids(connection: Connection, statement: Select[int]) -> list[int]:
    """Return the row ids that a SELECT with a LIMIT finds, in its order and in one step; see `PreparedRows`.

    SQLite keeps the order of a subquery that has a limit.
    """
    rows = statement.subquery()
    ids: list[int] = connection.execute(select(JsonGroupArray(*rows.c))).scalar_one()
    return ids
