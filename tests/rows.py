"""Rows of the documented views of an index, as a person with SQLite reads them."""

import fcntl
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from node.index.reading import reading
from node.index.rows.place import FILE_NAME
from node.journal.inspection import inspect
from tests.made_once import (
    IN_POSTGRESQL,
    give_locks_up_in_postgresql,
    is_read_in_postgresql,
    locked_in_postgresql,
    write_in_postgresql,
)

CATCH_UP_SECONDS = 10.0


def view_rows(root: Path, query: str, **values: Any) -> list[dict[str, Any]]:
    """The rows that a query gives, in a transaction of its own; `values` fill its ``:names``."""
    wait_until_applied(root)
    return read_rows(root, query, **values)


def wait_until_applied(root: Path, seconds: float = CATCH_UP_SECONDS) -> None:
    """Wait until the process that holds a root has indexed what it had acknowledged before this call."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    state = inspect(root / "journal")
    wanted = state.last if state.last > state.freed else 0  # an index may be older than what was freed
    while _is_held(root / "journal") and _applied(root) < wanted and time.monotonic() < deadline:
        pause.wait(0.005)


def _is_held(journal: Path) -> bool:
    if not journal.is_dir():
        return False
    descriptor = os.open(journal, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _applied(root: Path) -> int:
    rows = read_rows(root, "SELECT value FROM about WHERE key LIKE 'applied/%'")
    return int(rows[0]["value"].rpartition(":")[2]) if rows else 0


def read_rows(root: Path, query: str, **values: Any) -> list[dict[str, Any]]:
    """The rows that a query gives at once."""
    if IN_POSTGRESQL:
        with reading(root) as index:
            return index.series._rows(query, **values)
    with closing(_opened(root)) as connection:
        return [dict(row) for row in connection.execute(query, values)]


def write_rows(root: Path, statement: str, **values: Any) -> None:
    """Change rows beside the node; `values` fill the ``:names`` of the statement."""
    if IN_POSTGRESQL:
        write_in_postgresql(root, re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", statement), values)
        return
    with closing(sqlite3.connect(root / FILE_NAME, timeout=10)) as connection, connection:
        connection.execute(statement, values)


def give_locks_up_after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an index that is opened later wait no longer for locks of others."""
    monkeypatch.setattr("node.index.rows.sqlite_file.BUSY_SECONDS", seconds)
    if IN_POSTGRESQL:
        give_locks_up_in_postgresql(seconds, monkeypatch)


@contextmanager
def index_locked(root: Path) -> Iterator[None]:
    """Let nobody else write to an index, from another connection."""
    if IN_POSTGRESQL:
        with locked_in_postgresql(root):
            yield
        return
    with closing(sqlite3.connect(root / FILE_NAME, isolation_level=None, check_same_thread=False)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        yield


def is_read(root: Path) -> bool:
    """Whether a node holds a view of the rows of an index, so that old versions of them stay."""
    if IN_POSTGRESQL:
        return is_read_in_postgresql(root)
    with closing(sqlite3.connect(root / FILE_NAME)) as connection:
        return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])


def _opened(root: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{(root / FILE_NAME).absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def executed() -> Iterator[list[tuple[str, Any]]]:
    """Note the statements that are executed, each with its values."""
    ran: list[tuple[str, Any]] = []
    event.listen(Engine, "before_cursor_execute", record := lambda *call: ran.append((call[2], call[3])))
    try:
        yield ran
    finally:
        event.remove(Engine, "before_cursor_execute", record)
