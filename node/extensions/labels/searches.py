"""Searches for studies that accounts keep: each its own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, func, select

from node.errors import UsageError
from node.extensions.labels.marks import NotMarkable
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import insert
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import KeptSearchRow

MAX_SEARCHES = 50
"""Kept searches of an account."""

MAX_NAME_CHARACTERS = 64


class SearchRepository(IndexRepository):
    """The kept searches of accounts."""

    @on_writer
    def keep(self, connection: Connection, account: str, name: str, conditions: dict[str, Any]) -> str:
        """Keep a search under a name, in place of the one that had it; return the name as it is kept.

        Raises UsageError if the account has `MAX_SEARCHES` others, or the name cannot be one.
        """
        name = " ".join(name.split())
        if not 0 < len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
            raise UsageError(f"the name of a search has 1 to {MAX_NAME_CHARACTERS} printable characters")
        others = (KeptSearchRow.account == account, KeptSearchRow.name != name)
        if connection.execute(select(func.count()).where(*others)).scalar_one() >= MAX_SEARCHES:
            raise UsageError(f"{account} keeps {MAX_SEARCHES} searches: remove one that is not needed")
        values = {"account": account, "name": name, "conditions": conditions}
        kept = insert(KeptSearchRow).values(values)
        same = [KeptSearchRow.account, KeptSearchRow.name]
        connection.execute(kept.on_conflict_do_update(index_elements=same, set_={"conditions": conditions}))
        return name

    @on_writer
    def remove(self, connection: Connection, account: str, name: str) -> None:
        """Forget a search. Raises NotMarkable if the account has none of this name."""
        gone = delete(KeptSearchRow).where(KeptSearchRow.account == account, KeptSearchRow.name == name)
        if not connection.execute(gone).rowcount:
            raise NotMarkable("no search of this name")


class ReadSearches(ReadRepository):
    """The kept searches of accounts."""

    def of_account(self, account: str) -> dict[str, dict[str, Any]]:
        """Return the conditions of the searches of an account, by their names."""
        query = select(KeptSearchRow.name, KeptSearchRow.conditions).where(KeptSearchRow.account == account)
        return {row.name: row.conditions for row in self._connection.execute(query.order_by(KeptSearchRow.name))}
