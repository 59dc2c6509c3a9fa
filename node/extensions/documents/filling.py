"""Write the terms of series whose terms are not complete, after [query] indexed has changed.

The index itself says which these are: whatever ends the process, the next start goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic

from node.background import BackgroundService
from node.extensions.documents.terms import TermRepository
from node.index.database.index import Index

SERIES = 5
"""Series of one transaction."""

REST = 4.0
"""It rests this many times as long as it works."""


def fill_terms(index: Index, indexed: Collection[str]) -> int:
    """Write the terms of some series for what [query] indexed names; return how many series are left."""
    terms = index.repository(TermRepository)
    terms.set_list(indexed)
    terms.fill(SERIES)
    return terms.left()


class IndexedTerms(BackgroundService):
    """Writes terms until those of all series are complete."""

    turn: str = "documents"

    def __init__(self, index: Index, indexed: Collection[str] = ()) -> None:
        super().__init__(self.turn)
        self._index, self._indexed = index, indexed

    def _is_ours(self) -> bool:
        return self._index.turn.has(self.turn)

    def step(self) -> float | None:
        """Write some; return the seconds until the next ones, or None if none is left."""
        began_at = monotonic()
        left = fill_terms(self._index, self._indexed)
        return (monotonic() - began_at) * REST if left else None
