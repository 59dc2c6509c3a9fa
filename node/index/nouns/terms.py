"""What a client demands of a change, in the transaction that makes the change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy import Connection

from node.index.nouns.keyed_requests import record_answer


@dataclass(frozen=True, slots=True)
class Terms:
    """Demands of one request.

    Attributes
    ----------
    check : callable
        Raises an exception if what it reads on the connection of the writer is not what the client has seen; nothing is
        changed then. See `node.index.database.reading.checked`.
    request_id : int or None
        The request whose answer is kept, if it has an idempotency key.
    answer : callable or None
        Returns the answer to the request from the result of the change.
    """

    check: Callable[[Connection], None]
    request_id: int | None = None
    answer: Callable[[Any], str] | None = None

    def answered(self, answer: Callable[[Any], str]) -> Self:
        """Return the same terms for a change whose answer is known from its result."""
        return replace(self, answer=answer)

    def require(self, connection: Connection) -> None:
        """Check before the change, on the connection of the writer.

        The change has locked its rows by then: a change of these rows by another host is either committed and seen
        here, or follows.
        """
        self.check(connection)

    def fulfil(self, connection: Connection, result: object) -> None:
        """Record the answer after the change: it is committed with the change, or neither is."""
        if self.request_id is not None and self.answer is not None:
            record_answer(connection, self.request_id, self.answer(result))
