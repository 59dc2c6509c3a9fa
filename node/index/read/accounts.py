"""Accounts as shown to an administrator."""

from __future__ import annotations

from node.index.accounts import ListedAccount, list_accounts
from node.index.read.rows import ReadRepository


class ReadAccounts(ReadRepository):
    """Accounts for HTTP."""

    def listed(self) -> list[ListedAccount]:
        """Return all accounts, sorted by name."""
        return list_accounts(self._connection)
