"""Reads of the workitems of clients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row as Selected
from sqlalchemy import Select, select

from node.dicom.json_model import Json
from node.dicom.unified_steps import FINAL, State
from node.index.engine.rows import PagedRepository, Row
from node.index.engine.sql import Unindexed
from node.index.models import WorkitemRow


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

    def under_way(self, limit: int) -> list[Row]:
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
            wanted = [state for state in states if (state in FINAL) == is_final]
            if wanted:
                yield from self._in_states(query, wanted)

    def _in_states(self, query: Select[Any], states: Collection[State]) -> Iterator[CreatedWorkitem]:
        # Without the index on states, SQLite reads backwards, and stops with the reader.
        listed = query.where(Unindexed(WorkitemRow.state).in_(states))
        for row in self._connection.execute(listed):
            yield _workitem(row)


def _workitem(row: Selected[Any]) -> CreatedWorkitem:
    return CreatedWorkitem(row.sop_instance_uid, row.state, row.attributes)
