"""An index in a file: who lets its write-ahead log grow is told, and it is cut."""

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from node.index.rows import sqlite, sqlite_file
from node.index.rows.sqlite_file import connect, held_back, wal_bytes


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
        assert "keeps a transaction open" in reported
        assert str(path) in reported
    write(3)
    assert held_back(path) is None
    assert wal_bytes(path) <= 5 << 20
    engine.dispose()
