"""Base classes of the read repositories: rows of the documented views, and pages of tables."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Connection, Result, Select, func, select, text
from sqlalchemy.orm import DeclarativeBase

from node.index.engine.backend import backend_of
from node.index.engine.view_rows import Queries, Row, ViewRows
from node.index.engine.words import Words

__all__ = ["Row"]  # for the repositories


def distinct_values(column: Any, *conditions: ColumnElement[bool]) -> Select[Any]:
    """Return a SELECT of the distinct values of a column, as ``value``, in their order and without NULL.

    They are looked up one by one in the index of the column, or of what `conditions` compare and the column: DISTINCT
    would read all rows.
    """
    known = select(func.min(column).label("value")).where(*conditions).cte(recursive=True)
    following = select(func.min(column)).where(column > known.c.value, *conditions).scalar_subquery()
    known = known.union_all(select(following).where(known.c.value.is_not(None)))
    return select(known.c.value).where(known.c.value.is_not(None))


def columns_but(row: type[DeclarativeBase], *names: str) -> list[Any]:
    """Return the columns of a table without those with these names."""
    return [column for column in row.__table__.columns if column.name not in names]


def columns_of(record: type[Any], *tables: type[DeclarativeBase], **others: Any) -> list[Any]:
    """Return the columns of the fields of a record, in their order: of `others`, or of the first table that has it."""
    of_tables = ChainMap(*({column.name: column for column in table.__table__.columns} for table in tables))
    return [others[name] if name in others else of_tables[name] for name in record.__match_args__]


def _rows_of(connection: Connection, query: str, values: Mapping[str, Any]) -> list[Row]:
    return _plain(connection, connection.execute(text(query), values))


def _plain(connection: Connection, result: Result[Any]) -> list[Row]:
    names = result.keys()
    return [dict(zip(names, row, strict=True)) for row in backend_of(connection).plain(result)]


def queries_of(connection: Connection) -> Queries:
    """Return what runs queries that are written out by SQLAlchemy."""
    return Queries(partial(_rows_of, connection), Words(connection.dialect.name))


class ReadRepository(ViewRows):
    """Queries about one noun on one connection of SQLAlchemy. Not thread-safe."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(queries_of(connection))
        self._connection = connection

    def _reading(self) -> AbstractContextManager[Connection]:
        return nullcontext(self._connection)

    def _plain(self, result: Result[Any]) -> list[Row]:
        """Return the rows of a statement that was written out."""
        return _plain(self._connection, result)


class PagedRepository(ReadRepository):
    """A repository whose table is listed in pages, newest row first.

    `listing`: selects the columns of a row; ``id`` is the primary key of the listed table. `filters`: columns by which
    a page can be filtered, addressed by name.
    """

    listing: ClassVar[Any]
    filters: ClassVar[tuple[Any, ...]]

    def page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return at most `limit` rows below the id `after`, newest first; `wanted` are filters, None matches all."""
        return self._page(after, limit, **wanted)

    def count_matching(self, **wanted: Any) -> int:
        """Count all rows that match; this reads every one of them."""
        query = self._matching(**wanted).with_only_columns(func.count(), maintain_column_froms=True)
        return int(self._connection.execute(query).scalar_one())

    def _matching(self, **wanted: Any) -> Any:
        """Return the listing of the rows that match."""
        columns = {column.key: column for column in self.filters}
        return self.listing.where(*(columns[name] == value for name, value in wanted.items() if value is not None))

    def _page(self, after: int | None, limit: int, **wanted: Any) -> list[Row]:
        """Return the next page of the rows that match.

        A page starts below the `id` where the previous page ended, and follows the primary key. The hundredth page
        therefore costs as much as the first, and rows added meanwhile do not shift the pages.
        """
        query = self._matching(**wanted)
        row_id = self.listing.selected_columns.id
        if after is not None:
            query = query.where(row_id < after)
        rows = self._connection.execute(query.order_by(row_id.desc()).limit(limit))
        return [dict(row) for row in rows.mappings()]

    def _with_counts(self, rows: list[Row], name: str, query: Any, column: Any) -> list[Row]:
        """Add to each row, as `name`, the number of rows of another table that belong to it."""
        owned = query.where(column.in_([row["id"] for row in rows])).group_by(column)
        counts = dict(self._connection.execute(owned).all())
        return [{**row, name: counts.get(row["id"], 0)} for row in rows]
