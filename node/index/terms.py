"""What a client demands of a change, in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from node.index.read import ReadIndex


@dataclass(frozen=True, slots=True)
class Terms:
    """Demands of one request.

    Attributes
    ----------
    check : callable
        Raises an exception if what it reads is not what the client has seen; nothing is changed then.
    """

    check: Callable[[ReadIndex], None]

    def require(self, connection: Connection) -> None:
        """Check before the change, on the connection of the writer: nothing can come in between."""
        self.check(ReadIndex(connection))
