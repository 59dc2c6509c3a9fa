"""Workitems that clients create, which others than the node perform (PS3.4 CC), and who is subscribed to workitems.

Each change is decided in the transaction that makes it: of two performers that claim a workitem, one gets it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, select, update

from node.dicom import unified_steps as rules
from node.dicom.json_model import Json, elements
from node.dicom.unified_steps import Event, State, Status
from node.dicom.worklist import entry_text
from node.errors import OutOfResources, VoxelnodeError
from node.index.models import WorkitemLockRow, WorkitemReportRow, WorkitemRow, WorkitemSubscriberRow
from node.index.repository import IndexRepository, on_reader, on_writer

Subscriber = tuple[str, str]
"""The name of an account, and an AE title: accounts cannot change the subscriptions of each other."""

PAGE = 500
MAX_WORKITEMS = 100_000
MAX_REPORTS = 100_000
"""Reports that are kept; older ones are removed, whether somebody was told or not."""


class NoSuchWorkitem(VoxelnodeError):
    """No client has created such a workitem."""


class WorkitemEnded(VoxelnodeError):
    """The workitem has ended."""


class WorkitemRepository(IndexRepository):
    """The workitems of clients."""

    @on_writer
    def create(
        self,
        connection: Connection,
        uid: str,
        attributes: Json,
        account: str,
        now: dt.datetime,
        locked_by: Collection[Subscriber] = (),
    ) -> bool:
        """Add a workitem that is SCHEDULED; return False if there is one with its UID.

        Parameters
        ----------
        locked_by : collection of Subscriber
            Who is subscribed to all such workitems with a deletion lock.

        Raises
        ------
        OutOfResources
            There are too many.
        """
        if _row(connection, uid) is not None:
            return False
        of_clients = select(func.count()).select_from(WorkitemRow).where(WorkitemRow.work.is_(None))
        if connection.execute(of_clients).scalar_one() >= MAX_WORKITEMS:
            raise OutOfResources(f"there are {MAX_WORKITEMS} workitems: end or cancel those that nobody performs")
        values = {"sop_instance_uid": uid, "state": "SCHEDULED", "created_by": account, "created_at": now}
        patient_id = (entry_text(attributes, "PatientID") or "")[:64] or None
        added = insert(WorkitemRow).values({**values, "patient_id": patient_id, "attributes": attributes})
        id = connection.execute(added.returning(WorkitemRow.id)).scalar_one()
        report(connection, id, (rules.STATE_REPORT, rules.state_report(attributes)))
        if rules.assigned_report(attributes):
            report(connection, id, (rules.ASSIGNED, {}))
        _lock(connection, [id], locked_by)
        return True

    @on_writer
    def update(
        self, connection: Connection, uid: str, changes: Json, transaction_uid: str | None, now: dt.datetime
    ) -> Status:
        """Change attributes of a workitem; see `node.dicom.unified_steps.updated`.

        Raises
        ------
        InvalidStep
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
        attributes = rules.updated(row.attributes, changes, now)
        change(connection, row.id, attributes=attributes)
        for event in rules.events_of(row.attributes, changes):
            told = rules.state_report(attributes) if event == rules.STATE_REPORT else {}
            report(connection, row.id, (event, told))
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
        report(connection, row.id, (rules.STATE_REPORT, rules.state_report(attributes)))
        return Status.SUCCESS

    @on_writer
    def request_cancel(
        self, connection: Connection, uid: str, request: Json, requestor: str, now: dt.datetime, *, is_heard: bool
    ) -> Status:
        """Cancel a workitem that nobody has claimed; tell the performer of another one that somebody wants it to end.

        Parameters
        ----------
        request : Json
            See `node.dicom.unified_steps.checked_request`.
        requestor : str
            The *Requesting AE* (0074,1236).
        is_heard : bool
            Whether somebody is subscribed to the workitem: else no performer can learn of the request.
        """
        row = _row(connection, uid)
        if row is None:
            return Status.NO_SUCH_STEP
        states = rules.transition(Event.REQUEST_CANCEL, row.state)
        if isinstance(states, Status):
            return states
        if not states and not is_heard:
            return Status.NO_PERFORMER
        asked = dict(sorted({**request, **elements({"RequestingAE": requestor})}.items()))
        report(connection, row.id, (rules.CANCEL_REQUESTED, asked))
        return _cancel(connection, row, states, request, now)

    @on_writer
    def end(self, connection: Connection, uid: str, reason: str, now: dt.datetime) -> Json:
        """Cancel a workitem without the Transaction UID of its performer, who has vanished (PS3.4 CC.2.1.3).

        Return its attributes before.

        Raises
        ------
        NoSuchWorkitem
            None was created by a client.
        WorkitemEnded
        """
        row = _row(connection, uid)
        if row is None or row.work is not None:
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
        """Remove workitems that ended before a day and that nobody has locked; return how many."""
        midnight = dt.datetime.combine(before, dt.time(), dt.UTC)
        is_locked = exists().where(WorkitemLockRow.workitem_id == WorkitemRow.id)
        removed = delete(WorkitemRow).where(WorkitemRow.ended_at < midnight, ~is_locked)
        return connection.execute(removed).rowcount

    @on_reader
    def subscribers(self, connection: Connection) -> dict[Subscriber, dict[str, Any]]:
        """Return the subscriptions of all subscribers."""
        row = WorkitemSubscriberRow
        rows = connection.execute(select(row.account, row.ae_title, row.subscriptions))
        return {(account, ae_title): subscriptions for account, ae_title, subscriptions in rows}

    @on_writer
    def subscribe(
        self,
        connection: Connection,
        subscriber: Subscriber,
        subscriptions: Mapping[str, Any] | None,
        locked: Sequence[str] = (),
        unlocked: Sequence[str] = (),
    ) -> None:
        """Record the subscriptions of a subscriber, and its deletion locks.

        Parameters
        ----------
        subscriptions : mapping or None
            None: there are none any more, and no locks either.
        locked, unlocked : sequence of str
            UIDs of workitems of clients.
        """
        row, lock, (account, ae_title) = WorkitemSubscriberRow, WorkitemLockRow, subscriber
        is_it, is_mine = (and_(table.account == account, table.ae_title == ae_title) for table in (row, lock))
        if subscriptions is None:
            connection.execute(delete(row).where(is_it))
            connection.execute(delete(lock).where(is_mine))
            return
        values = {"subscriptions": dict(subscriptions)}
        if connection.execute(update(row).where(is_it).values(values)).rowcount == 0:
            connection.execute(insert(row).values({"account": account, "ae_title": ae_title, **values}))
        for ids in _ids(connection, unlocked):
            connection.execute(delete(lock).where(is_mine, lock.workitem_id.in_(ids)))
        for ids in _ids(connection, locked):
            connection.execute(delete(lock).where(is_mine, lock.workitem_id.in_(ids)))
            _lock(connection, ids, [subscriber])


def _row(connection: Connection, uid: str) -> Row[Any] | None:
    """Return the row of a workitem, which no other writer changes until the end of the transaction."""
    its = select(WorkitemRow.__table__).where(WorkitemRow.sop_instance_uid == uid)
    return connection.execute(its.with_for_update(key_share=True)).first()


def _cancel(connection: Connection, row: Row[Any], states: Sequence[State], request: Json, now: dt.datetime) -> Status:
    """Let a workitem go through `states` to the last one, with the reasons of a request, and tell its subscribers."""
    attributes = row.attributes
    for state in states:
        after = (
            rules.cancelled(attributes, request, now) if state == "CANCELED" else rules.changed(attributes, state, now)
        )
        if isinstance(after, Status):
            return after
        attributes = after
        report(connection, row.id, (rules.STATE_REPORT, rules.state_report(attributes)))
    if states:
        change(connection, row.id, attributes=attributes, state=states[-1], ended_at=now)
    return Status.SUCCESS


def _ids(connection: Connection, uids: Sequence[str]) -> Iterator[list[int]]:
    for at in range(0, len(uids), PAGE):
        named = WorkitemRow.sop_instance_uid.in_(uids[at : at + PAGE])
        yield list(connection.scalars(select(WorkitemRow.id).where(named)))


def change(connection: Connection, id: int, **values: Any) -> None:
    """Change the row of a workitem."""
    connection.execute(update(WorkitemRow).where(WorkitemRow.id == id).values(values))


def report(connection: Connection, workitem_id: int, *events: tuple[int, Json]) -> None:
    """Record events of a workitem, Event Type ID and report, of which its subscribers are told."""
    rows = [{"workitem_id": workitem_id, "event_type": event, "report": told} for event, told in events]
    added = insert(WorkitemReportRow).values(rows).returning(WorkitemReportRow.id)
    last = max(connection.execute(added).scalars())
    connection.execute(delete(WorkitemReportRow).where(WorkitemReportRow.id <= last - MAX_REPORTS))


def _lock(connection: Connection, ids: Collection[int], subscribers: Collection[Subscriber]) -> None:
    """Lock workitems for those of `subscribers` who still have a subscription."""
    row = WorkitemSubscriberRow
    for account, ae_title in subscribers:
        is_there = select(row.id).where(row.account == account, row.ae_title == ae_title)
        if ids and connection.execute(is_there).first() is not None:
            rows = [{"workitem_id": id, "account": account, "ae_title": ae_title} for id in ids]
            connection.execute(insert(WorkitemLockRow), rows)
