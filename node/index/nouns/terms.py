"""What a client demands of a change, checked in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Terms:
    """Demands of one request.

    `check`: raises an exception if what it reads on the connection of the writer is not what the client has seen;
        nothing is changed then. See `node.index.database.reading.checked`.
    """

    check: Callable[[Connection], None]

    def require(self, connection: Connection) -> None:
        """Check before the change, on the connection of the writer.

        The change has locked its rows by then: a change of these rows by another host is either committed and seen
        here, or follows.
        """
        self.check(connection)
