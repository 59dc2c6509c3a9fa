"""An index of SQLite in a database of PostgreSQL, with further rows, for a benchmark that asks both the same."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from node.extensions.postgresql.engine import number_after
from node.index.rows.about_keys import CLOSED
from node.index.rows.backend import ServerPlace
from node.index.rows.models.levels import Base
from node.index.rows.place import open_engine, upgrade
from tests.postgresql import Server

Added = Mapping[str, tuple[Sequence[str], Iterable[Sequence[Any]]]]
"""Columns and rows, by table."""


def copied(source: sqlite3.Connection, added: Added, root: Path, server: Server, database: str) -> str:
    """Copy an index to a new database, and add rows; return its URL.

    Indexes are made once the rows are there, and nothing is compared, neither foreign keys.
    """
    url = server.create(database)
    place = ServerPlace(url, root)
    upgrade(place)
    with psycopg.connect(host=str(server.folder), user="voxelnode", dbname=database) as target:
        target.execute("SET maintenance_work_mem = '1GB'")
        indexes = target.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index x "
            "JOIN pg_class t ON t.oid = indrelid WHERE relname = ANY(%s) AND NOT indisunique",
            [list(added)],
        ).fetchall()
        for name, _ in indexes:
            target.execute(f"DROP INDEX {name}".encode())
        for table in Base.metadata.sorted_tables:
            target.execute(f"TRUNCATE {table.name} CASCADE".encode())
        for table in Base.metadata.sorted_tables:
            # A replica looks up no foreign keys; its triggers, which give studies their grams, do not run, either.
            role = "origin" if table.name == "studies" else "replica"
            target.execute(f"SET session_replication_role = {role}".encode())
            columns = [f'"{column.name}"' for column in table.columns]
            rows = source.execute(f"SELECT {', '.join(columns)} FROM main.{table.name}")
            for names, values in ((columns, rows), *([added[table.name]] if table.name in added else [])):
                with target.cursor().copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN".encode()) as copy:
                    for row in values:
                        copy.write_row(row)
        target.execute("UPDATE about SET value = 'yes' WHERE key = %s", [CLOSED])
        for _, definition in indexes:
            target.execute(definition.encode())
    engine = open_engine(place)
    with engine.begin() as connection:
        number_after(connection, {})
    engine.dispose()
    server.run("VACUUM ANALYZE", database)
    return url
