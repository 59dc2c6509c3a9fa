"""Requests for storage commitment, from acceptance until the result is reported or given up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from node.index.engine.repository import IndexRepository, on_reader, on_writer
from node.index.models import CommitmentRow

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID of an instance that a peer claims to have sent."""


@dataclass(frozen=True, slots=True)
class OwedCommitment:
    """A request whose result has not been reported yet."""

    id: int
    transaction_uid: str
    calling_ae_title: str
    peer: str
    references: tuple[Reference, ...]
    attempts: int


class CommitmentRepository(IndexRepository):
    """The requests for storage commitment."""

    @on_writer
    def add(
        self,
        connection: Connection,
        transaction_uid: str,
        calling_ae_title: str,
        peer: str,
        references: Sequence[Reference],
        now: dt.datetime,
        due_at: dt.datetime,
    ) -> OwedCommitment:
        """Record a request durably; a repeated request by the same peer replaces the first one.

        Parameters
        ----------
        peer : str
            Address of the peer, without the port.
        due_at : datetime
            When the result is to be reported.
        """
        same = delete(CommitmentRow).where(
            CommitmentRow.transaction_uid == transaction_uid, CommitmentRow.calling_ae_title == calling_ae_title
        )
        connection.execute(same)
        values = {
            "transaction_uid": transaction_uid,
            "calling_ae_title": calling_ae_title,
            "peer": peer,
            "instances": len(references),
            "references": [list(reference) for reference in references],
            "state": "owed",
            "attempts": 0,
            "requested_at": now,
            "due_at": due_at,
        }
        added = insert(CommitmentRow).values(values).returning(CommitmentRow.id)
        id = int(connection.execute(added).scalar_one())
        return OwedCommitment(id, transaction_uid, calling_ae_title, peer, tuple(references), 0)

    @on_reader
    def due(self, connection: Connection, now: dt.datetime) -> OwedCommitment | None:
        """Return the request that has been due the longest, or None."""
        query = select(CommitmentRow).where(CommitmentRow.state == "owed", CommitmentRow.due_at <= now)
        row = connection.execute(query.order_by(CommitmentRow.due_at, CommitmentRow.id).limit(1)).first()
        if row is None:
            return None
        references = tuple((str(sop_class_uid), str(uid)) for sop_class_uid, uid in row.references)
        return OwedCommitment(row.id, row.transaction_uid, row.calling_ae_title, row.peer, references, row.attempts)

    @on_reader
    def next_due_at(self, connection: Connection) -> dt.datetime | None:
        """Return when the next result is due, or None if no result is owed."""
        return connection.execute(select(func.min(CommitmentRow.due_at)).where(CommitmentRow.state == "owed")).scalar()

    @on_writer
    def reported(self, connection: Connection, commitment: OwedCommitment, failed: int, now: dt.datetime) -> None:
        """Record that the peer accepted the result; `failed` is the number of instances not committed."""
        _end(connection, commitment, "reported", now, failed, None)

    @on_writer
    def postponed(
        self,
        connection: Connection,
        commitment: OwedCommitment,
        detail: str,
        due_at: dt.datetime,
        *,
        counts: bool = True,
    ) -> None:
        """Record that reporting failed and is to be retried; `counts`: whether this was one of the attempts."""
        values = {"detail": detail, "due_at": due_at, "attempts": commitment.attempts + counts}
        is_owed = CommitmentRow.id == commitment.id, CommitmentRow.state == "owed"
        connection.execute(update(CommitmentRow).where(*is_owed).values(values))

    @on_writer
    def given_up(self, connection: Connection, commitment: OwedCommitment, detail: str, now: dt.datetime) -> None:
        """Record that the result will never be reported."""
        _end(connection, commitment, "given-up", now, None, detail)


def _end(
    connection: Connection,
    commitment: OwedCommitment,
    state: str,
    now: dt.datetime,
    failed: int | None,
    detail: str | None,
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
    connection.execute(update(CommitmentRow).where(CommitmentRow.id == commitment.id).values(values))
