"""Peers and routes that administrators added on the pages, with who changed each last, and when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Connection, delete, select

from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import AddedPeerRow, AddedRouteRow


@dataclass(frozen=True, slots=True)
class Added:
    """What was added; `settings` has the keys of its table in the configuration as JSON values."""

    name: str
    settings: Mapping[str, Any]
    changed_by: str
    changed_at: dt.datetime


class _AddedRepository(IndexRepository):
    """What was added, by its names."""

    table: ClassVar[type[AddedPeerRow | AddedRouteRow]]

    @on_reader
    def listed(self, connection: Connection) -> list[Added]:
        """Return all, by name."""
        table = self.table
        columns = table.name, table.settings, table.changed_by, table.changed_at
        return [Added(*row) for row in connection.execute(select(*columns).order_by(table.name))]

    @on_writer
    def set(self, connection: Connection, name: str, settings: Mapping[str, Any], who: str, now: dt.datetime) -> None:
        """Add one, or change the one of that name."""
        values = {"settings": dict(settings), "changed_by": who, "changed_at": now}
        added = insert(self.table).values(name=name, **values)
        connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=values))

    @on_writer
    def remove(self, connection: Connection, name: str) -> None:
        """Remove one."""
        connection.execute(delete(self.table).where(self.table.name == name))


class AddedPeerRepository(_AddedRepository):
    """Peers."""

    table = AddedPeerRow


class AddedRouteRepository(_AddedRepository):
    """Routes."""

    table = AddedRouteRow
