"""Create, change and remove accounts and tokens; the audit log records who did it (PS3.15 A.5.3.11)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from node.audit.audit_log import APPLICATION, Action, Audit, AuditEvent, AuditMessage, Participant, Result
from node.errors import UsageError, VoxelnodeError
from node.index.nouns.accounts import AccountRepository, Role
from node.web.credentials import require_name

MAX_LABEL_CHARACTERS = 64


class AccountAdministration:
    """Changes to the accounts of one root, on behalf of commands. Secrets are passed only as hashes.

    Raises
    ------
    UsageError
        Raised by every method: a name, role or label is invalid or unknown.
    AuditFailed
        Raised by every method: the audit log cannot be written; nothing was changed.
    """

    def __init__(
        self,
        accounts: AccountRepository,
        audit: Audit,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._accounts, self._audit, self._now = accounts, audit, now

    def set_account(self, name: str, role: str | None, password_hash: str | None, who: str) -> Mapping[str, Any]:
        """Create an account, or change its password; without `role` it keeps its role, and a new one gets ``read``."""
        require_name(name)
        known = self._accounts.by_name(name)
        new_role = _role(role) if role is not None else known.role if known is not None else Role.READ

        def change() -> dict[str, Any]:
            is_new = self._accounts.set(name, new_role, password_hash, self._now())
            return {"new": is_new, "role": new_role.name.lower()}

        return self._change(f"account {name}: role {new_role.name.lower()}, new password", who, change)

    def set_role(self, name: str, role: str, who: str) -> Mapping[str, Any]:
        """Change the role of an account."""
        new_role = _role(role)
        return self._change(f"account {name}: role {role}", who, lambda: self._accounts.set_role(name, new_role))

    def remove_account(self, name: str, who: str) -> Mapping[str, Any]:
        """Remove an account with its tokens, and end its sessions."""
        return self._change(f"account {name}: removed", who, lambda: self._accounts.remove(name))

    def add_token(self, name: str, label: str, sha256: str, expires_at: str | None, who: str) -> Mapping[str, Any]:
        """Add a token to an account; `expires_at` is an ISO 8601 time, or None for a token that never expires."""
        if not label.isprintable() or not 1 <= len(label) <= MAX_LABEL_CHARACTERS:
            raise UsageError(f"a label has 1 to {MAX_LABEL_CHARACTERS} printable characters")
        end = dt.datetime.fromisoformat(expires_at) if expires_at is not None else None

        def change() -> None:
            self._accounts.add_token(name, label, sha256, end, self._now())

        return self._change(f"account {name}: token {label!r} added", who, change)

    def remove_token(self, name: str, label: str, who: str) -> Mapping[str, Any]:
        """Remove a token."""
        return self._change(
            f"account {name}: token {label!r} removed", who, lambda: self._accounts.remove_token(name, label)
        )

    def _change(self, order: str, who: str, change: Callable[[], Mapping[str, Any] | None]) -> Mapping[str, Any]:
        """Make a change, with an audit line before and after it."""
        self._audit.require(_message(Result.SUCCESS, f"ordered: {order}", who))
        try:
            result = change()
        except VoxelnodeError:
            self._audit.note(_message(Result.SERIOUS_FAILURE, f"not done: {order}", who))
            raise
        self._audit.note(_message(Result.SUCCESS, f"done: {order}", who))
        return result or {}


def _message(result: Result, detail: str, who: str) -> AuditMessage:
    participants = [Participant(who, APPLICATION, is_requestor=True)]
    return AuditMessage(AuditEvent.SECURITY_ALERT, Action.UPDATE, result, participants, detail=detail)


def _role(role: str) -> Role:
    try:
        return Role[role.upper()]
    except KeyError:
        known = ", ".join(known.name.lower() for known in Role)
        raise UsageError(f"unknown role {role!r}; known: {known}") from None
