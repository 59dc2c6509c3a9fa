"""What administrators added beside the configuration: peers, routes, hooks, and the rules of retention.

Each is a row with who changed it last, and when.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from sqlalchemy import Connection, delete, select

from node.index.engine.rows import ReadRepository
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import AddedHookRow, AddedPeerRow, AddedRetentionRow, AddedRouteRow

Table = Literal["peers", "routes", "hooks", "retention"]
"""The tables of the configuration beside which something is added."""

_Row = type[AddedPeerRow | AddedRouteRow | AddedHookRow | AddedRetentionRow]


@dataclass(frozen=True, slots=True)
class Added:
    """What was added; `settings` has the keys of its table in the configuration as JSON values."""

    name: str
    settings: Mapping[str, Any]
    changed_by: str
    changed_at: dt.datetime
    secret: str | None = field(default=None, repr=False)

    @property
    def change(self) -> str:
        """What tells the last change from others."""
        return self.changed_at.isoformat()


def _listed(connection: Connection, row: _Row) -> list[Added]:
    columns = row.name, row.settings, row.changed_by, row.changed_at, row.secret
    return [Added(*values) for values in connection.execute(select(*columns).order_by(row.name))]


class _AddedRepository(IndexRepository):
    """What was added, by its names."""

    row: ClassVar[_Row]

    @on_reader
    def listed(self, connection: Connection) -> list[Added]:
        """Return all, by name."""
        return _listed(connection, self.row)

    @on_writer
    def set(
        self,
        connection: Connection,
        name: str,
        settings: Mapping[str, Any],
        who: str,
        now: dt.datetime,
        secret: str | None = None,
    ) -> None:
        """Add one, or change the one of that name."""
        values = {"settings": dict(settings), "changed_by": who, "changed_at": now, "secret": secret}
        added = insert(self.row).values(name=name, **values)
        connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=values))

    @on_writer
    def remove(self, connection: Connection, name: str) -> None:
        """Remove one."""
        connection.execute(delete(self.row).where(self.row.name == name))


class _AddedPeers(_AddedRepository):
    row = AddedPeerRow


class _AddedRoutes(_AddedRepository):
    row = AddedRouteRow


class _AddedHooks(_AddedRepository):
    row = AddedHookRow


class _AddedRetention(_AddedRepository):
    row = AddedRetentionRow


ADDED: Mapping[Table, type[_AddedRepository]] = {
    "peers": _AddedPeers,
    "routes": _AddedRoutes,
    "hooks": _AddedHooks,
    "retention": _AddedRetention,
}
"""What has the rows beside each table of the configuration."""


class ReadAdded(ReadRepository):
    """What was added, for commands that only read."""

    def listed(self, table: Table) -> list[Added]:
        """Return what was added beside a table, by name."""
        return _listed(self._connection, ADDED[table].row)
