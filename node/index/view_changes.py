"""Changes of views, for migrations: a view is changed as it is, because another migration may have added columns."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection


def change_view(connection: Connection, view: str, changes: Iterable[tuple[str, str]]) -> None:
    """Create a view again with each first text of `changes` replaced by the second."""
    query = f"SELECT sql FROM sqlite_master WHERE type = 'view' AND name = '{view}'"
    text = connection.exec_driver_sql(query).scalar_one()
    for old, new in changes:
        text = text.replace(old, new)
    connection.exec_driver_sql(f"DROP VIEW {view}")
    connection.exec_driver_sql(text)
