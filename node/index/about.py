"""Facts of the index itself, such as the root that relative paths count from."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from node.index.models import AboutRow
from node.index.repository import IndexRepository, on_reader, on_writer

CLOSED = "closed"
"""``yes`` when the last process that wrote to the index ended in good order, else ``no``."""


class AboutRepository(IndexRepository):
    """Facts by their key."""

    @on_reader
    def get(self, connection: Connection, key: str) -> str | None:
        """Return the fact that `set` kept, or None."""
        return about(connection, key)

    @on_writer
    def set(self, connection: Connection, key: str, value: str) -> None:
        """Keep a fact."""
        set_about(connection, key, value)


def set_about(connection: Connection, key: str, value: str) -> None:
    """Keep a fact of the index."""
    statement = insert(AboutRow).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))


def about(connection: Connection, key: str) -> str | None:
    """Return a fact of the index, or None."""
    return connection.scalar(select(AboutRow.value).where(AboutRow.key == key))
