"""Repositories: writes share the connection of the one writer; reads use connections of their own.

A repository holds the rows of one noun. Its methods take a connection first, and a decorator supplies it:

    @on_writer
    def finish(self, connection: Connection, deletion: Deletion, now: dt.datetime) -> None: ...

    index.deletions.finish(deletion, now)

A read that a write depends on belongs in the body of that write; elsewhere, another write may come in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from node.index.engine.backend import IndexUnusable, reason_of
from node.index.engine.writer import IndexWriter

P = ParamSpec("P")
R = TypeVar("R")


class IndexRepository:
    """Rows of one noun. Thread-safe.

    Parameters
    ----------
    writer : IndexWriter
    reader : Engine
        Read-only: readers and the writer never wait for each other.
    """

    def __init__(self, writer: IndexWriter, reader: Engine) -> None:
        self._writer, self._reader, self._turn = writer, reader, writer.turn


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
        try:
            with repository._reader.connect() as connection:
                return method(repository, connection, *args, **kwargs)
        except SQLAlchemyError as error:
            raise IndexUnusable(f"the index cannot be read: {reason_of(error)}") from error

    return run
