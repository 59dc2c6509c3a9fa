"""Workitems that clients create, which others than the node perform (PS3.4 CC).

Each change is decided in the transaction that makes it: of two performers that claim a workitem, one gets it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from node.dicom.json_model import Json, elements, entry_text
from node.errors import OutOfResources
from node.extensions.workitems import unified_steps as rules
from node.extensions.workitems.unified_steps import Event, State, Status
from node.index.engine.rows import PagedRepository
from node.index.engine.rows import Row as Listed
from node.index.engine.sql import Unindexed
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import WorkitemRow
from node.index.work.ledger import NoSuchWork, WorkEnded

MAX_WORKITEMS = 100_000


class NoSuchWorkitem(NoSuchWork):
    """No client has created such a workitem."""


class WorkitemEnded(WorkEnded):
    """The workitem has ended."""


class WorkitemRepository(IndexRepository):
    """The workitems of clients."""

    @on_writer
    def create(self, connection: Connection, uid: str, attributes: Json, account: str, now: dt.datetime) -> bool:
        """Add a workitem that is SCHEDULED; return False if there is one with its UID.

        Raises OutOfResources if there are too many.
        """
        if _row(connection, uid) is not None:
            return False
        of_clients = select(func.count()).select_from(WorkitemRow)
        if connection.execute(of_clients).scalar_one() >= MAX_WORKITEMS:
            raise OutOfResources(f"there are {MAX_WORKITEMS} workitems: end or cancel those that nobody performs")
        values = {"sop_instance_uid": uid, "state": "SCHEDULED", "created_by": account, "created_at": now}
        patient_id = (entry_text(attributes, "PatientID") or "")[:64] or None
        added = insert(WorkitemRow).values({**values, "patient_id": patient_id, "attributes": attributes})
        connection.execute(added)
        return True

    @on_writer
    def update(
        self, connection: Connection, uid: str, changes: Json, transaction_uid: str | None, now: dt.datetime
    ) -> Status:
        """Change attributes of a workitem; see `node.extensions.workitems.unified_steps.updated`.

        Raises InvalidStep.
        """
        row = _row(connection, uid)
        if row is None:
            return Status.NO_SUCH_STEP
        if row.state in rules.FINAL:
            return Status.NO_LONGER_UPDATED
        if row.state == "SCHEDULED" and transaction_uid is not None:
            return Status.NOT_IN_PROGRESS
        if row.state == "IN PROGRESS" and transaction_uid != row.transaction_uid:
            return Status.WRONG_TRANSACTION_UID
        change(connection, row.id, attributes=rules.updated(row.attributes, changes, now))
        return Status.SUCCESS

    @on_writer
    def change_state(
        self, connection: Connection, uid: str, wanted: State, transaction_uid: str | None, now: dt.datetime
    ) -> Status:
        """Change the state of a workitem, by PS3.4 table CC.1.1-2."""
        row = _row(connection, uid)
        if row is None:
            return Status.NO_SUCH_STEP
        event = rules.change_event(wanted, row.state, row.transaction_uid, transaction_uid)
        states = rules.transition(event, row.state)
        if isinstance(states, Status):
            return states
        attributes = rules.changed(row.attributes, wanted, now)
        if isinstance(attributes, Status):
            return attributes
        ended = {"ended_at": now} if wanted in rules.FINAL else {"transaction_uid": transaction_uid}
        change(connection, row.id, attributes=attributes, state=wanted, **ended)
        return Status.SUCCESS

    @on_writer
    def request_cancel(self, connection: Connection, uid: str, request: Json, now: dt.datetime) -> Status:
        """Cancel a workitem that nobody has claimed. The performer of another one cannot be contacted.

        Parameters
        ----------
        request : Json
            See `node.extensions.workitems.unified_steps.checked_request`.
        """
        row = _row(connection, uid)
        if row is None:
            return Status.NO_SUCH_STEP
        states = rules.transition(Event.REQUEST_CANCEL, row.state)
        if isinstance(states, Status):
            return states
        return _cancel(connection, row, states, request, now)

    @on_writer
    def end(self, connection: Connection, uid: str, reason: str, now: dt.datetime) -> Json:
        """Cancel a workitem without the Transaction UID of its performer, who has vanished (PS3.4 CC.2.1.3).

        Return its attributes before.

        Raises WorkitemEnded. Raises NoSuchWorkitem if none was created by a client.
        """
        row = _row(connection, uid)
        if row is None:
            raise NoSuchWorkitem
        states = rules.transition(Event.REQUEST_CANCEL, row.state)
        if not isinstance(states, Status):
            states = _cancel(connection, row, states or ("CANCELED",), elements({"ReasonForCancellation": reason}), now)
        if states != Status.SUCCESS:
            raise WorkitemEnded(f"the workitem is {row.state}")
        before: Json = row.attributes
        return before

    @on_writer
    def remove_ended(self, connection: Connection, before: dt.date) -> int:
        """Remove workitems that ended before a day; return how many."""
        midnight = dt.datetime.combine(before, dt.time(), dt.UTC)
        return connection.execute(delete(WorkitemRow).where(WorkitemRow.ended_at < midnight)).rowcount


def _row(connection: Connection, uid: str) -> Row[Any] | None:
    """Return the row of a workitem, which no other writer changes until the end of the transaction."""
    of_workitem = select(WorkitemRow.__table__).where(WorkitemRow.sop_instance_uid == uid)
    return connection.execute(of_workitem.with_for_update(key_share=True)).first()


def _cancel(connection: Connection, row: Row[Any], states: Sequence[State], request: Json, now: dt.datetime) -> Status:
    """Let a workitem go through `states` to the last one, with the reasons of a request."""
    if not states:
        return Status.NO_PERFORMER
    attributes = row.attributes
    for state in states:
        after = (
            rules.cancelled(attributes, request, now) if state == "CANCELED" else rules.changed(attributes, state, now)
        )
        if isinstance(after, Status):
            return after
        attributes = after
    change(connection, row.id, attributes=attributes, state=states[-1], ended_at=now)
    return Status.SUCCESS


def change(connection: Connection, id: int, **values: Any) -> None:
    """Change the row of a workitem."""
    connection.execute(update(WorkitemRow).where(WorkitemRow.id == id).values(values))


@dataclass(frozen=True, slots=True)
class CreatedWorkitem:
    """A workitem of a client; `attributes` are in the DICOM JSON Model, without its UIDs."""

    sop_instance_uid: str
    state: State
    attributes: Json


class ReadCreatedWorkitems(PagedRepository):
    """Rows of ``workitems``; see `node.index.database.reading.ReadIndex`."""

    listing = select(
        WorkitemRow.id,
        WorkitemRow.sop_instance_uid,
        WorkitemRow.state,
        WorkitemRow.attributes,
        WorkitemRow.created_by,
        WorkitemRow.created_at,
        WorkitemRow.ended_at,
    )

    filters = (WorkitemRow.sop_instance_uid, WorkitemRow.state)

    def under_way(self, limit: int) -> list[Listed]:
        """Return workitems that somebody performs, the newest first."""
        return self.page(None, limit, state="IN PROGRESS")

    def is_any_under_way(self) -> bool:
        """Return whether somebody performs a workitem."""
        in_progress = select(WorkitemRow.id).where(WorkitemRow.state == "IN PROGRESS").limit(1)
        return self._connection.execute(in_progress).first() is not None

    def one(self, uid: str) -> CreatedWorkitem | None:
        """Return the workitem with a UID, or None."""
        row = self._connection.execute(select(WorkitemRow.__table__).where(WorkitemRow.sop_instance_uid == uid)).first()
        return None if row is None else _workitem(row)

    def all(
        self, states: Collection[State], uids: Sequence[str] | None = None, patient_id: str | None = None
    ) -> Iterator[CreatedWorkitem]:
        """Yield the workitems in one of `states`: first those that have not ended, then the newest.

        Parameters
        ----------
        uids : sequence of str or None
            Yield only these.
        patient_id : str or None
            Yield only those of this Patient ID.
        """
        query = select(WorkitemRow.__table__).order_by(WorkitemRow.id.desc())
        if uids is not None:
            query = query.where(WorkitemRow.sop_instance_uid.in_(uids))
        if patient_id is not None:
            query = query.where(WorkitemRow.patient_id == patient_id)
        for is_final in (False, True):
            wanted = [state for state in states if (state in rules.FINAL) == is_final]
            if wanted:
                yield from self._in_states(query, wanted)

    def _in_states(self, query: Select[Any], states: Collection[State]) -> Iterator[CreatedWorkitem]:
        # Without the index on states, SQLite reads backwards, and stops with the reader.
        listed = query.where(Unindexed(WorkitemRow.state).in_(states))
        for row in self._connection.execute(listed):
            yield _workitem(row)


def _workitem(row: Row[Any]) -> CreatedWorkitem:
    return CreatedWorkitem(row.sop_instance_uid, row.state, row.attributes)
