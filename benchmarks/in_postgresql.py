"""An index of SQLite in a database of PostgreSQL, for benchmarks that ask both the same."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg

from node.extensions.postgresql.engine import number_after
from node.index.engine.about_keys import CLOSED
from node.index.engine.backend import ServerPlace
from node.index.engine.place import open_engine, upgrade
from node.index.models.levels import Base
from tests.postgresql import Server


def copied(path: Path, server: Server, database: str) -> str:
    """Copy an index to a new database, quickly and without the comparison of `voxelnode db copy`; return its URL."""
    url = server.create(database)
    place = ServerPlace(url, path.parent)
    upgrade(place)
    with (
        closing(sqlite3.connect(path)) as source,
        psycopg.connect(host=str(server.folder), user="voxelnode", dbname=database) as target,
    ):
        target.execute("SET synchronous_commit = off")
        for table in Base.metadata.sorted_tables:
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            target.execute(f"TRUNCATE {table.name} CASCADE".encode())
            with target.cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN".encode()) as copy:
                for row in source.execute(f"SELECT {columns} FROM {table.name}"):
                    copy.write_row(row)
        target.execute("UPDATE about SET value = 'yes' WHERE key = %s", [CLOSED])
    engine = open_engine(place)
    with engine.begin() as connection:
        number_after(connection, {})
    engine.dispose()
    server.run("VACUUM ANALYZE", database)
    return url
