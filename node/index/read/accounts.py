"""Accounts, as a person sees them."""

from __future__ import annotations

from node.index.accounts import ListedAccount, list_accounts
from node.index.read.rows import ReadRepository


class ReadAccounts(ReadRepository):
    """Accounts for HTTP."""

    def listed(self) -> list[ListedAccount]:
        """Return every account by name."""
        return list_accounts(self._connection)
