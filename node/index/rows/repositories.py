"""Repositories: each writes or reads the rows of one noun; facts about the index are one of them.

Writes of a repository share the connection of the writer; reads use connections of their own. A repository holds the
rows of one noun. Its methods take a connection first, and a decorator supplies it:

    @on_writer
    def finish(self, connection: Connection, deletion: Deletion, now: dt.datetime) -> None: ...

    index.deletions.finish(deletion, now)

A read that a write depends on belongs in the body of that write; elsewhere, another write may come in between.

What only reads has one connection: rows of the documented views, and pages of tables.
"""

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Connection, Result, Select, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from node.index.rows.about_keys import APPLIED, AppliedPosition
from node.index.rows.backend import IndexUnusable, backend_of, reason_of
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.work import AboutRow
from node.index.rows.narrowed import Readers
from node.index.rows.sql import insert
from node.index.rows.view_rows import Queries, Row, ViewRows, Words
from node.index.rows.writer import IndexWriter

__all__ = ["Row"]  # for the repositories

Terms = Callable[[Connection], None]
"""What a client demands of a change, checked in the transaction that makes the change: raises an exception if what it
reads on the connection of the writer is not what the client has seen; nothing is changed then. See
`node.index.reading.checked`.

The change has locked its rows by then: a change of these rows by another host is either committed and seen here, or
follows.
"""

P = ParamSpec("P")
R = TypeVar("R")


class IndexRepository:
    """Rows of one noun. Thread-safe.

    `reader`: read-only: readers and the writer never wait for each other.
    """

    def __init__(self, writer: IndexWriter, reader: Readers) -> None:
        self._writer, self._reader, self._sharing = writer, reader, writer.sharing

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._reader.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise IndexUnusable(f"the index cannot be read: {reason_of(error)}") from error


Rows = TypeVar("Rows", bound=IndexRepository)


def on_writer(method: Callable[Concatenate[Rows, Connection, P], R]) -> Callable[Concatenate[Rows, P], R]:
    """Run the body of a method inside the transaction that the writer shares between callers.

    The method returns after the commit. An exception in the body undoes what the body wrote and nothing else. If the
    commit fails, the method raises `OutOfResources`.
    """

    @wraps(method)
    def run(repository: Rows, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return repository._writer.run(lambda connection: method(repository, connection, *args, **kwargs))

    return run


def on_reader(method: Callable[Concatenate[Rows, Connection, P], R]) -> Callable[Concatenate[Rows, P], R]:
    """Run the body of a method on a read-only connection, in one snapshot of the committed data.

    The body returns values, never an open cursor: its connection is closed when it returns. If the database cannot be
    read, the method raises `IndexUnusable`.
    """

    @wraps(method)
    def run(repository: Rows, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with repository._reading() as connection:
            return method(repository, connection, *args, **kwargs)

    return run


def reads(function: Callable[Concatenate[Connection, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Make a function a method of repositories: as `on_reader`, or on the one connection of a `ReadRepository`."""

    @wraps(function)
    def run(repository: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with repository._reading() as connection:
            return function(connection, *args, **kwargs)

    return run


def writes(function: Callable[Concatenate[Connection, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Make a function a method of repositories, as `on_writer`."""

    @wraps(function)
    def run(repository: IndexRepository, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return repository._writer.run(lambda connection: function(connection, *args, **kwargs))

    return run


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


_INSERT = insert(AboutRow)
_SET = PreparedStatement(
    _INSERT.on_conflict_do_update(index_elements=["key"], set_={"value": _INSERT.excluded.value}), ["key", "value"]
)


def about(connection: Connection, key: str) -> str | None:
    """Return a fact about the index, or None."""
    return connection.scalar(select(AboutRow.value).where(AboutRow.key == key))


def applied(connection: Connection, journal: str) -> AppliedPosition:
    """Return the last record of a journal that is in the index; of no journal if none is."""
    return AppliedPosition.of(about(connection, f"{APPLIED}/{journal}"))


def set_about(connection: Connection, key: str, value: str) -> None:
    """Store a fact about the index, replacing any value of `key`."""
    _SET.execute(connection, {"key": key, "value": value})


class AboutRepository(IndexRepository):
    """Facts about the index, by key."""

    get = reads(about)

    applied = reads(applied)

    set = writes(set_about)

    @on_writer
    def set_once(self, connection: Connection, key: str, value: str) -> str:
        """Store a fact unless another host has done so before, and return what is stored."""
        absent = _INSERT.values(key=key, value=value)
        is_empty = AboutRow.value == ""
        connection.execute(absent.on_conflict_do_update(index_elements=["key"], set_={"value": value}, where=is_empty))
        return about(connection, key) or value


def set_applied(connection: Connection, applied: AppliedPosition) -> None:
    """Note the last record of a journal that is in the index: each host has a journal."""
    set_about(connection, f"{APPLIED}/{applied.journal}", str(applied))
