"""Migrations that expand the schema of an index while other hosts work on it.

A statement that alters a table waits for the transactions that use the table, and whatever else wants the table waits
behind that statement. So it gives up soon: its migration is undone, and tried again a moment later. Indexes of tables
that are there are built afterwards, beside those that write to them; the index records what is still to be built. If
the process dies in between, the next start of a host builds them, before any migration that does not expand the
schema: such a migration may name them, or drop their columns.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Connection, Engine, event, inspect, select, text
from sqlalchemy.exc import DBAPIError

from node.index.engine.about import OWED_INDEXES, about, remove_about, set_about
from node.index.engine.backend import IndexUnusable, ServerPlace
from node.index.engine.postgresql import LOCK, has_writers, in_the_way, is_of_locks, moment, open_engine
from node.index.engine.schema import Migration, migrate, schema
from node.index.models import HostRow

MIGRATION_LOCK = LOCK + 1
"""The advisory lock of the one process that expands the schema."""

LOCK_MILLISECONDS = 200
"""Longest wait of a migration for a table, and so of everybody else who wants that table."""

PATIENCE_SECONDS = 120.0
"""Longest time for which a migration is tried again, or another one is waited for."""

_CREATE_INDEX = re.compile(r"CREATE INDEX (?P<name>\w+) ON (?P<table>\w+) ")


def expand(engine: Engine, pending: Sequence[Migration]) -> None:
    """Run migrations beside the hosts, and build the indexes that these, or earlier ones, owe.

    Parameters
    ----------
    engine : Engine
        Opened beside the hosts; it has the lock of migrations until it is disposed of.

    Raises
    ------
    IndexUnusable
        Another process migrates, or uses one of the tables, for too long.
    """
    if not _is_our_turn(engine, wait=bool(pending)):
        return  # another host builds the indexes
    with engine.connect() as connection:
        revision = str(schema(connection).revision)
    for migration in pending:
        if migration.revision > revision:  # not done by the host before
            _run(engine, migration)
    _build_indexes(engine)


def require_no_hosts(place: ServerPlace, pending: Sequence[Migration]) -> None:
    """Refuse migrations after which the hosts that write to an index now could not go on.

    Raises
    ------
    IndexUnusable
        The message names these hosts.
    """
    engine = open_engine(place, read_only=True)
    try:
        with engine.connect() as connection:
            if not has_writers(connection) or not inspect(connection).has_table(HostRow.__tablename__):
                return
            living = select(HostRow.name, HostRow.version).where(HostRow.lease_until > moment(connection))
            rows = connection.execute(living.order_by(HostRow.name)).all()
    finally:
        engine.dispose()
    if rows:
        contracting = ", ".join(migration.revision for migration in pending if not migration.expands)
        hosts = ", ".join(f"{row.name} (voxelnode {row.version})" for row in rows)
        raise IndexUnusable(
            f"{place}: other hosts cannot work on the schema of this version (migration {contracting}): stop {hosts}, "
            "then start this host again"
        )


def _is_our_turn(engine: Engine, *, wait: bool) -> bool:
    """Take the lock of migrations; return False if another process has it, and we do not wait."""
    deadline = monotonic() + PATIENCE_SECONDS
    with engine.connect() as connection:
        while not connection.execute(text(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})")).scalar_one():
            if not wait:
                return False
            if monotonic() >= deadline:
                raise IndexUnusable("another host migrates the index: try again later")
            sleep(_pause())
    return True


def _run(engine: Engine, migration: Migration) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _migrate(engine, migration)
            return
        except DBAPIError as error:
            if not is_of_locks(error):
                raise
            if monotonic() >= deadline:
                waited = f"migration {migration.revision} has waited {PATIENCE_SECONDS:.0f} s"
                with engine.connect() as connection:
                    raise IndexUnusable(f"{waited}: {in_the_way(connection)}") from error
        sleep(_pause())


def _migrate(engine: Engine, migration: Migration) -> None:
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
        with _leaving_out_indexes(connection) as left_out:
            migrate(connection, migration.revision)
        if left_out:
            set_about(connection, OWED_INDEXES, json.dumps(_owed(connection) + left_out))


def build_owed(connection: Connection) -> None:
    """Build the indexes that migrations owe, in the transaction of a process that has the index alone."""
    for statement in _owed(connection):
        _build(connection, statement, concurrently="")
    remove_about(connection, OWED_INDEXES)


def _build_indexes(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET lock_timeout = 0")  # it waits for transactions, and nobody waits for it
        while owed := _owed(connection):
            _build(connection, owed[0])
            if owed[1:]:
                set_about(connection, OWED_INDEXES, json.dumps(owed[1:]))
            else:
                remove_about(connection, OWED_INDEXES)


def _build(connection: Connection, statement: str, *, concurrently: str = "CONCURRENTLY") -> None:
    found = _CREATE_INDEX.match(statement)
    assert found is not None
    name = found["name"]
    state = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    is_valid = connection.execute(state, {"name": name}).scalar()
    if is_valid is False:  # the process died that built it
        connection.exec_driver_sql(f"DROP INDEX {concurrently} {name}")
    if not is_valid:
        connection.exec_driver_sql(statement.replace("CREATE INDEX", f"CREATE INDEX {concurrently}", 1))


def _owed(connection: Connection) -> list[str]:
    owed: list[str] = json.loads(about(connection, OWED_INDEXES) or "[]")
    return owed


@contextmanager
def _leaving_out_indexes(connection: Connection) -> Iterator[list[str]]:
    """Collect the statements that would create indexes of tables that are there, instead of running them."""
    tables = set(inspect(connection).get_table_names())
    left_out: list[str] = []

    def leave_out(_: Connection, __: Any, statement: str, parameters: Any, *___: object) -> tuple[str, Any]:
        found = _CREATE_INDEX.match(statement)
        if found is None or found["table"] not in tables:
            return statement, parameters
        left_out.append(statement)
        return "SELECT 1", parameters

    event.listen(connection, "before_cursor_execute", leave_out, retval=True)
    try:
        yield left_out
    finally:
        event.remove(connection, "before_cursor_execute", leave_out)


def _pause() -> float:
    return random.uniform(0.1, 0.5)
