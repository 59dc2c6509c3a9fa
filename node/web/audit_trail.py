"""The audit trail of HTTP: queries, access, transfers and changes, by account (PS3.15 A.5.3)."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import structlog

from node.audit.audit_log import (
    APPLICATION,
    Audit,
    AuditAction,
    AuditEvent,
    AuditMessage,
    EventType,
    Participant,
    Result,
)
from node.runtime.budget import remember

REPEAT_SECONDS = 60.0
"""Repeated access by the same account is recorded once in this time: a viewer requests each slice separately."""

MAX_REMEMBERED = 10_000

log = structlog.get_logger()


def of_study(study_instance_uid: str, patient_id: str | None) -> dict[str, str]:
    """Return an object for an audit line: a study and its Patient ID, empty if there is none."""
    return {"study_instance_uid": study_instance_uid, "patient_id": patient_id or ""}


class AuditTrail:
    """Records HTTP requests in the audit log of the node. Thread-safe."""

    def __init__(self, audit: Audit, ae_title: str) -> None:
        self._audit, self._ae_title = audit, ae_title
        self._lock = threading.Lock()
        self._recorded: dict[str, float] = {}

    def of(self, account: str, address: str) -> AccountAuditTrail:
        """Return the trail of one account at one address."""
        return AccountAuditTrail(self, account, address)

    def record(
        self,
        event: AuditEvent,
        action: AuditAction,
        caller: tuple[str, str],
        objects: Sequence[Mapping[str, Any]] = (),
        detail: str = "",
        result: Result = Result.SUCCESS,
        *,
        once: bool = False,
        kind: EventType | None = None,
    ) -> bool:
        """Write a line about `caller` (account, address). If the log cannot be written, the request still proceeds.

        Return whether the line was written: with `once`, an equal one within `REPEAT_SECONDS` is not.
        """
        if once and self._is_repeated(json.dumps([event.name, action.name, caller, list(objects), detail])):
            return False
        account, address = caller
        participants = [Participant(account, "", address, is_requestor=True), Participant(self._ae_title, APPLICATION)]
        self._audit.note(AuditMessage(event, action, result, participants, objects, detail, kind))
        return True

    def authentication(
        self,
        caller: tuple[str, str],
        result: Result,
        detail: str,
        *,
        once: bool = False,
        kind: EventType = EventType.LOGIN,
    ) -> None:
        """Record that somebody signed in or out, or tried to (A.5.3.12)."""
        event = AuditEvent.USER_AUTHENTICATION
        self.record(event, AuditAction.EXECUTE, caller, (), detail, result, once=once, kind=kind)

    def refused(self, caller: tuple[str, str], detail: str) -> None:
        """Record that an account asked for what it may not do (A.5.3.11)."""
        event, kind = AuditEvent.SECURITY_ALERT, EventType.RESTRICTED_FUNCTION
        self.record(event, AuditAction.EXECUTE, caller, (), detail, Result.MINOR_FAILURE, once=True, kind=kind)

    def guessed(self, sentence: str, caller: tuple[str, str]) -> None:
        """Record, and log, that the password or the second factor of an account is guessed (A.5.3.11)."""
        event, kind = AuditEvent.SECURITY_ALERT, EventType.AUTHENTICATION_DECISION
        if self.record(event, AuditAction.EXECUTE, caller, (), sentence, Result.SERIOUS_FAILURE, once=True, kind=kind):
            log.warning("passwords_guessed", account=caller[0], address=caller[1], detail=sentence)

    def _is_repeated(self, key: str) -> bool:
        with self._lock:
            now, recorded_at = monotonic(), self._recorded.get(key)
            if recorded_at is not None and now - recorded_at < REPEAT_SECONDS:
                return True
            remember(self._recorded, key, now, MAX_REMEMBERED)
            return False


class AccountAuditTrail:
    """Records the actions of one account; an object is ``{"study_instance_uid": ..., "patient_id": ...}``."""

    def __init__(self, trail: AuditTrail, account: str, address: str) -> None:
        self._trail, self._who = trail, (account, address)

    def queried(self, detail: str, count: int | None = None) -> None:
        """Record a search; `detail` has the search keys (A.5.3.10), `count` is the number of results that were sent."""
        detail = detail if count is None else f"{detail}; {count} found"
        self._trail.record(AuditEvent.QUERY, AuditAction.EXECUTE, self._who, (), detail, once=True)

    def accessed(self, objects: Sequence[Mapping[str, Any]], detail: str = "") -> None:
        """Record access to studies (A.5.3.4)."""
        self._trail.record(AuditEvent.INSTANCES_ACCESSED, AuditAction.READ, self._who, objects, detail, once=True)

    def transferred(self, objects: Sequence[Mapping[str, Any]], detail: str = "") -> None:
        """Record a download of instances or volumes of studies (A.5.3.7)."""
        self._trail.record(AuditEvent.INSTANCES_TRANSFERRED, AuditAction.READ, self._who, objects, detail, once=True)

    def changed(
        self,
        event: AuditEvent,
        action: AuditAction,
        objects: Sequence[Mapping[str, Any]],
        detail: str,
        result: Result = Result.SUCCESS,
    ) -> None:
        """Record a change, even if it repeats an earlier one."""
        self._trail.record(event, action, self._who, objects, detail, result)

    def configured(self, action: AuditAction, detail: str) -> None:
        """Record a change of how the node works, or a test of it (A.5.3.11)."""
        event, kind = AuditEvent.SECURITY_ALERT, EventType.SOFTWARE_CONFIGURATION
        self._trail.record(event, action, self._who, (), detail, kind=kind)
