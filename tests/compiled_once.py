"""Statements are compiled once for all indexes of a process: tests open thousands, each with an engine of its own.

SQLAlchemy keeps compiled statements by the dialect that compiled them, and every engine makes one. Tests register a
dialect for SQLite whose instances are equal, and which gives its engines one cache. Compilers depend on nothing of an
instance but what the version of SQLite and the arguments of the one `create_engine` for SQLite say, which are the same.
"""

from sqlalchemy import Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

MAX_STATEMENTS = 5000

_compiled = LRUCache(MAX_STATEMENTS)


class Dialect(SQLiteDialect_pysqlite):
    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=_compiled)


def compile_once() -> None:
    """Have the engines of this process, and of those that it forks, share their compiled statements."""
    registry.register("sqlite", __name__, Dialect.__name__)
