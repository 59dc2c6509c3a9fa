"""The words of SQL that SQLite and PostgreSQL say differently, as constructs of SQLAlchemy.

Statements, views and indexes are built from these and from the SQL that both engines share. The dialect of a connection
compiles them: nothing is changed once it is text, and no other room asks which engine it is. Three differences need no
construct, because both engines know the words that say what is meant:

- NULL sorts below all values in SQLite, and above them in PostgreSQL. An order of what may be NULL therefore says
  `nulls_first()`, or `nulls_last()` if it descends. An order of a column that is NOT NULL says nothing: PostgreSQL uses
  no index for an order that says where NULL goes, unless the index says the same.
- A whole number has 64 bits: `cast` to `BigInteger`. PostgreSQL's INTEGER has 32.
- NULL compared as a value: `is_distinct_from` and `is_not_distinct_from`. IS of PostgreSQL compares no values.
"""

from collections.abc import Collection
from typing import Any, ClassVar, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    BindParameter,
    ColumnElement,
    Dialect,
    Index,
    Integer,
    Select,
    String,
    bindparam,
    cast,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from node.index.rows.view_rows import ANY_OF, EACH, LIKE, TEXT, UNINDEXED, literal

Value = TypeVar("Value")


class Word(FunctionElement[Value]):
    """What each engine says; ``{0}`` and ``{1}`` stand for the operands, ``{all}`` for any number of them."""

    in_sqlite: ClassVar[str]
    in_postgresql: ClassVar[str]

    def __init_subclass__(cls, **rest: Any) -> None:
        """Let statements with a word be cached: its class and its operands say all about it."""
        super().__init_subclass__(**rest)
        cls.inherit_cache = True


@compiles(Word, "sqlite")
def _in_sqlite(word: Word[Any], compiler: SQLCompiler, **rest: Any) -> str:
    return _said(word.in_sqlite, word, compiler, **rest)


@compiles(Word, "postgresql")
def _in_postgresql(word: Word[Any], compiler: SQLCompiler, **rest: Any) -> str:
    return _said(word.in_postgresql, word, compiler, **rest)


def _said(said: str, word: Word[Any], compiler: SQLCompiler, **rest: Any) -> str:
    operands = [compiler.process(operand, **rest) for operand in word.clauses]
    return said.format(*operands, all=", ".join(operands))


class ConditionElement(Word[bool]):
    """A word that is true or false. It has no type: SQLAlchemy would ask SQLite whether a Boolean is 1."""

    type: TypeEngine[Any] = NullType()


# Texts


class PositionOf(Word[int]):
    """Where the second text begins in the first, from 1; 0 if it is not there. Letters match in their own case."""

    type = Integer()
    in_sqlite = "instr({0}, {1})"
    in_postgresql = "strpos({0}, {1})"


def matches(column: Any, pattern: str) -> ColumnElement[bool]:
    """Return the condition that the whole of a text matches a pattern of ``*`` (any text) and ``?`` (one character)."""
    return _Glob(column, bindparam(None, pattern, type_=_GlobPattern))


class _Glob(ConditionElement):
    """GLOB of SQLite; LIKE of PostgreSQL distinguishes letters of either case as well."""

    in_sqlite = "({0} GLOB {1})"
    in_postgresql = "({0} LIKE {1})"


class _GlobPattern(TypeDecorator[str]):
    """A pattern of ``*`` and ``?``, in which every other character stands for itself."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.translate(_GLOB if dialect.name == "sqlite" else _LIKE)


_GLOB = str.maketrans({"[": "[[]"})
_LIKE = str.maketrans({"*": "%", "?": "_", "%": r"\%", "_": r"\_", "\\": r"\\"})


# JSON


class JsonEach(Word[Any]):
    """The items of an array as rows of one column: ``JsonEach(array).table_valued("value")``.

    PostgreSQL gives every item as text: `cast` numbers.
    """

    in_sqlite, in_postgresql = EACH


class JsonArray(Word[Any]):
    """An array of some values."""

    type = NullType()
    in_sqlite = "json_array({all})"
    in_postgresql = "json_build_array({all})"


class JsonGroupArray(Word[Any]):
    """An aggregate: an array of a value of each row; empty without rows."""

    type = JSON()
    in_sqlite = "json_group_array({0})"
    in_postgresql = "coalesce(json_agg({0}), '[]')"


class JsonText(Word[str]):
    """The text that an object has by a key; NULL if it has no such key."""

    type = String()
    in_sqlite, in_postgresql = TEXT

    def __init__(self, item: Any, key: str) -> None:
        assert key.isidentifier(), "is a part of the statement"
        super().__init__(item, literal_column(key))


class JsonEntry(Word[str]):
    """The JSON text of the value that an object has by a name; NULL if it has no such name."""

    type = String()
    in_sqlite = "({0} -> {1})"
    in_postgresql = "CAST(CAST({0} AS JSON) -> CAST({1} AS TEXT) AS TEXT)"

    def __init__(self, item: Any, name: str) -> None:
        assert not {'"', "\\"}.intersection(name), "a path of SQLite has no escapes"
        super().__init__(item, bindparam(None, name, type_=_JsonName))


class _JsonName(TypeDecorator[str]):
    """The name of an entry of an object."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return f'$."{value}"' if dialect.name == "sqlite" else value


# Lists as one parameter: the statement is the same for any number of values.


def listed_in(column: Any, values: Collection[Any] | BindParameter[Any]) -> ColumnElement[bool]:
    """Return the condition that a column has one of `values`: a collection, or a parameter for one in JSON.

    PostgreSQL hashes the values and compares each row once. See also `looked_up_in`.
    """
    condition: ColumnElement[bool] = column.in_(_values(column, values))
    return condition


def looked_up_in(column: Any, values: Collection[Any] | BindParameter[Any] | Select[Any]) -> ColumnElement[bool]:
    """Return the condition of `listed_in` for a column that has an index, in which each value is looked up.

    Without an index, PostgreSQL would compare each row with each value.
    """
    selected = values if isinstance(values, Select) else _values(column, values)
    return _AnyOf(column, selected.scalar_subquery())


class _AnyOf(ConditionElement):
    """A value is one of those that a subquery selects; PostgreSQL looks only arrays up in an index."""

    in_sqlite, in_postgresql = ANY_OF


def _values(column: Any, values: Collection[Any] | BindParameter[Any]) -> Select[Any]:
    parameter = values if isinstance(values, BindParameter) else bindparam(None, list(values), type_=JSON)
    value = JsonEach(parameter).table_valued("value").c.value
    return select(cast(value, BigInteger) if isinstance(column.type, Integer) else value)


# Tables and indexes


NO_ID_TWICE = {"sqlite_autoincrement": True}
"""Options of a table in which a row never gets the id of a deleted one. PostgreSQL gives no id twice in any table."""


class Unindexed(Word[Any]):
    """A column that SQLite looks up in no index: it uses another one, or reads the rows in their order.

    PostgreSQL decides by its statistics.
    """

    in_sqlite, in_postgresql = UNINDEXED

    def __init__(self, column: Any) -> None:
        super().__init__(column)
        self.type = column.type


def partial_index(name: str, columns: str | tuple[str, ...], condition: str) -> Index:
    """Return an index of the rows that fulfil a condition, for the class of their table.

    `node.extensions.postgresql.dialect` reads the condition: naming PostgreSQL here would load all of its dialects.
    """
    names = (columns,) if isinstance(columns, str) else columns
    return Index(name, *names, sqlite_where=text(condition))


def in_partial_index(column: Any, index: Index) -> ColumnElement[bool]:
    """Return the condition that a column has a value which a `partial_index` has in its first column.

    SQLite is forced to read the index: without statistics, it takes reading the whole table for quicker. The index is
    of the table, also where a caller sees a part of that (`node.index.rows.narrowed`): the condition must be on a
    column that says which of the rows they are, or stand beside one of what they see.
    """
    table = index.table
    assert table is not None
    condition = index.dialect_options["sqlite"]["where"].text
    return _InIndex(column, *map(literal_column, (index.columns[0].name, table.name, condition, str(index.name))))


class _InIndex(ConditionElement):
    in_sqlite = "({0} IN (SELECT {1} FROM main.{2} INDEXED BY {4} WHERE {3}))"
    in_postgresql = "({0} IN (SELECT {1} FROM {2} WHERE {3}))"


class ValueAfter(Word[Any]):
    """The next value of a column that has an index, after another value; NULL if there is none.

    In SQLite, it is one of the whole table, also where a caller sees a part of that (`node.index.rows.narrowed`): to
    find the next one that they see, SQLite would read all of their rows. It must only be looked up in what they see.
    """

    in_sqlite = "(SELECT min({1}) FROM main.{0} WHERE {1} > {2})"
    in_postgresql = "(SELECT min({1}) FROM {0} WHERE {1} > {2})"

    def __init__(self, column: Any, value: Any) -> None:
        super().__init__(literal_column(column.class_.__tablename__), literal_column(column.key), value)
        self.type = column.type


# Paths


# INSERT ... ON CONFLICT


def insert(table: Any) -> sqlite.Insert:
    """Return an INSERT that has ``on_conflict_do_nothing`` and ``on_conflict_do_update``.

    Both engines have the same words for these, and SQLAlchemy has a class for each engine. Those of SQLite lack only
    the name of a constraint, which no statement of ours has.
    """
    return sqlite.insert(table)


@compiles(OnConflictDoNothing, "postgresql")
def _do_nothing(clause: Any, compiler: Any, **rest: Any) -> str:
    clause.constraint_target = None
    return str(compiler.visit_on_conflict_do_nothing(clause, **rest))


@compiles(OnConflictDoUpdate, "postgresql")
def _do_update(clause: Any, compiler: Any, **rest: Any) -> str:
    clause.constraint_target = None
    return str(compiler.visit_on_conflict_do_update(clause, **rest))


def contains(column: Any, part: str) -> ColumnElement[bool]:
    """Return the condition that a text contains another; ASCII letters match in either case, others in their own."""
    return _Like(column, f"%{literal(part)}%")


def starts_with(column: Any, start: str) -> ColumnElement[bool]:
    """Return the condition that a text starts with another; letters match as by `contains`."""
    return _Like(column, f"{literal(start)}%")


class _Like(ConditionElement):
    in_sqlite, in_postgresql = LIKE

    def __init__(self, column: Any, pattern: str) -> None:
        super().__init__(column, bindparam(None, pattern, type_=String))
