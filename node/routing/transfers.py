"""What a worker has sent and not written down yet: rows of what was taken, and lines of the audit log."""

from __future__ import annotations

from collections import Counter
from time import monotonic

from node.audit.audit_log import (
    DESTINATION,
    MAX_LINE_SECONDS,
    SOURCE,
    Action,
    Audit,
    AuditEvent,
    AuditMessage,
    Participant,
    Result,
)
from node.index.work.routes import DueInstance, SentInstance


class Unrecorded:
    """What a destination has taken, until its rows are committed."""

    def __init__(self) -> None:
        self.instances: list[SentInstance] = []
        self.bytes = 0

    def add(self, instance: SentInstance, count: int) -> None:
        """Add an instance of `count` bytes."""
        self.instances.append(instance)
        self.bytes += count


class TransferLines:
    """Lines of the audit log about what was sent (PS3.15 A.5.3.8): one for all of up to `MAX_LINE_SECONDS`.

    Parameters
    ----------
    ae_title, destination : str
        Of the node, and the name of where it sends to.
    detail : str
        By which rule it sends, and what it changes.
    """

    def __init__(self, audit: Audit, ae_title: str, destination: str, detail: str) -> None:
        self._audit, self._detail = audit, detail
        self._participants = [Participant(ae_title, SOURCE, is_requestor=True), Participant(destination, DESTINATION)]
        self._studies: dict[tuple[str, str], Counter[str]] = {}
        self._written_at = 0.0

    def __bool__(self) -> bool:
        """Return whether something was sent since the last line."""
        return bool(self._studies)

    def add(self, due: DueInstance, sop_class_uid: str) -> None:
        """Note that an instance was sent."""
        study = due.study_instance_uid, due.patient_id or ""
        self._studies.setdefault(study, Counter())[sop_class_uid] += 1

    def write_if_due(self) -> None:
        """Write the line once it is old enough."""
        if self._studies and monotonic() > self._written_at + MAX_LINE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what was sent since the last line."""
        self._written_at = monotonic()
        if not self._studies:
            return
        studies = [
            {"study_instance_uid": study, "patient_id": patient_id, "sop_classes": dict(classes)}
            for (study, patient_id), classes in self._studies.items()
        ]
        event = AuditEvent.INSTANCES_TRANSFERRED
        self._audit.note(AuditMessage(event, Action.READ, Result.SUCCESS, self._participants, studies, self._detail))
        self._studies = {}
