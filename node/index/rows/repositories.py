"""Repositories: each writes or reads the rows of one noun; facts about the index are one of them.

Writes of a repository share the connection of the writer; reads use connections of their own. A repository holds the
rows of one noun. Its methods take a connection first, and a decorator supplies it:

    @on_writer
    def finish(self, connection: Connection, deletion: Deletion, now: dt.datetime) -> None: ...

    index.deletions.finish(deletion, now)

A read that a write depends on belongs in the body of that write; elsewhere, another write may come in between.

What writes, and what it asks first, is SQLAlchemy, prepared where it is hot; what reads is text on the documented
views: see `node.index.rows.view_rows`.
"""

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase

from node.index.rows.about_keys import APPLIED, AppliedPosition
from node.index.rows.backend import IndexUnusable, backend_of, reason_of
from node.index.rows.hot_statements import PreparedStatement
from node.index.rows.models.work import AboutRow
from node.index.rows.narrowed import Readers
from node.index.rows.sql import insert
from node.index.rows.view_rows import Queries, Row, Words
from node.index.rows.writer import Change, IndexWriter

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
Run = TypeVar("Run", bound=Callable[..., Any])


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
        work = partial(method, repository)
        return repository._writer.perform(Change(repository, _named(method), args, kwargs), work)

    return _known(method, run)


def _named(method: Callable[..., Any]) -> str:
    return f"{method.__module__}.{method.__qualname__}"


def _known(method: Callable[..., Any], run: Run) -> Run:
    _CHANGES[_named(method)] = run
    return run


_CHANGES: dict[str, Callable[..., Any]] = {}


def perform(repository: IndexRepository, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a method of `on_writer` or `writes` by its name: another process asks for it."""
    return _CHANGES[name](repository, *args, **kwargs)


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
    """Make a function a method of repositories: as `on_reader`, or on the one connection of a view."""

    @wraps(function)
    def run(repository: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with repository._reading() as connection:
            return function(connection, *args, **kwargs)

    return run


def writes(function: Callable[Concatenate[Connection, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Make a function a method of repositories, as `on_writer`."""

    @wraps(function)
    def run(repository: IndexRepository, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return repository._writer.perform(Change(repository, _named(function), args, kwargs), function)

    return _known(function, run)


def columns_but(row: type[DeclarativeBase], *names: str) -> list[Any]:
    """Return the columns of a table without those with these names."""
    return [column for column in row.__table__.columns if column.name not in names]


def columns_of(record: type[Any], *tables: type[DeclarativeBase], **others: Any) -> list[Any]:
    """Return the columns of the fields of a record, in their order: of `others`, or of the first table that has it."""
    of_tables = ChainMap(*({column.name: column for column in table.__table__.columns} for table in tables))
    return [others[name] if name in others else of_tables[name] for name in record.__match_args__]


def _rows_of(connection: Connection, query: str, values: Mapping[str, Any]) -> list[Row]:
    result = connection.execute(text(query), values)
    names = result.keys()
    return [dict(zip(names, row, strict=True)) for row in backend_of(connection).plain(result)]


def queries_of(connection: Connection) -> Queries:
    """Return what runs queries that are written out by SQLAlchemy."""
    return Queries(partial(_rows_of, connection), Words(connection.dialect.name), connection)


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
