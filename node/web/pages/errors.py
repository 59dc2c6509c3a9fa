"""What may go wrong with a page, told with the remedy."""

from __future__ import annotations

from node.errors import VoxelnodeError


class NotFound(VoxelnodeError):
    """There is no such thing, or no more: the word names it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"There is no such {what}.")
