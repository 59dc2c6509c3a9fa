"""Workitems that clients create, which others than the node perform (PS3.4 CC).

Each change is decided in the transaction that makes it: of two performers that claim a workitem, one gets it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from node.dicom import unified_steps as rules
from node.dicom.json_model import Json, elements
from node.dicom.matching import Query
from node.dicom.unified_steps import Event, State, Status
from node.dicom.worklist import entry_text
from node.errors import OutOfResources, VoxelnodeError
from node.index.engine.rows import ReadRepository
from node.index.engine.sql import Unindexed
from node.index.engine.writer import IndexRepository, on_writer
from node.index.models import (
    OPEN_STATES,
    EventRow,
    ImageRow,
    PatientRow,
    SeriesRow,
    StudyRow,
    WorkitemRow,
)
from node.index.nouns.events import FINAL, EventKind
from node.index.search.conditions import restrictions

MAX_WORKITEMS = 100_000


class NoSuchWorkitem(VoxelnodeError):
    """No client has created such a workitem."""


class WorkitemEnded(VoxelnodeError):
    """The workitem has ended."""


class WorkitemRepository(IndexRepository):
    """The workitems of clients."""

    @on_writer
    def create(self, connection: Connection, uid: str, attributes: Json, account: str, now: dt.datetime) -> bool:
        """Add a workitem that is SCHEDULED; return False if there is one with its UID.

        Raises
        ------
        OutOfResources
            There are too many.
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
            See `node.dicom.unified_steps.checked_request`.
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

        Raises
        ------
        NoSuchWorkitem
            None was created by a client.
        WorkitemEnded
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


COMPLETING: tuple[EventKind, ...] = ("series-converted", "series-unchanged")
"""The events after which a conversion is COMPLETED; after the other final ones it is CANCELED."""

_PATIENT = (
    PatientRow.patient_name,
    PatientRow.patient_id,
    PatientRow.issuer_of_patient_id,
    PatientRow.patient_birth_date,
    PatientRow.patient_sex,
)
_SERIES = (
    SeriesRow.id.label("series_id"),
    StudyRow.study_instance_uid,
    SeriesRow.series_instance_uid,
    StudyRow.accession_number,
)


@dataclass(frozen=True, slots=True)
class Workitem:
    """A conversion of a series.

    Attributes
    ----------
    predecessor : int
        The id of the final event of the conversion before, or 0.
    ended_by : str or None
        The kind of the final event; None while the conversion has not ended.
    scheduled_at, started_at, ended_at : datetime or None
    revision : int or None
        The revision that the conversion makes, or that it found to be current.
    detail : str or None
        Why it ended without volumes, or why it waits for another attempt.
    """

    series_id: int
    study_instance_uid: str
    series_instance_uid: str
    accession_number: str | None
    patient_name: str | None
    patient_id: str | None
    issuer_of_patient_id: str | None
    patient_birth_date: dt.date | None
    patient_sex: str | None
    predecessor: int
    ended_by: str | None
    scheduled_at: dt.datetime | None
    started_at: dt.datetime | None
    ended_at: dt.datetime | None
    revision: int | None
    detail: str | None

    @property
    def state(self) -> State:
        """The state, which only ever changes from SCHEDULED to IN PROGRESS to a final one (PS3.4 CC.1.1)."""
        if self.ended_by is not None:
            return "COMPLETED" if self.ended_by in COMPLETING else "CANCELED"
        return "SCHEDULED" if self.started_at is None else "IN PROGRESS"


class ReadWorkitems(ReadRepository):
    """Conversions that are scheduled, under way or ended, of the series that are stored."""

    def find(self, query: Query, states: Sequence[State], limit: int, offset: int) -> list[Workitem]:
        """Return a page of the workitems in one of `states`: first those that have not ended, then the newest.

        Parameters
        ----------
        query : Query
            Of level SERIES; its conditions hold for the series.
        """
        matching = restrictions(query)
        opened, ended = _opened(*matching, states=states), _ended(*matching, states=states)
        found = self._workitems(opened.order_by(SeriesRow.id.desc()).limit(limit).offset(offset))
        if len(found) < limit:
            before = self._connection.scalar(select(func.count()).select_from(opened.subquery())) or 0
            rest = ended.order_by(EventRow.id.desc()).limit(limit - len(found)).offset(max(offset - before, 0))
            found += self._workitems(rest)
        return found

    def of_series(self, series_id: int, query: Query | None = None) -> list[Workitem]:
        """Return the workitems of a series, the newest first; none if the series does not match `query`."""
        matching = [SeriesRow.id == series_id, *(restrictions(query) if query is not None else ())]
        return self._workitems(_opened(*matching)) + self._workitems(_ended(*matching).order_by(EventRow.id.desc()))

    def instances(self, series_id: int, limit: int) -> list[tuple[str, str]]:
        """Return SOP Class and SOP Instance UIDs of at most `limit` instances of a series."""
        rows = select(ImageRow.sop_class_uid, ImageRow.sop_instance_uid).where(ImageRow.series_id == series_id)
        ordered = rows.order_by(ImageRow.instance_number.nulls_first(), ImageRow.sop_instance_uid)
        return [(row[0], row[1]) for row in self._connection.execute(ordered.limit(limit))]

    def _workitems(self, rows: Select[Any]) -> list[Workitem]:
        return [Workitem(**row) for row in self._connection.execute(rows).mappings()]


def _of_series(event: Any) -> tuple[ColumnElement[bool], ...]:
    return (
        event.series_instance_uid == SeriesRow.series_instance_uid,
        event.study_instance_uid == StudyRow.study_instance_uid,
    )


def _last_final(*conditions: Any) -> Any:
    """Select the id of the last final event of a series that meets conditions on `_earlier`, or 0."""
    last = select(func.coalesce(func.max(_earlier.id), 0)).where(
        *_of_series(_earlier), Unindexed(_earlier.kind).in_(FINAL), *conditions
    )
    return last.correlate(SeriesRow, StudyRow, EventRow).scalar_subquery()


def _started(predecessor: Any, *conditions: Any) -> Any:
    started = select(func.min(_quiet.happened_at)).where(
        *_of_series(_quiet), Unindexed(_quiet.kind) == "series-quiet", _quiet.id > predecessor, *conditions
    )
    return started.correlate(SeriesRow, StudyRow, EventRow).scalar_subquery()


_earlier, _quiet = aliased(EventRow), aliased(EventRow)


def _opened(*conditions: Any, states: Sequence[State] = ("SCHEDULED", "IN PROGRESS")) -> Select[Any]:
    """Select the conversions that have not ended."""
    predecessor = _last_final()
    started = _started(predecessor)
    in_state = [
        condition
        for state, condition in (("SCHEDULED", started.is_(None)), ("IN PROGRESS", started.is_not(None)))
        if state in states
    ]
    if len(in_state) != 1:
        in_state = [literal(bool(in_state))]
    return (
        select(
            *_SERIES,
            *_PATIENT,
            predecessor.label("predecessor"),
            null().label("ended_by"),
            SeriesRow.due_at.label("scheduled_at"),
            started.label("started_at"),
            null().label("ended_at"),
            (SeriesRow.revision + 1).label("revision"),
            case((or_(SeriesRow.attempts > 0, SeriesRow.error.startswith("waits: ")), SeriesRow.error)).label("detail"),
        )
        .select_from(SeriesRow)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .join(PatientRow, PatientRow.id == StudyRow.patient_id)
        .where(SeriesRow.state.in_(OPEN_STATES), *in_state, *conditions)
    )


def _ended(*conditions: Any, states: Sequence[State] = ("COMPLETED", "CANCELED")) -> Select[Any]:
    """Select the conversions that have ended, of series that still exist."""
    kinds = [kind for kind in FINAL if ("COMPLETED" if kind in COMPLETING else "CANCELED") in states]
    predecessor = _last_final(_earlier.id < EventRow.id)
    started = _started(predecessor, _quiet.id < EventRow.id)
    return (
        select(
            *_SERIES,
            *_PATIENT,
            predecessor.label("predecessor"),
            EventRow.kind.label("ended_by"),
            started.label("scheduled_at"),
            started.label("started_at"),
            EventRow.happened_at.label("ended_at"),
            EventRow.revision,
            EventRow.detail,
        )
        .select_from(EventRow)
        .join(StudyRow, StudyRow.study_instance_uid == EventRow.study_instance_uid)
        .join(
            SeriesRow,
            and_(SeriesRow.study_id == StudyRow.id, SeriesRow.series_instance_uid == EventRow.series_instance_uid),
        )
        .join(PatientRow, PatientRow.id == StudyRow.patient_id)
        .where(Unindexed(EventRow.kind).in_(kinds), *conditions)
    )
