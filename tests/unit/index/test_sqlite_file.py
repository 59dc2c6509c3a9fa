"""An index in a file: who lets its write-ahead log grow is told, and it is cut; rows of one from before are read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from node.index.care.former_rows import former_tables
from node.index.engine import sqlite, sqlite_file
from node.index.engine.sqlite_file import connect, held_back, wal_bytes


def test_a_reader_that_holds_a_transaction_is_reported_and_the_log_is_cut_once_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.sqlite"
    monkeypatch.setattr(sqlite, "KEPT_WAL_BYTES", 1 << 20)
    monkeypatch.setattr(sqlite_file, "MAX_WAL_BYTES", 8 << 20)
    engine = sqlite.open_engine(path)

    def write(times: int) -> None:
        for _ in range(times):
            with engine.begin() as connection:
                connection.execute(text("UPDATE t SET b = randomblob(1000000)"))

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (b BLOB)"))
        connection.execute(text("INSERT INTO t VALUES (randomblob(1000000))"))
    assert held_back(path) is None
    with closing(connect(path, read_only=True)) as reader:
        reader.isolation_level = None
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchone()
        write(20)
        reported = held_back(path)
        assert reported is not None
        assert "keeps a transaction open" in reported
        assert str(path) in reported
    write(3)
    assert held_back(path) is None
    assert wal_bytes(path) <= 5 << 20
    engine.dispose()


def test_settings_in_rows_of_an_index_from_before_are_read_without_what_was_not_set(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in ("added_peers", "added_routes", "added_hooks"):
            connection.execute(f"CREATE TABLE {table} (name, settings, secret)")
        connection.execute("CREATE TABLE added_retention (settings)")
        for row in (("CT1", '{"host": "10.0.0.1", "tls_ca": null}', None), ("CT2", '{"port": 0}', "s")):
            connection.execute("INSERT INTO added_peers VALUES (?, ?, ?)", row)
        connection.execute("""INSERT INTO added_retention VALUES ('{"rules": {"days": 9, "keep_where": null}}')""")
    assert former_tables(path) == [
        ("peers.CT1", {"host": "10.0.0.1"}),
        ("peers.CT2", {"port": 0, "secret": "s"}),
        ("retention", {"days": 9}),
    ]
