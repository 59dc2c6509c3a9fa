"""The ledger of work: what the node owes, one row each, until it has ended and its row is old.

Work has its row before it is acknowledged. If the process dies, the next start does the work that
was waiting, and repeats the work that was running: a step may run twice, but none is skipped.

Work waits in lanes: one for each hook, destination of a route, peer, requestor, or account that downloads. In a lane,
one is done at a time, and a lane whose other side is slow or dead delays no other lane.

The queries of the ledger stand together here, each with its name; `node.index.rows.states` has the states.
"""

import datetime as dt
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, func, insert, or_, select, update

from node.errors import UsageError, VoxelnodeError
from node.index.rows.models.work import ResultRow, SubscriberRow, WorkRow
from node.index.rows.records import Lane
from node.index.rows.repositories import IndexRepository, on_reader, on_writer
from node.index.rows.states import (
    TRANSITIONS,
    CommitmentRequest,
    Counts,
    Download,
    Erasure,
    Kind,
    Move,
    Outcome,
    Payload,
    Reference,
    State,
    document_of,
    payload_of,
)
from node.index.rows.writer import note
from node.index.rules.work.events import NEWEST_EVENT
from node.runtime.background import jittered_wait_seconds

MAX_OPEN_RETRIEVALS = 1000

MAX_DOWNLOADS = 8
"""Downloads of one account that wait, are made, or have a file: each takes room on the disk."""

MAX_KEPT = 10_000
"""Newest rows of a kind among which those that have ended are kept; older ones are removed."""

REASON_LENGTH = 500
"""Characters of the reason of a failure."""

PRUNED_EVERY = 100
"""Rows after which old ones are looked for."""


class NoSuchWork(VoxelnodeError):
    """There is no such work; it may have been deleted with its study."""


class WorkEnded(VoxelnodeError):
    """The work has ended."""


@dataclass(frozen=True, slots=True)
class Work:
    """A row of the ledger; the columns are those of `WorkRow`."""

    id: int
    lane: Lane
    key: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    sop_instance_uid: str | None
    state: State
    outcome: Outcome | None
    attempts: int
    reason: str | None
    requested_by: str
    cancelled_by: str | None
    payload: Any  # of the class that `node.index.rows.states.PAYLOADS` has for the kind


@dataclass(frozen=True, slots=True)
class Ended:
    """A step has ended its work; `payload` takes the place of the one before."""

    outcome: Outcome
    reason: str | None = None
    payload: Payload | None = None


@dataclass(frozen=True, slots=True)
class Postponed:
    """A step has failed, or waits behind another one, and is to be repeated when it is due."""

    due_at: dt.datetime
    reason: str | None = None
    payload: Payload | None = None


Decision = Ended | Postponed


def after_failure(
    attempts: int,
    max_attempts: int,
    reason: str,
    now: dt.datetime,
    *,
    is_final: bool = False,
    retry_after: float | None = None,
) -> Decision:
    """Return what becomes of work whose attempt failed: another attempt after a wait, or it is given up.

    `attempts`: with the failed one.
    `is_final`: another attempt would fail in the same way.
    `retry_after`, float or None, seconds: wait that the other side asked for.
    """
    if is_final or attempts >= max_attempts:
        return Ended("failed", reason[:REASON_LENGTH])
    return Postponed(now + dt.timedelta(seconds=jittered_wait_seconds(attempts, retry_after)), reason[:REASON_LENGTH])


class WorkRepository(IndexRepository):
    """The rows of the ledger."""

    # What is owed

    @on_writer
    def add_retrievals(
        self,
        connection: Connection,
        peer: str,
        wanted: Sequence[tuple[str, str | None]],
        requested_by: str,
        now: dt.datetime,
    ) -> list[str]:
        """Have studies retrieved, or a series of each; return the keys of the retrievals.

        What already waits or runs is not added again, and counts once.

        Raises UsageError if there would be more than `MAX_OPEN_RETRIEVALS`; nothing was added.
        """
        is_open = WorkRow.kind == "retrieval", WorkRow.outcome.is_(None)
        columns = WorkRow.name, WorkRow.study_instance_uid, WorkRow.series_instance_uid, WorkRow.key
        rows = connection.execute(select(*columns).where(*is_open)).all()
        known = {(row[1], row[2]): row.key for row in rows if row.name == peer}
        new = [one for one in dict.fromkeys(wanted) if one not in known]
        if new and len(rows) + len(new) > MAX_OPEN_RETRIEVALS:
            raise UsageError(
                f"{len(rows)} retrievals wait or run, and {len(new)} more would be beyond {MAX_OPEN_RETRIEVALS}: "
                "retrieve fewer, or wait until some have ended"
            )
        for study, series in new:
            key = known[study, series] = secrets.token_hex(16)
            uids = {"study_instance_uid": study, "series_instance_uid": series}
            lane = Lane("retrieval", peer)
            add(connection, lane, key, Counts(), now, requested_by=requested_by, happened_at=now, **uids)
        return [known[one] for one in dict.fromkeys(wanted)]

    @on_writer
    def add_commitment(
        self,
        connection: Connection,
        transaction_uid: str,
        calling_ae_title: str,
        peer: str,
        references: Sequence[Reference],
        now: dt.datetime,
        due_at: dt.datetime,
    ) -> Work:
        """Record a request for storage commitment; a repeated one by the same peer takes the place of the first.

        `peer`: address of the peer, without the port.
        `due_at`: when the result is to be reported.
        """
        lane = Lane("commitment", calling_ae_title)
        connection.execute(delete(WorkRow).where(in_lane(lane), WorkRow.key == transaction_uid))
        request = CommitmentRequest(peer, len(references), tuple(references))
        values = {"requested_by": calling_ae_title, "happened_at": now, "due_at": due_at}
        id = add(connection, lane, transaction_uid, request, now, **values)
        return work_of(connection.execute(_rows(WorkRow.id == id)).one())

    @on_writer
    def add_download(
        self, connection: Connection, lane: Lane, download: Download, ended_after: dt.datetime, now: dt.datetime
    ) -> int | None:
        """Have a download made, unless the same one waits or is made; return its id.

        None: the account has `MAX_DOWNLOADS` that wait, are made, or have ended with a file after `ended_after`, by a
        clock that was not ahead.
        """
        has_file = and_(WorkRow.outcome == "succeeded", WorkRow.ended_at > ended_after, WorkRow.ended_at <= now)
        rows = connection.execute(_rows(in_lane(lane), or_(WorkRow.outcome.is_(None), has_file))).all()
        for work in map(work_of, rows):
            if work.outcome is None and work.payload == download:
                return work.id
        if len(rows) >= MAX_DOWNLOADS:
            return None
        study = download.studies[0] if len(download.studies) == 1 else None
        values = {"requested_by": lane.name, "happened_at": now, "study_instance_uid": study}
        return add(connection, lane, secrets.token_hex(16), download, now, **values)

    @on_writer
    def begin_erasure(self, connection: Connection, host: str, erasure: Erasure, who: str, now: dt.datetime) -> int:
        """Record an erasure that a host begins now; return its id."""
        lane = Lane("erasure", host)
        id = add(connection, lane, secrets.token_hex(16), erasure, now, requested_by=who, happened_at=now)
        move(connection, "begin", now, WorkRow.id == id, attempts=1, tried_at=now)
        return id

    # What is to be done

    @on_reader
    def begun_erasures(self, connection: Connection, host: str) -> list[Work]:
        """Return the erasures that a host has begun and not ended, in their order."""
        begun = in_lane(Lane("erasure", host)), WorkRow.outcome.is_(None)
        return [work_of(row) for row in connection.execute(_rows(*begun).order_by(WorkRow.id))]

    @on_reader
    def due(
        self,
        connection: Connection,
        kinds: Collection[Kind],
        now: dt.datetime,
        busy: Collection[Lane] = (),
        destination: str = "",
    ) -> list[Work]:
        """Return the first work of each lane that is due, except of lanes that are `busy`."""
        waits = WorkRow.kind.in_(kinds), WorkRow.state == "waiting", WorkRow.destination == destination
        first = (
            select(func.min(WorkRow.id))
            .where(*waits, _is_due(now))
            .group_by(WorkRow.kind, WorkRow.name, WorkRow.destination)
        )
        found = map(work_of, connection.execute(_rows(WorkRow.id.in_(first)).order_by(WorkRow.id)))
        return [work for work in found if work.lane not in busy]

    @on_reader
    def next_due_at(
        self, connection: Connection, kinds: Collection[Kind], now: dt.datetime, destination: str = ""
    ) -> dt.datetime | None:
        """Return when the next work is due that is not due yet; None if none waits."""
        of_lanes = WorkRow.kind.in_(kinds), WorkRow.destination == destination
        waits = *of_lanes, WorkRow.state == "waiting", WorkRow.due_at > now
        return connection.execute(select(func.min(WorkRow.due_at)).where(*waits)).scalar()

    @on_reader
    def cancelled_by(self, connection: Connection, id: int) -> str | None:
        """Return who wants work to end; None: nobody."""
        return connection.execute(select(WorkRow.cancelled_by).where(WorkRow.id == id)).scalar()

    # What becomes of it

    @on_writer
    def begin(self, connection: Connection, id: int, now: dt.datetime) -> bool:
        """Record that work is done now; return whether it was still waiting."""
        return move(connection, "begin", now, WorkRow.id == id, attempts=WorkRow.attempts + 1, tried_at=now) > 0

    @on_writer
    def forget(self, connection: Connection, id: int) -> None:
        """Remove the row of work that has ended."""
        connection.execute(delete(WorkRow).where(WorkRow.id == id, WorkRow.outcome.is_not(None)))

    @on_writer
    def report(
        self, connection: Connection, id: int, percent: int | None, payload: Payload | None, now: dt.datetime
    ) -> None:
        """Record how far work is that is done now; a payload takes the place of the one before."""
        running = WorkRow.id == id, WorkRow.state == "running"
        values = {"percent": percent, "changed_at": now, **_with(payload)}
        connection.execute(update(WorkRow).where(*running).values(values))

    @on_writer
    def record(self, connection: Connection, id: int, decision: Decision, now: dt.datetime) -> None:
        """Record what became of work; an outcome of work that nobody had begun is an attempt as well."""
        if isinstance(decision, Ended):
            unbegun = update(WorkRow).where(WorkRow.id == id, WorkRow.state == "waiting")
            connection.execute(unbegun.values(attempts=WorkRow.attempts + 1, tried_at=now))
        decide(connection, decision, now, WorkRow.id == id)

    @on_reader
    def one(self, connection: Connection, id: int) -> Work:
        """Return work.

        Raises NoSuchWork.
        """
        return work_of(_row(connection, id))

    @on_writer
    def repeat(self, connection: Connection, id: int, now: dt.datetime) -> bool:
        """Let work that has ended begin again; return False if it has not ended."""
        return begin_again(connection, now, WorkRow.id == id) > 0

    @on_writer
    def cancel(self, connection: Connection, id: int, who: str, now: dt.datetime) -> None:
        """Cancel work: at once if it waits; if somebody may be doing it, that ends it, as of each message its worker.

        Raises NoSuchWork, WorkEnded.
        """
        row = _row(connection, id)
        if row.outcome is not None:
            raise WorkEnded(f"the {row.kind} has ended: {row.outcome}")
        by = update(WorkRow).where(WorkRow.id == id, WorkRow.cancelled_by.is_(None))
        connection.execute(by.values(cancelled_by=who, changed_at=now))
        if row.kind not in ("hook", "route"):
            cancelled = Ended("cancelled", f"cancelled by {who} before it began")
            end(connection, cancelled, now, WorkRow.id == id, WorkRow.state == "waiting")

    @on_reader
    def cancelled(self, connection: Connection, lane: Lane) -> dict[str, str]:
        """Return who wants which open work of a lane to end, by its keys."""
        wanted = in_lane(lane), WorkRow.outcome.is_(None), WorkRow.cancelled_by.is_not(None)
        rows = connection.execute(select(WorkRow.key, WorkRow.cancelled_by).where(*wanted))
        return {row.key: row.cancelled_by for row in rows}

    def end_cancelled(self, lane: Lane, now: dt.datetime) -> None:
        """End the open work of a lane that somebody has cancelled, since nobody does it now."""
        if cancelled := self.cancelled(lane):
            self._end_cancelled(lane, cancelled, now)

    @on_writer
    def _end_cancelled(
        self, connection: Connection, lane: Lane, cancelled: Mapping[str, str], now: dt.datetime
    ) -> None:
        for key, who in cancelled.items():
            end(connection, Ended("cancelled", f"cancelled by {who}"), now, in_lane(lane), WorkRow.key == key)

    @on_writer
    def resume(
        self, connection: Connection, limits: Mapping[Kind, int], now: dt.datetime, destination: str = ""
    ) -> None:
        """Let work wait again that was running when the process ended, unless it was cancelled or begun too often.

        `limits`: the kinds that are resumed, and how often each may begin: work may be what ends the process.
        """
        for kind, limit in limits.items():
            ran = WorkRow.kind == kind, WorkRow.destination == destination, WorkRow.state == "running"
            cancelled = connection.execute(_rows(*ran, WorkRow.cancelled_by.is_not(None))).all()
            for row in cancelled:
                end(connection, Ended("cancelled", f"cancelled by {row.cancelled_by}"), now, WorkRow.id == row.id)
            often = Ended("failed", f"the node ended {limit} times while it ran: see the log")
            end(connection, often, now, *ran, WorkRow.attempts >= limit)
            move(connection, "postpone", now, *ran)


def add(connection: Connection, lane: Lane, key: str, payload: Payload, now: dt.datetime, **values: Any) -> int:
    """Add work that waits, note its kind, and remove old rows; return its id."""
    row = {
        **lane._asdict(),
        "key": key,
        "state": "waiting",
        "attempts": 0,
        "payload": document_of(payload),
        "created_at": now,
        "changed_at": now,
        **values,
    }
    id = connection.execute(insert(WorkRow).values(row).returning(WorkRow.id)).scalar_one()
    note(connection, lane.kind)
    for kind in get_args(Kind) if id % PRUNED_EVERY == 0 else ():  # of any: kinds may come in turns
        prune(connection, kind)
    return id


def move(connection: Connection, how: Move, now: dt.datetime, *which: ColumnElement[bool], **values: Any) -> int:
    """Move the work that meets all conditions to another state, if it is in one that allows it; return how many were.

    This is the only way from one state to another. If work waits then, of whichever kind it is, all kinds are noted.
    """
    transition = TRANSITIONS[how]
    condition = and_(*which, WorkRow.state.in_(transition.before))
    changed = update(WorkRow).where(condition).values(state=transition.after, changed_at=now, **values)
    moved = connection.execute(changed).rowcount
    for kind in get_args(Kind) if moved and transition.after == "waiting" else ():
        note(connection, kind)
    return moved


def decide(connection: Connection, decision: Decision, now: dt.datetime, *which: ColumnElement[bool]) -> None:
    """Record what becomes of open work."""
    if isinstance(decision, Ended):
        end(connection, decision, now, *which)
        return
    values = {"due_at": decision.due_at, "reason": decision.reason, **_with(decision.payload)}
    move(connection, "postpone", now, *which, **values)


def end(connection: Connection, decision: Ended, now: dt.datetime, *which: ColumnElement[bool]) -> int:
    """End the open work that meets all conditions; return how many there were."""
    values: dict[str, Any] = {"outcome": decision.outcome, "reason": decision.reason, "due_at": None, "ended_at": now}
    values |= {"last_event": NEWEST_EVENT, **_with(decision.payload)}
    if decision.outcome == "succeeded":
        values["percent"] = None  # what was reported last is not how far it is
    return move(connection, "end", now, *which, **values)


def _with(payload: Payload | None) -> dict[str, Any]:
    """Return the column of a payload that takes the place of the one before; None: that one stays."""
    return {} if payload is None else {"payload": document_of(payload)}


def begin_again(connection: Connection, now: dt.datetime, *which: ColumnElement[bool]) -> int:
    """Let work that has ended wait for new attempts; return how many there were."""
    anew = {
        "outcome": None, "attempts": 0, "due_at": now, "tried_at": None,
        "percent": None, "reason": None, "cancelled_by": None, "ended_at": None,
    }  # fmt: skip
    return move(connection, "again", now, *which, **anew)


def in_lane(lane: Lane, row: type[WorkRow | SubscriberRow] = WorkRow) -> ColumnElement[bool]:
    """Return the condition of work in a lane, or of another row with the columns of one."""
    return and_(row.kind == lane.kind, row.name == lane.name, row.destination == lane.destination)


def work_of(row: Row[Any]) -> Work:
    """Return the work of a row."""
    kind = cast(Kind, row.kind)
    values = {name: getattr(row, name) for name in Work.__slots__ if name not in ("lane", "payload")}
    return Work(lane=Lane(kind, row.name, row.destination), payload=payload_of(kind, row.payload), **values)


def prune(connection: Connection, kind: Kind) -> None:
    """Remove the ended work of a kind that is older than its newest `MAX_KEPT` rows, and that made nothing."""
    newest = select(WorkRow.id).where(WorkRow.kind == kind).order_by(WorkRow.id.desc()).offset(MAX_KEPT).limit(1)
    last = connection.execute(newest).scalar()
    if last is not None:
        made = exists().where(ResultRow.job_id == WorkRow.id)
        old = WorkRow.kind == kind, WorkRow.outcome.is_not(None), WorkRow.id <= last, ~made
        connection.execute(delete(WorkRow).where(*old))


def _is_due(now: dt.datetime) -> ColumnElement[bool]:
    return or_(WorkRow.due_at.is_(None), WorkRow.due_at <= now)


def _rows(*which: ColumnElement[bool]) -> Any:
    return select(WorkRow.__table__).where(*which)


def _row(connection: Connection, id: int) -> Row[Any]:
    row = connection.execute(_rows(WorkRow.id == id)).first()
    if row is None:
        raise NoSuchWork
    return row
