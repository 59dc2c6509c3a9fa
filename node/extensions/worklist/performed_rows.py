"""Modality Performed Procedure Steps, as modalities create and end them (PS3.4 F.7)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, insert, select, update

from node.dicom.json_model import Json
from node.extensions.worklist.orders import identified
from node.extensions.worklist.scheduled_rows import IN_PROGRESS, set_state
from node.index.engine.rows import IndexRepository, PagedRepository, Row, columns_but, on_reader, on_writer
from node.index.models.history import PerformedSeriesRow, PerformedStepRow
from node.index.nouns.verdicts import judge_by_list

State = Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
"""*Performed Procedure Step Status* (0040,0252)."""

_STATE_OF_SCHEDULED = {"IN PROGRESS": IN_PROGRESS, "COMPLETED": "completed", "DISCONTINUED": "discontinued"}


@dataclass(frozen=True, slots=True)
class ListedSeries:
    """A series that a step lists, with the SOP Instance UIDs of its instances."""

    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PerformedStep:
    """A performed procedure step.

    `scheduled`: Study Instance UID and Scheduled Procedure Step ID of the steps that were performed. `attributes`: all
    its attributes in the DICOM JSON Model.
    """

    sop_instance_uid: str
    state: State
    study_instance_uid: str
    patient_id: str | None
    accession_number: str | None
    performed_procedure_step_id: str | None
    modality: str | None
    station_ae_title: str | None
    scheduled: tuple[tuple[str, str], ...]
    series: tuple[ListedSeries, ...]
    attributes: Json

    def values(self) -> dict[str, Any]:
        """Return the columns of its row."""
        names = ("patient_id", "accession_number", "performed_procedure_step_id", "modality", "station_ae_title")
        return {name: getattr(self, name) for name in (*names, "sop_instance_uid", "state", "attributes")} | {
            "study_instance_uid": self.study_instance_uid or None,
            "series": len(self.series),
            "instances": sum(len(series.sop_instance_uids) for series in self.series),
        }


class PerformedStepRepository(IndexRepository):
    """The performed procedure steps."""

    @on_writer
    def create(self, connection: Connection, step: PerformedStep, calling_ae_title: str, now: dt.datetime) -> bool:
        """Add a step that is in progress; return False if there is one with its UID."""
        is_there = select(PerformedStepRow.id).where(PerformedStepRow.sop_instance_uid == step.sop_instance_uid)
        if connection.execute(is_there).first() is not None:
            return False
        values = {**step.values(), "calling_ae_title": calling_ae_title, "created_at": now, "changed_at": now}
        values["patient_id"] = identified(connection, step.attributes)["patient_id"]
        connection.execute(insert(PerformedStepRow).values(values))
        _note_scheduled(connection, step)
        return True

    @on_reader
    def current(self, connection: Connection, sop_instance_uid: str) -> tuple[State, Json, dt.datetime] | None:
        """Return state and attributes of a step, and when it changed last; None if there is none."""
        row = PerformedStepRow
        query = select(row.state, row.attributes, row.changed_at).where(row.sop_instance_uid == sop_instance_uid)
        found = connection.execute(query).first()
        return None if found is None else (found.state, found.attributes, found.changed_at)

    @on_writer
    def change(self, connection: Connection, step: PerformedStep, seen: dt.datetime, now: dt.datetime) -> bool:
        """Change a step that is in progress. The series that an ended step lists are judged by its lists.

        False if the step is no longer as `current` returned it: it changed after `seen`.
        """
        row = PerformedStepRow
        is_it = row.sop_instance_uid == step.sop_instance_uid, row.state == "IN PROGRESS", row.changed_at == seen
        ended = step.state != "IN PROGRESS"
        values = {**step.values(), "changed_at": max(now, seen + dt.timedelta(microseconds=1))}
        values["patient_id"] = identified(connection, step.attributes)["patient_id"]
        if ended:
            values["ended_at"] = now
        id = connection.execute(update(row).where(*is_it).values(values).returning(row.id)).scalar()
        if id is None:
            return False
        _note_scheduled(connection, step)
        if ended:
            _note_lists(connection, id, step, now)
        return True

    @on_writer
    def remove_old(self, connection: Connection, before: dt.datetime) -> int:
        """Remove the steps whose last message came before a moment; return how many."""
        return connection.execute(delete(PerformedStepRow).where(PerformedStepRow.changed_at < before)).rowcount


def _note_scheduled(connection: Connection, step: PerformedStep) -> None:
    for study_instance_uid, scheduled_procedure_step_id in step.scheduled:
        set_state(connection, study_instance_uid, scheduled_procedure_step_id, _STATE_OF_SCHEDULED[step.state])


def _note_lists(connection: Connection, id: int, step: PerformedStep, now: dt.datetime) -> None:
    listed: Sequence[ListedSeries] = [series for series in step.series if series.sop_instance_uids]
    study = step.study_instance_uid or None
    rows = [
        {
            "performed_step_id": id,
            "study_instance_uid": study,
            "series_instance_uid": series.series_instance_uid,
            "sop_instance_uids": list(series.sop_instance_uids),
        }
        for series in listed
    ]
    if rows:
        connection.execute(insert(PerformedSeriesRow), rows)
    for uid in dict.fromkeys(series.series_instance_uid for series in listed):
        judge_by_list(connection, (study or "", uid), now, is_over=step.state == "DISCONTINUED")


class ReadPerformedSteps(PagedRepository):
    """Rows of ``performed_steps``."""

    listing = select(*columns_but(PerformedStepRow, "attributes"))
    filters = (PerformedStepRow.state, PerformedStepRow.study_instance_uid)

    def step(self, sop_instance_uid: str) -> Row | None:
        """Return a step with its attributes, or None."""
        is_it = PerformedStepRow.sop_instance_uid == sop_instance_uid
        row = self._connection.execute(select(PerformedStepRow.__table__).where(is_it)).first()
        return None if row is None else dict(row._mapping)
