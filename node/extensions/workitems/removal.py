"""Workitems of clients do not stay for ever: one whose performer has vanished is ended, and ended ones are removed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from node.audit.audit_log import APPLICATION, Action, AuditEvent, AuditMessage, Participant, Result
from node.background import BackgroundService
from node.dicom.json_model import entry_text
from node.extensions.workitems.created import WorkitemRepository
from node.hookspecs import Action as RootAction
from node.hookspecs import OpenedRoot

LOOK_SECONDS = 3600.0


class Removal(BackgroundService):
    """Removes workitems that ended before the days of [worklist] keep_days."""

    def __init__(self, workitems: WorkitemRepository, keep_days: float, now: Callable[[], dt.datetime]) -> None:
        super().__init__("workitems")
        self._workitems, self._kept, self._now = workitems, dt.timedelta(days=keep_days), now
        self._removed_before: dt.date | None = None

    def step(self) -> float:
        """Remove those of a day once; return the seconds until the next look."""
        before = (self._now() - self._kept).date()
        if before != self._removed_before:
            self._workitems.remove_ended(before)
            self._removed_before = before
        return LOOK_SECONDS


def actions_of(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return ``end-workitem`` on an opened root."""
    index = root.ingest.index
    workitems = index.repository(WorkitemRepository)

    def end(workitem: str, who: str) -> Mapping[str, Any]:
        reason = f"ended by {who}: its performer has vanished"
        attributes = workitems.end(workitem, reason, index.now())
        participants = [Participant(who, APPLICATION, is_requestor=True)]
        objects = [{"patient_id": entry_text(attributes, "PatientID") or ""}]
        event, detail = AuditEvent.PROCEDURE_RECORD, f"workitem {workitem}: {reason}"
        root.audit.note(AuditMessage(event, Action.UPDATE, Result.SUCCESS, participants, objects, detail))
        return {"ended": workitem}

    return {"end-workitem": end}
