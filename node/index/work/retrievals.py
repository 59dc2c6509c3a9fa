"""Retrievals: the studies and series that people want from peers, and what came of each.

A row is there before its request is answered, so that no retrieval is lost if the node ends: the next start continues
with those that wait, and repeats those that were running. Instances that came before come again, and change nothing.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update
from sqlalchemy import Row as SelectedRow

from node.errors import UsageError, VoxelnodeError
from node.index.engine.repository import IndexRepository, on_reader, on_writer
from node.index.engine.rows import PagedRepository, Row
from node.index.engine.sql import listed_in
from node.index.models import PatientRow, RetrievalRow, SeriesRow, StudyRow
from node.index.work.own_workitems import OwnWork, Standing, follow

RetrievalState = Literal["waiting", "running", "succeeded", "incomplete", "failed", "cancelled"]

OPEN: tuple[RetrievalState, ...] = ("waiting", "running")

MAX_OPEN = 1000
"""Retrievals that wait or run."""

MAX_KEPT = 10_000
"""Rows that are kept; of older ones, those that have ended are deleted."""

MAX_ATTEMPTS = 3
"""Starts of the node after which a retrieval is not repeated: it may be what ends the node."""


class NoSuchRetrieval(VoxelnodeError):
    """There is no such retrieval; it may have been deleted with its study."""


class RetrievalEnded(VoxelnodeError):
    """The retrieval has ended."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A study, or a series of it, that is to be retrieved from a peer."""

    id: int
    retrieval_id: str
    peer: str
    study_instance_uid: str
    series_instance_uid: str | None
    requested_by: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Instances of a retrieval; see `node.index.models.RetrievalRow`."""

    announced: int | None = None
    stored: int = 0
    refused: int = 0
    failed: int = 0


class RetrievalRepository(IndexRepository):
    """The retrievals of this node."""

    @on_writer
    def add(
        self,
        connection: Connection,
        peer: str,
        wanted: Sequence[tuple[str, str | None]],
        requested_by: str,
        now: dt.datetime,
    ) -> list[str]:
        """Have studies retrieved, or a series of each; return the ids of the retrievals.

        What already waits or runs is not added again.

        Raises
        ------
        UsageError
            There would be more than `MAX_OPEN`; nothing was added.
        """
        is_open = RetrievalRow.state.in_(OPEN)
        count = connection.execute(select(func.count()).select_from(RetrievalRow).where(is_open)).scalar_one()
        if count + len(wanted) > MAX_OPEN:
            raise UsageError(
                f"{count} retrievals wait or run, and {len(wanted)} more would be beyond {MAX_OPEN}: retrieve fewer, "
                "or wait until some have ended"
            )
        ids = []
        for study, series in dict.fromkeys(wanted):
            its = RetrievalRow.peer == peer, RetrievalRow.study_instance_uid == study
            same = RetrievalRow.series_instance_uid.is_not_distinct_from(series)
            known = connection.execute(select(RetrievalRow.retrieval_id).where(is_open, same, *its)).scalar()
            if known is None:
                known = secrets.token_hex(16)
                values: dict[str, Any] = {
                    "retrieval_id": known,
                    "peer": peer,
                    "state": "waiting",
                    "requested_by": requested_by,
                }
                values |= {"study_instance_uid": study, "series_instance_uid": series}
                connection.execute(insert(RetrievalRow).values(values | {"created_at": now, "changed_at": now}))
                _follow(connection, now, RetrievalRow.retrieval_id == known)
            ids.append(known)
        _forget_old(connection)
        return ids

    @on_reader
    def waiting(self, connection: Connection, busy: Collection[str] = ()) -> list[Retrieval]:
        """Return the first retrieval that waits for each peer that is not `busy`."""
        first = (
            select(func.min(RetrievalRow.id))
            .where(RetrievalRow.state == "waiting", RetrievalRow.peer.not_in(busy))
            .group_by(RetrievalRow.peer)
        )
        names = [getattr(RetrievalRow, name) for name in Retrieval.__slots__]
        rows = connection.execute(select(*names).where(RetrievalRow.id.in_(first)).order_by(RetrievalRow.id))
        return [Retrieval(*row) for row in rows]

    @on_writer
    def begin(self, connection: Connection, id: int, now: dt.datetime) -> bool:
        """Record that a retrieval runs; return whether it was still waiting."""
        values = {"state": "running", "attempts": RetrievalRow.attempts + 1, "changed_at": now}
        is_begun = _update(connection, values, RetrievalRow.id == id, RetrievalRow.state == "waiting") > 0
        _follow(connection, now, RetrievalRow.id == id)
        return is_begun

    @on_writer
    def report(self, connection: Connection, id: int, counts: Counts, now: dt.datetime) -> None:
        """Record the progress of a retrieval."""
        _update(connection, {**_values(counts), "changed_at": now}, RetrievalRow.id == id)
        _follow(connection, now, RetrievalRow.id == id)

    @on_writer
    def end(
        self, connection: Connection, id: int, state: RetrievalState, counts: Counts, detail: str, now: dt.datetime
    ) -> None:
        """Record the outcome of a retrieval that ran."""
        values = {"state": state, "detail": detail, "changed_at": now, "ended_at": now}
        _update(connection, values | _values(counts), RetrievalRow.id == id, RetrievalRow.state == "running")
        _follow(connection, now, RetrievalRow.id == id)

    @on_writer
    def cancel(self, connection: Connection, retrieval_id: str, who: str, now: dt.datetime) -> None:
        """Cancel a retrieval: at once if it waits; if it runs, whoever runs it ends it.

        Raises
        ------
        NoSuchRetrieval
        RetrievalEnded
        """
        query = select(RetrievalRow.id, RetrievalRow.state, RetrievalRow.cancelled_by)
        row = connection.execute(query.where(RetrievalRow.retrieval_id == retrieval_id)).first()
        if row is None:
            raise NoSuchRetrieval
        if row.state not in OPEN:
            raise RetrievalEnded(f"the retrieval has ended: {row.state}")
        values: dict[str, Any] = {"cancelled_by": row.cancelled_by or who, "changed_at": now}
        if row.state == "waiting":
            values |= {"state": "cancelled", "detail": f"cancelled by {who} before it began", "ended_at": now}
        _update(connection, values, RetrievalRow.id == row.id)
        _follow(connection, now, RetrievalRow.id == row.id)

    @on_reader
    def cancelled_by(self, connection: Connection, id: int) -> str | None:
        """Return who wants a retrieval to end; None: nobody."""
        return connection.execute(select(RetrievalRow.cancelled_by).where(RetrievalRow.id == id)).scalar()

    @on_writer
    def resume(self, connection: Connection, now: dt.datetime) -> None:
        """Let retrievals wait again that ran when the node ended, but not those that were cancelled or tried often."""
        ran = RetrievalRow.state == "running"
        ids = connection.scalars(select(RetrievalRow.id).where(ran)).all()
        ended = {"changed_at": now, "ended_at": now}
        cancelled = "cancelled by " + RetrievalRow.cancelled_by
        _update(
            connection,
            {"state": "cancelled", "detail": cancelled, **ended},
            ran,
            RetrievalRow.cancelled_by.is_not(None),
        )
        often = f"the node ended {MAX_ATTEMPTS} times while it ran: see the log"
        is_often = RetrievalRow.attempts >= MAX_ATTEMPTS
        _update(connection, {"state": "failed", "detail": often, **ended}, ran, is_often)
        _update(connection, {"state": "waiting", "changed_at": now}, ran)
        _follow(connection, now, listed_in(RetrievalRow.id, ids))


def forget_deleted(connection: Connection, study_instance_uid: str) -> None:
    """Delete the retrievals of a study that have ended: what the peer said may name the patient."""
    its = RetrievalRow.study_instance_uid == study_instance_uid
    connection.execute(delete(RetrievalRow).where(its, RetrievalRow.state.not_in(OPEN)))


def _follow(connection: Connection, now: dt.datetime, condition: ColumnElement[bool]) -> None:
    """Let the workitems of retrievals follow them."""
    for row in connection.execute(select(RetrievalRow.__table__).where(condition)).all():
        uids = row.study_instance_uid, row.series_instance_uid
        work = OwnWork("retrieval", row.peer, row.retrieval_id, *uids, row.requested_by)
        follow(connection, work, _standing(row), now)


def _standing(row: SelectedRow[Any]) -> Standing:
    text = f"{row.stored} instances came" if row.stored else ""
    if row.state in OPEN:
        done = row.stored + row.refused + row.failed
        percent = min(100 * done // row.announced, 100) if row.announced else None
        return Standing("SCHEDULED" if row.state == "waiting" else "IN PROGRESS", text, percent)
    if row.state == "succeeded":
        return Standing("COMPLETED", text, 100)
    if row.state == "cancelled":
        return Standing("CANCELED", f"cancelled by {row.cancelled_by}; {row.stored} instances came")
    counts = f"{row.stored} instances came, {row.refused} were refused, {row.failed} failed at the peer"
    return Standing("CANCELED", f"{row.state}: {counts}; see retrieval {row.retrieval_id}", is_failure=True)


def _values(counts: Counts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in Counts.__slots__}


def _update(connection: Connection, values: dict[str, Any], *conditions: ColumnElement[bool]) -> int:
    return connection.execute(update(RetrievalRow).where(*conditions).values(values)).rowcount


def _forget_old(connection: Connection) -> None:
    newest = select(func.max(RetrievalRow.id)).scalar_subquery()
    old = and_(RetrievalRow.state.not_in(OPEN), RetrievalRow.id <= newest - MAX_KEPT)
    connection.execute(delete(RetrievalRow).where(old))


class ReadRetrievals(PagedRepository):
    """Rows of ``retrievals``."""

    listing = select(RetrievalRow.__table__)
    filters = (
        RetrievalRow.retrieval_id,
        RetrievalRow.peer,
        RetrievalRow.state,
        RetrievalRow.study_instance_uid,
        RetrievalRow.series_instance_uid,
    )

    def newest(self, limit: int) -> list[Row]:
        """Return the newest retrievals, with what is known here of their studies and series."""
        rows = self._connection.execute(
            self.listing.add_columns(
                PatientRow.patient_name,
                SeriesRow.series_description,
                StudyRow.id.is_not(None).label("is_study_here"),
                SeriesRow.id.is_not(None).label("is_series_here"),
            )
            .outerjoin(StudyRow, StudyRow.study_instance_uid == RetrievalRow.study_instance_uid)
            .outerjoin(PatientRow, PatientRow.id == StudyRow.patient_id)
            .outerjoin(
                SeriesRow,
                (SeriesRow.study_id == StudyRow.id)
                & (SeriesRow.series_instance_uid == RetrievalRow.series_instance_uid),
            )
            .order_by(RetrievalRow.id.desc())
            .limit(limit)
        )
        return [dict(row) for row in rows.mappings()]
