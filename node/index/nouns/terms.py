"""What a client demands of a change, in the transaction that makes the change; and requests with an idempotency key.

The answer to a request with a key is kept for a day, so that a repetition does not do it again. A row is committed
before the change, and its answer with the change or after it. If the process dies in between, the row has no answer,
and the repetition is carried out. Of several hosts, the one that carries a request out holds its key.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy import Connection, delete, func, insert, select, update

from node.errors import OutOfResources, UsageError
from node.index.engine.backend import backend_of
from node.index.engine.narrowed import Readers
from node.index.engine.writer import IndexRepository, IndexWriter, on_writer
from node.index.models import KeyedRequestRow

KEPT = dt.timedelta(days=1)
"""How long an answer is kept."""

MAX_KEYS = 100_000
"""Kept keys of one account; further ones are refused."""


class KeyReused(UsageError):
    """The idempotency key was used for another request within the last day."""


class KeyUnderWay(UsageError):
    """The first request with this idempotency key is still under way."""


class TooManyKeys(UsageError):
    """The account has used too many idempotency keys within a day."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with a key; `answer` is None unless it was carried out before."""

    id: int
    answer: str | None


class KeyedRequestRepository(IndexRepository):
    """The requests with a key, by account."""

    def __init__(self, writer: IndexWriter, reader: Readers) -> None:
        super().__init__(writer, reader)
        self._lock = threading.Lock()
        self._under_way: set[tuple[str, str]] = set()

    @contextmanager
    def claimed(self, account: str, key: str, fingerprint: str, now: dt.datetime) -> Iterator[KeyedRequest]:
        """Hold a key while its request is under way; an exception that leaves it without an answer frees the key.

        `fingerprint`: digest of the request.
        """
        with self._lock:
            if (account, key) in self._under_way:
                raise KeyUnderWay
            self._under_way.add((account, key))
        try:
            with self._held(account, key):
                request = self._begin(account, key, fingerprint, now)
                try:
                    yield request
                except BaseException:
                    with suppress(OutOfResources):  # the repetition is carried out
                        self._forget(request.id)
                    raise
        finally:
            with self._lock:
                self._under_way.discard((account, key))

    @contextmanager
    def _held(self, account: str, key: str) -> Iterator[None]:
        """Release at the end what `_begin` holds among hosts; the end of the connection does so, too."""
        try:
            yield
        finally:
            with suppress(OutOfResources):
                self._release(account, key)

    @on_writer
    def finish(self, connection: Connection, id: int, answer: str) -> None:
        """Keep the answer to a request."""
        record_answer(connection, id, answer)

    @on_writer
    def _begin(
        self, connection: Connection, account: str, key: str, fingerprint: str, now: dt.datetime
    ) -> KeyedRequest:
        connection.execute(delete(KeyedRequestRow).where(KeyedRequestRow.began_at < now - KEPT))
        if not backend_of(connection).claim(connection, _name(account, key)):
            raise KeyUnderWay
        of_account = KeyedRequestRow.account == account
        row = connection.execute(select(KeyedRequestRow).where(of_account, KeyedRequestRow.key == key)).first()
        if row is not None:
            if row.fingerprint != fingerprint:
                raise KeyReused
            return KeyedRequest(row.id, row.answer)
        if connection.execute(select(func.count()).where(of_account)).scalar_one() >= MAX_KEYS:
            raise TooManyKeys
        values = {"account": account, "key": key, "fingerprint": fingerprint, "began_at": now}
        added = connection.execute(insert(KeyedRequestRow).values(values).returning(KeyedRequestRow.id))
        return KeyedRequest(added.scalar_one(), None)

    @on_writer
    def _release(self, connection: Connection, account: str, key: str) -> None:
        backend_of(connection).release(connection, _name(account, key))

    @on_writer
    def _forget(self, connection: Connection, id: int) -> None:
        connection.execute(delete(KeyedRequestRow).where(KeyedRequestRow.id == id, KeyedRequestRow.answer.is_(None)))


def _name(account: str, key: str) -> str:
    return json.dumps([KeyedRequestRow.__tablename__, account, key])


def record_answer(connection: Connection, id: int, answer: str) -> None:
    """Record the answer to a request, in the transaction of its change."""
    connection.execute(update(KeyedRequestRow).where(KeyedRequestRow.id == id).values(answer=answer))


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
