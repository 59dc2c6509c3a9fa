"""Peers that administrators added on the pages, with who changed each last, and when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, select

from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_reader, on_writer
from node.index.models import AddedPeerRow


@dataclass(frozen=True, slots=True)
class AddedPeer:
    """A peer; `settings` has the keys of ``[peers.NAME]`` as JSON values."""

    name: str
    settings: Mapping[str, Any]
    changed_by: str
    changed_at: dt.datetime


class AddedPeerRepository(IndexRepository):
    """Peers by their names."""

    @on_reader
    def listed(self, connection: Connection) -> list[AddedPeer]:
        """Return all, by name."""
        table = AddedPeerRow
        columns = table.name, table.settings, table.changed_by, table.changed_at
        return [AddedPeer(*row) for row in connection.execute(select(*columns).order_by(table.name))]

    @on_writer
    def set(self, connection: Connection, name: str, settings: Mapping[str, Any], who: str, now: dt.datetime) -> None:
        """Add a peer, or change the one of that name."""
        values = {"settings": dict(settings), "changed_by": who, "changed_at": now}
        added = insert(AddedPeerRow).values(name=name, **values)
        connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=values))

    @on_writer
    def remove(self, connection: Connection, name: str) -> None:
        """Remove a peer."""
        connection.execute(delete(AddedPeerRow).where(AddedPeerRow.name == name))
