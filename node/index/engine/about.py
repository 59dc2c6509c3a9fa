"""Facts about the index itself, such as the last record of the journal that it has."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from node.index.engine.hot_statements import Prepared
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import AboutRow

CLOSED = "closed"
"""``yes`` if the last process that wrote to the index shut down cleanly, else ``no``."""

APPLIED = "applied"
"""The last record of the journal whose instance is in the index, see `Applied`. If several hosts can
share the index, there is one for each journal, with its identity behind a slash."""

LEDGER = "ledger"
"""How far the ledger of acknowledged instances was at the last checkpoint (`node.acknowledged.Position`); the name of a
host follows if several share the index."""

SCRUB = "scrub"
"""How far the background comparison of the archive is, see `node.lifecycle.scrub`."""

RETENTION = "retention"
"""What retention has seen of the clock, and what holds it, see `node.index.nouns.retention`."""

RETENTION_CONFIRMED = "retention_confirmed"
"""The last confirmation of a person that retention may go on."""

STORE = "store"
"""Identity of the archive in its object store; empty after everything was copied back to the folder."""

STORE_SPOOLED = "store_spooled"
"""``yes`` once the instances from before the object store are noted as to be moved to it."""

COPYING = "copying"
"""The index of which this is a copy that is not finished, see `node.index.care.copying`."""

OLDEST_SCHEMA = "oldest_schema"
"""Only an index from before the first release has it, see `node.index.engine.place`."""

MOVED = "moved"
"""Where the index is now: this is not the newest any more."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A position in a journal: every record up to `sequence` is in the index. As text, ``IDENTITY:SEQUENCE``."""

    journal: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.journal}:{self.sequence}"

    @classmethod
    def of(cls, text: str | None) -> Applied:
        """Return the position that a text names; that before the first record of no journal if there is none."""
        journal, _, sequence = (text or ":0").partition(":")
        return cls(journal, int(sequence))


_INSERT = insert(AboutRow)
_SET = Prepared(
    _INSERT.on_conflict_do_update(index_elements=["key"], set_={"value": _INSERT.excluded.value}), ["key", "value"]
)


class AboutRepository(IndexRepository):
    """Facts about the index, by key."""

    @on_reader
    def get(self, connection: Connection, key: str) -> str | None:
        """Return the value that `set` stored, or None."""
        return about(connection, key)

    @on_reader
    def applied(self, connection: Connection, journal: str) -> Applied:
        """Return the last record of a journal that is in the index."""
        return applied(connection, journal)

    @on_writer
    def set(self, connection: Connection, key: str, value: str) -> None:
        """Store a fact, replacing any value of `key`."""
        set_about(connection, key, value)

    @on_writer
    def settle(self, connection: Connection, key: str, value: str) -> str:
        """Store a fact unless another host has done so before, and return what is stored."""
        absent = _INSERT.values(key=key, value=value)
        is_empty = AboutRow.value == ""
        connection.execute(absent.on_conflict_do_update(index_elements=["key"], set_={"value": value}, where=is_empty))
        return about(connection, key) or value


def set_about(connection: Connection, key: str, value: str) -> None:
    """Store a fact about the index, replacing any value of `key`."""
    _SET.execute(connection, {"key": key, "value": value})


def about(connection: Connection, key: str) -> str | None:
    """Return a fact about the index, or None."""
    return connection.scalar(select(AboutRow.value).where(AboutRow.key == key))


def set_applied(connection: Connection, applied: Applied) -> None:
    """Note the last record of a journal that is in the index: each host has a journal."""
    set_about(connection, f"{APPLIED}/{applied.journal}", str(applied))


def applied(connection: Connection, journal: str) -> Applied:
    """Return the last record of a journal that is in the index; of no journal if none is."""
    return Applied.of(about(connection, f"{APPLIED}/{journal}"))
