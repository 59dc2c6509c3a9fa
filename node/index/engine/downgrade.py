"""Bring an index back to an older schema, in one transaction.

If the process dies, or the loss is not agreed to, the index has the schema that it had. Without a schema it is no index
any more: a start on a root with instances refuses it. The views of an older schema are made by its version, at its next
start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from sqlalchemy import Connection, inspect, text

from node.errors import UsageError
from node.index.engine.backend import IndexUnusable, Place
from node.index.engine.extension_tables import every_table, extension_tables, owner_of
from node.index.engine.place import alone, migrations, not_installed, require_there, run_migrations, script_directory
from node.index.engine.views import drop_views

BASE = "base"
"""Alembic's name of no schema at all."""

Lost = Mapping[str, int]
"""Rows of each table that goes, and values of each ``table.column``."""


def downgrade(place: Place, revision: str, agree: Callable[[Lost], None]) -> str | None:
    """Bring an index to an older revision, of the core or of an extension, or to `BASE`; return the one of the core.

    `agree` is called before anything is lost; whatever it raises leaves the index as it is.

    Raises UsageError if no migration is called `revision`, and IndexUnusable as `node.index.engine.place.upgrade`.
    """
    if revision not in (BASE, *migrations()):
        raise UsageError(f"there is no schema {revision!r}; known: {BASE}, {', '.join(sorted(migrations()))}")
    require_there(place)
    with alone(place) as connection:
        others = not_installed(connection)
        if others and revision == BASE:
            raise IndexUnusable(f"{place}: install {', '.join(others)} first: its tables refer to those that would go")
        drop_views(connection)
        agree(_lost_by(connection, revision))
        _go_down(connection, revision)
        return _core(connection)


def _lost_by(connection: Connection, revision: str) -> Lost:
    """Return what going down loses, after doing so in a savepoint."""
    before = _columns(connection)
    with connection.begin_nested() as attempt:
        _go_down(connection, revision)
        after = _columns(connection)
        attempt.rollback()
    lost = {}
    for table in sorted(before.keys() & every_table().keys()):
        if table not in after:
            lost[table] = _count(connection, table, "*")
        else:
            gone = sorted(before[table] - after[table])
            lost |= {f"{table}.{column}": _count(connection, table, f'"{column}"') for column in gone}
    return lost


def _columns(connection: Connection) -> dict[str, set[str]]:
    columns = inspect(connection).get_multi_columns()
    return {str(name): {column["name"] for column in some} for (_, name), some in columns.items()}


def _count(connection: Connection, table: str, what: str) -> int:
    return int(connection.execute(text(f'SELECT count({what}) FROM "{table}"')).scalar_one())


def _go_down(connection: Connection, revision: str) -> None:
    """Run the migrations back; those of extensions first, because their tables refer to those of the core."""
    script, known = script_directory(), frozenset(migrations())

    def steps(to: str, there: Iterable[str], _: object) -> Any:
        return script._downgrade_revs(to, cast(str, tuple(known.intersection(there))))

    if revision != BASE:
        return run_migrations(connection, script, partial(steps, revision))
    for own in extension_tables().values():
        if _is_there(connection, own.revision):
            run_migrations(connection, script, partial(steps, f"{own.revision}@{BASE}"))
    run_migrations(connection, script, partial(steps, BASE))
    connection.execute(text("DROP TABLE alembic_version"))


def _is_there(connection: Connection, newest: str) -> bool:
    return owner_of(newest) in {owner_of(one) for one in _revisions(connection)}


def _core(connection: Connection) -> str | None:
    return next((one for one in _revisions(connection) if not owner_of(one)), None)


def _revisions(connection: Connection) -> list[str]:
    if not inspect(connection).has_table("alembic_version"):
        return []
    return list(connection.scalars(text("SELECT version_num FROM alembic_version")))
