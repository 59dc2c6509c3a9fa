"""An index in a file: who lets its write-ahead log grow is told, and it is cut."""

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from node.index.rows import sqlite, sqlite_file
from node.index.rows.sqlite_file import FileVersion, connect, held_back, wal_bytes


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


def test_every_commit_of_another_connection_changes_the_version_of_a_file_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    engine = sqlite.open_engine(path)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (b INTEGER)"))
    with closing(FileVersion(path)) as version:
        before = version.now()
        assert version.now() == before is not None
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (1)"))
        after = version.now()
        assert after != before
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO t VALUES (2)"))
            assert version.now() == after  # not before its commit
        assert version.now() != after
        engine.dispose()
    assert version.now() is None
