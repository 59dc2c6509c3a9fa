"""Changes of views, for migrations: a view is changed as it is, because another migration may have added columns."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from node.index.engine.backend import backend_of


def change_view(connection: Connection, view: str, changes: Iterable[tuple[str, str]]) -> None:
    """Create a view again with each first text of `changes` replaced by the second."""
    text = backend_of(connection).words_of_view(connection, view)
    for old, new in changes:
        text = text.replace(old, new)
    connection.exec_driver_sql(f"DROP VIEW {view}")
    connection.exec_driver_sql(text)
