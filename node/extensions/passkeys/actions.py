"""Actions on the security keys of accounts, each with a line in the audit log before and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from node.audit.audit_log import APPLICATION, Action, AuditEvent, AuditMessage, EventType, Participant, Result
from node.errors import UsageError
from node.extensions.passkeys.keys import KeyRepository, NewKey
from node.hookspecs import Action as RootAction
from node.hookspecs import OpenedRoot

MAX_LABEL_CHARACTERS = 64


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    keys = root.ingest.index.repository(KeyRepository)

    def change(order: str, who: str, make: Callable[[], Any]) -> Any:
        participants = [Participant(who, APPLICATION, is_requestor=True)]
        event, kind = AuditEvent.SECURITY_ALERT, EventType.USER_SECURITY_CHANGED
        message = AuditMessage(event, Action.UPDATE, Result.SUCCESS, participants, detail=order, type=kind)
        return root.audit.change(message, make)

    def add(
        name: str, label: str, key: Mapping[str, Any], codes: Sequence[str], who: str, *, must_be_first: bool
    ) -> Mapping[str, Any]:
        require_label(label)
        new, now = NewKey(**key), root.ingest.now()
        order = f"account {name}: security key {label!r} for {new.rp_id} added"
        added = change(order, who, lambda: keys.add(name, label, new, codes, now, must_be_first=must_be_first))
        return {"codes_taken": added}

    def remove(name: str, label: str, who: str, *, may_be_last: bool) -> Mapping[str, Any]:
        order = f"account {name}: security key {label!r} removed"
        change(order, who, lambda: keys.remove(name, label, may_be_last=may_be_last))
        return {"removed": label}

    return {"add-security-key": add, "remove-security-key": remove}


def require_label(label: str) -> str:
    """Return `label` if a security key can have it, else raise UsageError."""
    if not label.isprintable() or not 1 <= len(label) <= MAX_LABEL_CHARACTERS:
        raise UsageError(f"the name of a security key has 1 to {MAX_LABEL_CHARACTERS} printable characters")
    return label
