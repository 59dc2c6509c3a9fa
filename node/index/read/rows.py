"""What the read repositories share: rows of the documented views, and pages of tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, text

Row = dict[str, Any]


class ReadRepository:
    """Queries about one noun on one connection; for one thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _rows(self, query: str, **values: Any) -> list[Row]:
        """Return the rows of a query on the views; `values` fill its ``:names``.

        Values are as docs/index.md describes them: moments and lists are text.
        """
        return [dict(row) for row in self._connection.execute(text(query), values).mappings()]

    def _row(self, query: str, **values: Any) -> Row | None:
        return next(iter(self._rows(query, **values)), None)

    def _page(self, query: Any, id_column: Any, after: int | None, limit: int) -> list[Row]:
        """Return the next rows of a table, the newest first, as Python values.

        A page begins below the row where the last one ended (its `id`) and goes along the primary key. So the hundredth
        page costs as much as the first, and rows that are added meanwhile shift nothing.
        """
        if after is not None:
            query = query.where(id_column < after)
        rows = self._connection.execute(query.order_by(id_column.desc()).limit(limit))
        return [dict(row) for row in rows.mappings()]

    def _with_counts(self, rows: list[Row], name: str, query: Any, column: Any) -> list[Row]:
        """Add to each row how many rows of another table belong to it."""
        owned = query.where(column.in_([row["id"] for row in rows])).group_by(column)
        counts = dict(self._connection.execute(owned).all())
        return [{**row, name: counts.get(row["id"], 0)} for row in rows]


def equal(*wanted: tuple[Any, Any]) -> list[ColumnElement[bool]]:
    """Return conditions on columns that must have a value; None sets no condition."""
    return [column == value for column, value in wanted if value is not None]
