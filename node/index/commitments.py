"""Requests for storage commitment, from their arrival until their result is reported or given up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select, update

from node.index.models import CommitmentRow
from node.index.writer import IndexWriter

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID that a peer says it has sent."""


@dataclass(frozen=True, slots=True)
class OwedCommitment:
    """A request whose result has not been reported."""

    id: int
    transaction_uid: str
    calling_ae_title: str
    peer: str
    references: tuple[Reference, ...]
    attempts: int


class Commitments:
    """The requests of one index; safe to use from many threads."""

    def __init__(self, writer: IndexWriter, reader: Engine) -> None:
        self._writer, self._reader = writer, reader

    def add(
        self,
        transaction_uid: str,
        calling_ae_title: str,
        peer: str,
        references: Sequence[Reference],
        now: dt.datetime,
        due_at: dt.datetime,
    ) -> OwedCommitment:
        """Take up a request, durably; one that the same peer makes again takes the place of the first."""
        values = {
            "transaction_uid": transaction_uid,
            "calling_ae_title": calling_ae_title,
            "peer": peer,
            "instances": len(references),
            "references": [list(one) for one in references],
            "state": "owed",
            "attempts": 0,
            "requested_at": now,
            "due_at": due_at,
        }
        same = delete(CommitmentRow).where(
            CommitmentRow.transaction_uid == transaction_uid, CommitmentRow.calling_ae_title == calling_ae_title
        )

        def replace(connection: Connection) -> int:
            connection.execute(same)
            return int(
                connection.execute(insert(CommitmentRow).values(values).returning(CommitmentRow.id)).scalar_one()
            )

        row = self._writer.run(replace)
        return OwedCommitment(row, transaction_uid, calling_ae_title, peer, tuple(references), 0)

    def due(self, now: dt.datetime) -> OwedCommitment | None:
        """The request that has been due longest."""
        query = select(CommitmentRow).where(CommitmentRow.state == "owed", CommitmentRow.due_at <= now)
        with self._reader.connect() as connection:
            row = connection.execute(query.order_by(CommitmentRow.due_at, CommitmentRow.id).limit(1)).first()
        if row is None:
            return None
        references = tuple((str(kind), str(uid)) for kind, uid in row.references)
        return OwedCommitment(row.id, row.transaction_uid, row.calling_ae_title, row.peer, references, row.attempts)

    def reported(self, commitment: OwedCommitment, failed: int, now: dt.datetime) -> None:
        """Note that the peer has taken the result: how many instances are not committed."""
        self._end(commitment, "reported", now, failed, None)

    def postponed(self, commitment: OwedCommitment, detail: str, due_at: dt.datetime, *, counts: bool = True) -> None:
        """Note that the result could not be reported, and is to be tried again; `counts` as an attempt or not."""
        values = {"detail": detail, "due_at": due_at, "attempts": commitment.attempts + counts}
        owed = (
            update(CommitmentRow).where(CommitmentRow.id == commitment.id, CommitmentRow.state == "owed").values(values)
        )
        self._writer.run(lambda connection: connection.execute(owed))

    def given_up(self, commitment: OwedCommitment, detail: str, now: dt.datetime) -> None:
        """Note that the result will not be reported."""
        self._end(commitment, "given-up", now, None, detail)

    def _end(
        self, commitment: OwedCommitment, state: str, now: dt.datetime, failed: int | None, detail: str | None
    ) -> None:
        values = {
            "state": state,
            "references": [],
            "attempts": commitment.attempts + 1,
            "failed": failed,
            "detail": detail,
            "due_at": None,
            "ended_at": now,
        }
        ended = update(CommitmentRow).where(CommitmentRow.id == commitment.id).values(values)
        self._writer.run(lambda connection: connection.execute(ended))
