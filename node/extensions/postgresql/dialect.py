"""Settings of SQLAlchemy and psycopg for PostgreSQL, so that statements, types and values are those of SQLite.

Importing this module registers the dialect ``voxelnode``.
"""

import datetime as dt
import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import BigInteger, Integer
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGDDLCompiler, PGTypeCompiler
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class _TextDumper(StrDumperUnknown):
    """Text of PostgreSQL has no NUL. It becomes U+FFFD, in what is stored as in what is looked for."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\ufffd"))


def replace_nul(connection: psycopg.Connection[Any], _: object) -> None:
    """Have a new connection send text without NUL."""
    connection.adapters.register_dumper(str, _TextDumper)


def to_json(value: Any) -> str:
    """Return a value as JSON, its texts as those of `_TextDumper`."""
    return _NUL.sub(r"\1\\ufffd", json.dumps(value))


def next_number(table: str) -> str:
    """Return the expression for the id of a new row of a table of `FOLLOWED`."""
    return f"CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('{table}_id_seq'::regclass) END"


def as_sqlite(value: Any) -> Any:
    """Return a value as SQLite has it: times and lists are text, truth is a number."""
    match value:
        case dt.datetime():
            return value.isoformat(" ", "microseconds")
        case dt.date():
            return value.isoformat()
        case dt.time():
            return value.isoformat("microseconds")
        case bool():
            return int(value)
        case Decimal():
            return int(value) if int(value.as_tuple().exponent) >= 0 else float(value)
        case dict() | list():
            return json.dumps(value)
    return value


def rows_as_sqlite(_: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A row factory of psycopg, for statements whose rows are used as the driver gives them."""
    return lambda values: tuple(map(as_sqlite, values))


class _Types(PGTypeCompiler):
    """Neither the length of a text nor a number of 64 bits is out of bounds, as in SQLite: peers send what the standard
    does not allow, and it is stored."""

    def visit_INTEGER(self, type_: Any, **keywords: Any) -> str:
        return "BIGINT"

    def visit_VARCHAR(self, type_: Any, **keywords: Any) -> str:
        return "VARCHAR"


class _Integer(BigInteger):
    """Numbers rows by a BIGSERIAL, and is cast in no statement: the driver gives a number the size that it needs."""


class _Ddl(PGDDLCompiler):
    """An index puts NULL below all values, as orders do: only then, PostgreSQL uses it for an order.

    It has the condition that it has in SQLite.
    """

    def visit_create_index(self, create: Any, *options: Any, **keywords: Any) -> str:
        index = create.element
        nullable = (column.key for column in index.columns if column.nullable)
        index.dialect_kwargs["postgresql_ops"] = dict.fromkeys(nullable, "NULLS FIRST")
        index.dialect_kwargs["postgresql_where"] = index.dialect_options["sqlite"]["where"]
        return str(super().visit_create_index(create, *options, **keywords))  # type: ignore[no-untyped-call]


class IndexDialect(PGDialect_psycopg):
    """PostgreSQL, with the types and the indexes of SQLite."""

    supports_statement_cache = True
    type_compiler_cls = _Types
    ddl_compiler = _Ddl
    colspecs = PGDialect_psycopg.colspecs | {Integer: _Integer}


registry.register("voxelnode", __name__, IndexDialect.__name__)
