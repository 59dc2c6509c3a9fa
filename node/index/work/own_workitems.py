"""What the node sends and retrieves, and has hooks do, as workitems that it performs itself (PS3.4 CC).

A workitem follows its record, which is a message of a route, a retrieval or a job, in the transaction that changes the
record. It goes from SCHEDULED to IN PROGRESS to a final state and never back: a record that begins again after its end,
because somebody sends the same series once more, begins another workitem.

Rows have no attributes of the patient, who is read with them (`node.index.work.created_workitems`), and no text of a
hook or a peer, which may name one. They therefore stay after a deletion of the study.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, insert, select, update

from node.dicom import unified_steps as rules
from node.dicom.json_model import Json, elements
from node.dicom.unified_steps import FINAL, STATES, Event, State, Status
from node.dicom.values import standard_tag
from node.index.engine.repository import IndexRepository, on_reader, on_writer
from node.index.models import WorkitemRow
from node.index.work.workitems import change

Kind = Literal["send", "job"]

MAX_KEPT = 10_000
"""Newest rows of ``workitems`` among which those of the node are kept after their end; older ones are removed."""

PRUNED_EVERY = 100
"""Rows of ``workitems`` after which old ones are looked for."""

LABELS: Mapping[Kind, tuple[str, str]] = {
    "send": ("Send to", "Sends"),
    "job": ("Job of hook", "Jobs"),
}
"""Begin of *Procedure Step Label* (0074,1204), and *Worklist Label* (0074,1202)."""

CODES: Mapping[Kind, tuple[str, str, str]] = {
    "send": ("110106", "DCM", "Export"),
    "job": ("110001", "DCM", "Image Processing"),
}
"""*Scheduled Workitem Code Sequence* (0040,4018); PS3.16 CID 9231 has no codes for the first two."""

_FAILED = ("110501", "DCM", "Equipment failure")
_CANCELLED = ("110513", "DCM", "Discontinued for unspecified reason")


@dataclass(frozen=True, slots=True)
class OwnWork:
    """A record that a workitem follows.

    Attributes
    ----------
    of : str
        ROUTE/DESTINATION, peer or hook.
    key : str
        The id of the message, the retrieval or the job.
    requested_by : str
        An account, or what asks for it by rule.
    """

    kind: Kind
    of: str
    key: str
    study_instance_uid: str
    series_instance_uid: str | None
    requested_by: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a record is.

    Attributes
    ----------
    text : str
        What is said of its progress, or why it was cancelled; without patient data.
    percent : int or None
    is_failure : bool
        Whether it is cancelled because it failed.
    """

    state: State
    text: str = ""
    percent: int | None = None
    is_failure: bool = False


class OwnWorkitemRepository(IndexRepository):
    """The workitems that the node performs."""

    @on_writer
    def follow(self, connection: Connection, standings: Collection[tuple[OwnWork, Standing]], now: dt.datetime) -> None:
        """Let workitems follow records that change before they are written."""
        for work, standing in standings:
            follow(connection, work, standing, now)

    @on_writer
    def request_cancel(self, connection: Connection, uid: str, who: str) -> Status:
        """Record that a send is to end; whoever sends it ends it."""
        row = connection.execute(select(WorkitemRow.state).where(WorkitemRow.sop_instance_uid == uid)).first()
        if row is None:
            return Status.NO_SUCH_STEP
        states = rules.transition(Event.REQUEST_CANCEL, row.state)
        if isinstance(states, Status):
            return states
        its = WorkitemRow.sop_instance_uid == uid, WorkitemRow.cancelled_by.is_(None)
        connection.execute(update(WorkitemRow).where(*its).values(cancelled_by=who))
        return Status.SUCCESS

    @on_reader
    def under_cancellation(self, connection: Connection, of: str) -> dict[str, str]:
        """Return who wants which sends to a destination to end, by the ids of their messages."""
        wanted = WorkitemRow.work_of == of, WorkitemRow.cancelled_by.is_not(None), WorkitemRow.ended_at.is_(None)
        rows = connection.execute(select(WorkitemRow.work_key, WorkitemRow.cancelled_by).where(*wanted))
        return {row.work_key: row.cancelled_by for row in rows}

    @on_reader
    def open_keys(self, connection: Connection, of: str) -> set[str]:
        """Return the ids of the messages to a destination whose workitems have not ended."""
        return {row.work_key for row in _open(connection, WorkitemRow.work == "send", WorkitemRow.work_of == of)}


def follow(connection: Connection, work: OwnWork, standing: Standing, now: dt.datetime) -> None:
    """Let the workitem of a record follow it.

    What was cancelled, but did not fail, before there was a workitem was never asked for: it gets none.
    """
    row = _newest(connection, work.of, work.key)
    if row is None and standing.state == "CANCELED" and not standing.is_failure:
        return
    if row is None or (row.state in FINAL and standing.state not in FINAL):
        _begin(connection, work, standing, now)
    elif row.state not in FINAL:
        _go_on(connection, row, standing, now)


def is_under_cancellation(connection: Connection, of: str, key: str) -> bool:
    """Return whether somebody has cancelled a workitem that has not ended."""
    row = _newest(connection, of, key)
    return row is not None and row.ended_at is None and row.cancelled_by is not None


def end_others(connection: Connection, names: Collection[str], now: dt.datetime) -> None:
    """Cancel the sends to destinations other than `names`, which are no longer configured."""
    for row in _open(connection, WorkitemRow.work == "send", WorkitemRow.work_of.not_in(names)):
        _go_on(connection, row, Standing("CANCELED", "the destination is no longer configured"), now)


def _newest(connection: Connection, of: str, key: str) -> Row[Any] | None:
    its = WorkitemRow.work_key == key, WorkitemRow.work_of == of
    newest = select(WorkitemRow.__table__).where(*its).order_by(WorkitemRow.id.desc()).limit(1)
    return connection.execute(newest).first()


def _open(connection: Connection, *conditions: Any) -> list[Row[Any]]:
    open_rows = select(WorkitemRow.__table__).where(*conditions, WorkitemRow.ended_at.is_(None))
    return list(connection.execute(open_rows))


def _begin(connection: Connection, work: OwnWork, standing: Standing, now: dt.datetime) -> None:
    state, attributes = _moved(work.kind, "SCHEDULED", _scheduled(work, now), standing, now)
    values = {
        "sop_instance_uid": f"2.25.{uuid.uuid4().int}",
        "state": state,
        "attributes": attributes,
        "created_by": work.requested_by[:64],
        "created_at": now,
        "ended_at": now if state in FINAL else None,
        "work": work.kind,
        "work_of": work.of,
        "work_key": work.key,
        "study_instance_uid": work.study_instance_uid,
        "series_instance_uid": work.series_instance_uid,
    }
    id = connection.execute(insert(WorkitemRow).values(values).returning(WorkitemRow.id)).scalar_one()
    if id % PRUNED_EVERY == 0:
        old = WorkitemRow.work.is_not(None), WorkitemRow.ended_at.is_not(None), WorkitemRow.id <= id - MAX_KEPT
        connection.execute(delete(WorkitemRow).where(*old))


def _go_on(connection: Connection, row: Row[Any], standing: Standing, now: dt.datetime) -> None:
    state, attributes = _moved(row.work, row.state, row.attributes, standing, now)
    if attributes != row.attributes:
        ended = {"ended_at": now} if state in FINAL else {}
        change(connection, row.id, attributes=attributes, state=state, **ended)


def _moved(kind: Kind, state: State, attributes: Json, standing: Standing, now: dt.datetime) -> tuple[State, Json]:
    """Return state and attributes of a workitem that follows its record; they are the same if nothing changes."""
    before = state
    progress = elements({rules.PROGRESS: _progress(standing, now)})
    if not rules.values_of(progress, rules.PROGRESS) or progress.items() <= attributes.items():
        progress = {}
    for after in _PATHS[standing.state]:
        if STATES.index(after) <= STATES.index(state):
            continue
        if after in FINAL:
            [begun] = rules.values_of(attributes, rules.PERFORMED)
            ended = dict(sorted({**begun, **elements({"PerformedProcedureStepEndDateTime": now})}.items()))
            performed: Json = {f"{standard_tag(rules.PERFORMED):08X}": {"vr": "SQ", "Value": [ended]}}
        else:
            performed = elements({rules.PERFORMED: [_performed(kind, now)]})
        changed = {**attributes, **progress, **performed, **elements({"ProcedureStepState": after})}
        state, attributes = after, rules.modified(changed, now)
    if progress and state == before:
        attributes = rules.modified({**attributes, **progress}, now)
    return state, attributes


_PATHS: Mapping[State, tuple[State, ...]] = {
    "SCHEDULED": (),
    "IN PROGRESS": ("IN PROGRESS",),
    "COMPLETED": ("IN PROGRESS", "COMPLETED"),
    "CANCELED": ("IN PROGRESS", "CANCELED"),
}
"""The states on the way to each, by PS3.4 table CC.1.1-2."""


def _scheduled(work: OwnWork, now: dt.datetime) -> Json:
    label, worklist = LABELS[work.kind]
    inputs = {"TypeOfInstances": "DICOM", "StudyInstanceUID": work.study_instance_uid}
    if work.series_instance_uid is not None:
        inputs["SeriesInstanceUID"] = work.series_instance_uid
    request = {"StudyInstanceUID": work.study_instance_uid, "AccessionNumber": None, "RequestedProcedureID": None}
    step = {
        "ScheduledProcedureStepPriority": "MEDIUM",
        "ProcedureStepLabel": f"{label} {work.of.rpartition('/')[2]}"[:64],
        "WorklistLabel": worklist,
        "ScheduledProcedureStepStartDateTime": now,
        "ScheduledWorkitemCodeSequence": [_code(CODES[work.kind])],
        "CommentsOnTheScheduledProcedureStep": f"requested by {work.requested_by}",
        "InputReadinessState": "READY",
        "InputInformationSequence": [inputs],
        "ReferencedRequestSequence": [request],
        "ReplacedProcedureStepSequence": [],
        "ProcedureStepState": "SCHEDULED",
    }
    return rules.completed_by_empty(elements(step), now)


def _progress(standing: Standing, now: dt.datetime) -> list[dict[str, Any]]:
    if standing.state == "CANCELED":
        return [
            {
                "ProcedureStepCancellationDateTime": now,
                "ReasonForCancellation": standing.text,
                rules.REASON_CODE: [_code(_FAILED if standing.is_failure else _CANCELLED)],
            }
        ]
    if standing.percent is None and not standing.text:
        return []
    item: dict[str, Any] = {"ProcedureStepProgressDescription": standing.text or None}
    return [item if standing.percent is None else {"ProcedureStepProgress": str(standing.percent), **item}]


def _performed(kind: Kind, now: dt.datetime) -> dict[str, Any]:
    return {
        "ActualHumanPerformersSequence": [],
        "PerformedStationNameCodeSequence": [],
        "PerformedProcedureStepStartDateTime": now,
        "PerformedProcessingParametersSequence": [],
        "PerformedWorkitemCodeSequence": [_code(CODES[kind])],
        "PerformedProcedureStepEndDateTime": None,
        "OutputInformationSequence": [],
    }


def _code(code: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), code, strict=True))
