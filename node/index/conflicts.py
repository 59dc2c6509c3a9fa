"""Decisions about identity conflicts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Literal

from sqlalchemy import Connection, select, update

from node.index.listed import listed_in
from node.index.models import ConflictRow
from node.index.repository import IndexRepository, on_reader, on_writer

Decision = Literal["accepted", "kept"]
"""Of the two versions, the one in the conflict is accepted, or the current one is kept."""


class ConflictRepository(IndexRepository):
    """The conflicts of a node; `node.index.levels.record_conflict` adds them."""

    @on_reader
    def host_of(self, connection: Connection, conflict: int) -> str | None:
        """Return the host whose disk has the file of a conflict; None: the archive of all hosts, if there is a file."""
        host: str | None = connection.scalar(select(ConflictRow.host).where(ConflictRow.id == conflict))
        return host

    @on_writer
    def decide(
        self, connection: Connection, ids: Collection[int], decision: Decision, who: str, now: dt.datetime
    ) -> None:
        """Record what a person has decided about conflicts."""
        decided = update(ConflictRow).where(listed_in(ConflictRow.id, ids))
        connection.execute(decided.values(decision=decision, decided_at=now, decided_by=who))
