"""Decisions about identity conflicts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Literal

from sqlalchemy import Connection, update

from node.index.models import ConflictRow
from node.index.repository import IndexRepository, on_writer

Decision = Literal["accepted", "kept"]
"""Of the two versions, the one in the conflict is accepted, or the current one is kept."""


class ConflictRepository(IndexRepository):
    """The conflicts of a node; `node.index.levels.record_conflict` adds them."""

    @on_writer
    def decide(
        self, connection: Connection, ids: Collection[int], decision: Decision, who: str, now: dt.datetime
    ) -> None:
        """Record what a person has decided about conflicts."""
        decided = update(ConflictRow).where(ConflictRow.id.in_(ids))
        connection.execute(decided.values(decision=decision, decided_at=now, decided_by=who))
