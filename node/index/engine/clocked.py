"""Connections that count the processor time of SQLite.

SQLite runs without the interpreter's lock. What a query runs besides is time that other threads wait for.
"""

from __future__ import annotations

import sqlite3
from time import thread_time
from typing import Any


class ClockedConnection(sqlite3.Connection):
    """A connection with the processor time of its statements so far, in seconds. For one thread at a time."""

    seconds = 0.0

    def cursor(self, *_: Any, **__: Any) -> Any:
        """Return a cursor that counts."""
        return super().cursor(_ClockedCursor)

    def execute(self, *statement: Any) -> Any:
        """Run a statement on such a cursor."""
        return self.cursor().execute(*statement)


class _ClockedCursor(sqlite3.Cursor):
    connection: ClockedConnection

    def execute(self, *statement: Any) -> Any:
        began_at = thread_time()
        try:
            return super().execute(*statement)
        finally:
            self.connection.seconds += thread_time() - began_at

    def fetchone(self) -> Any:
        began_at = thread_time()
        try:
            return super().fetchone()
        finally:
            self.connection.seconds += thread_time() - began_at

    def fetchall(self) -> Any:
        began_at = thread_time()
        try:
            return super().fetchall()
        finally:
            self.connection.seconds += thread_time() - began_at
