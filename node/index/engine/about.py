"""Facts about the index itself, such as the last record of the journal that it has."""

from __future__ import annotations

from sqlalchemy import Connection, select

from node.index.engine.about_keys import APPLIED, AppliedPosition
from node.index.engine.hot_statements import PreparedStatement
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_writer, reads
from node.index.models.work import AboutRow

_INSERT = insert(AboutRow)
_SET = PreparedStatement(
    _INSERT.on_conflict_do_update(index_elements=["key"], set_={"value": _INSERT.excluded.value}), ["key", "value"]
)


def about(connection: Connection, key: str) -> str | None:
    """Return a fact about the index, or None."""
    return connection.scalar(select(AboutRow.value).where(AboutRow.key == key))


def applied(connection: Connection, journal: str) -> AppliedPosition:
    """Return the last record of a journal that is in the index; of no journal if none is."""
    return AppliedPosition.of(about(connection, f"{APPLIED}/{journal}"))


class AboutRepository(IndexRepository):
    """Facts about the index, by key."""

    get = reads(about)

    applied = reads(applied)

    @on_writer
    def set(self, connection: Connection, key: str, value: str) -> None:
        """Store a fact, replacing any value of `key`."""
        set_about(connection, key, value)

    @on_writer
    def set_once(self, connection: Connection, key: str, value: str) -> str:
        """Store a fact unless another host has done so before, and return what is stored."""
        absent = _INSERT.values(key=key, value=value)
        is_empty = AboutRow.value == ""
        connection.execute(absent.on_conflict_do_update(index_elements=["key"], set_={"value": value}, where=is_empty))
        return about(connection, key) or value


def set_about(connection: Connection, key: str, value: str) -> None:
    """Store a fact about the index, replacing any value of `key`."""
    _SET.execute(connection, {"key": key, "value": value})


def set_applied(connection: Connection, applied: AppliedPosition) -> None:
    """Note the last record of a journal that is in the index: each host has a journal."""
    set_about(connection, f"{APPLIED}/{applied.journal}", str(applied))
