"""Workitems that clients created."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select
from sqlalchemy import Row as Selected

from node.dicom.json_model import Json
from node.dicom.unified_steps import FINAL, State
from node.index.backend import Settled, is_settled
from node.index.models import WorkitemReportRow, WorkitemRow
from node.index.read.rows import PagedRepository, Row, unindexed

_COLUMNS = (WorkitemRow.id, WorkitemRow.sop_instance_uid, WorkitemRow.state, WorkitemRow.attributes)


@dataclass(frozen=True, slots=True)
class CreatedWorkitem:
    """A workitem that a client created; `attributes` are in the DICOM JSON Model, without its UIDs."""

    id: int
    sop_instance_uid: str
    state: State
    attributes: Json


@dataclass(frozen=True, slots=True)
class WorkitemReport:
    """An event of a workitem: its Event Type ID, and what a report of it says beside the current attributes."""

    id: int
    workitem: CreatedWorkitem
    event_type: int
    report: Json


class ReadCreatedWorkitems(PagedRepository):
    """Rows of ``workitems`` and ``workitem_reports``; see `node.index.read.ReadIndex`."""

    def __init__(self, connection: Connection, settled: Settled | None) -> None:
        super().__init__(connection)
        self._settled = settled

    listing = select(*_COLUMNS, WorkitemRow.created_by, WorkitemRow.created_at, WorkitemRow.ended_at)
    filters = (WorkitemRow.sop_instance_uid, WorkitemRow.state)

    def under_way(self, limit: int) -> list[Row]:
        """Return workitems that somebody performs, the newest first."""
        return self.page(None, limit, state="IN PROGRESS")

    def is_any_under_way(self) -> bool:
        """Return whether somebody performs a workitem."""
        its = select(WorkitemRow.id).where(WorkitemRow.state == "IN PROGRESS").limit(1)
        return self._connection.execute(its).first() is not None

    def one(self, uid: str) -> CreatedWorkitem | None:
        """Return the workitem with a UID, or None."""
        row = self._connection.execute(select(*_COLUMNS).where(WorkitemRow.sop_instance_uid == uid)).first()
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
        query = select(*_COLUMNS).order_by(WorkitemRow.id.desc())
        if uids is not None:
            query = query.where(WorkitemRow.sop_instance_uid.in_(uids))
        if patient_id is not None:
            query = query.where(WorkitemRow.patient_id == patient_id)
        for is_final in (False, True):
            wanted = [state for state in states if (state in FINAL) == is_final]
            if wanted:
                yield from self._in_states(query, wanted)

    def _in_states(self, query: Select[Any], states: Collection[State]) -> Iterator[CreatedWorkitem]:
        # Without the index on states, SQLite reads backwards, and stops with the reader.
        listed = query.where(unindexed(WorkitemRow.state).in_(states))
        for row in self._connection.execute(listed):
            yield _workitem(row)

    def reports(self, after: int, limit: int) -> list[WorkitemReport]:
        """Return at most `limit` reports after one, in their order."""
        report = WorkitemReportRow
        query = select(
            report.id, report.event_type, report.report, *(column.label(f"w_{column.key}") for column in _COLUMNS)
        )
        rows = query.join(WorkitemRow).where(report.id > after, is_settled(self._settled, report.id))
        rows = rows.order_by(report.id).limit(limit)
        return [
            WorkitemReport(
                row.id,
                CreatedWorkitem(row.w_id, row.w_sop_instance_uid, row.w_state, row.w_attributes),
                row.event_type,
                row.report,
            )
            for row in self._connection.execute(rows)
        ]


def _workitem(row: Selected[Any]) -> CreatedWorkitem:
    return CreatedWorkitem(row.id, row.sop_instance_uid, row.state, row.attributes)
