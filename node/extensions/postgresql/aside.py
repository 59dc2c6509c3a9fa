"""An index in PostgreSQL that was set aside: its tables and views are in a schema of their own."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from node.index.rows.backend import IndexUnusable, OldIndex, column, reason_of

Values = Sequence[Any]

PAGES = 256
"""Pages of a table that are read in one step."""

_RELATIONS = text(
    "SELECT relname, relkind = 'v' FROM pg_class c WHERE relnamespace = 'public'::regnamespace "
    "AND relkind IN ('r', 'v') AND pg_get_userbyid(relowner) = current_user "
    "AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY 2 DESC, 1"
)
"""Tables and views of the role, the views first; not those of extensions."""


def aside_name(connection: Connection, now: dt.datetime) -> str | None:
    """Return a name for the schema of the index that is there; None if there is none."""
    if not connection.execute(_RELATIONS).all():
        return None
    taken = set(connection.scalars(text("SELECT nspname FROM pg_namespace")))
    names = (f"index_{now:%Y%m%dt%H%M%S}{ending}" for ending in chain([""], (f"_{n}" for n in count(2))))
    return next(name for name in names if name not in taken)


def make_room(connection: Connection, name: str | None) -> None:
    """Move an index to the schema `name`. If that has one already, or without a name, drop what was built since."""
    kinds: dict[str, list[str]] = {"VIEW": [], "TABLE": []}
    for relation, is_view in connection.execute(_RELATIONS):
        kinds["VIEW" if is_view else "TABLE"].append(f'public."{relation}"')
    of_name = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    if name is not None and connection.execute(of_name, {"name": name}).first() is None:
        connection.execute(text(f'CREATE SCHEMA "{name}"'))
        for kind, some in kinds.items():
            for relation in some:
                connection.execute(text(f'ALTER {kind} {relation} SET SCHEMA "{name}"'))
        return
    for kind, some in kinds.items():
        if some:
            connection.execute(text(f"DROP {kind} {', '.join(some)}"))


class OldSchema(OldIndex):
    """An index in a schema of a database. Of a table with damaged pages, the others are read.

    `plain`: gives rows the values that SQLite has.
    """

    def __init__(self, engine: Engine, name: str, plain: Callable[[Iterable[Values]], Iterable[Values]]) -> None:
        super().__init__()
        self._name, self._engine, self._plain = name, engine, plain
        self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._engine.dispose()

    def tables(self) -> list[str]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = :schema ORDER BY tablename"
        return list(self._connection.scalars(text(query), {"schema": self._name}))

    def rows(self, table: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        columns = (
            "SELECT column_name FROM information_schema.columns WHERE table_schema = :schema AND table_name = :table"
        )
        there = set(self._connection.scalars(text(columns), {"schema": self._name, "table": table}))
        if not there:  # of a schema that did not have it yet
            return
        relation = f'"{self._name}"."{table}"'
        pages = f"SELECT pg_relation_size('{relation}'::regclass) / current_setting('block_size')::bigint"
        wanted = ", ".join(column(name, there) for name in names)
        query = f"SELECT {wanted} FROM {relation} WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid"
        end = self._connection.exec_driver_sql(pages).scalar_one()
        for first in range(0, end, PAGES):
            for row in self._read(table, query, first, min(first + PAGES, end)):
                yield dict(zip(names, row, strict=True))

    def _read(self, table: str, query: str, first: int, end: int) -> list[Values]:
        """Return the rows of the pages that can be read."""
        try:
            pages = {"first": f"({first},0)", "end": f"({end},0)"}
            return list(self._plain(self._connection.exec_driver_sql(query, pages).all()))
        except DBAPIError as error:
            if error.connection_invalidated:
                raise IndexUnusable(f"the previous index cannot be read: {reason_of(error)}") from error
            if end - first == 1:
                self.salvaged.unread[table] = reason_of(error)
                return []
        middle = (first + end) // 2
        return self._read(table, query, first, middle) + self._read(table, query, middle, end)
