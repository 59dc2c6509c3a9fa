"""Make, change and remove accounts and their tokens; the audit log is told who ordered it (PS3.15 A.5.3.11)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from node.audit import APPLICATION, Action, Audit, AuditEvent, Participant, Result
from node.errors import UsageError, VoxelnodeError
from node.index.accounts import Accounts, Role
from node.web.credentials import require_name

LONGEST_LABEL = 64


class Enrolment:
    """The accounts of one root, as commands change them. Secrets arrive as hashes only.

    Raises
    ------
    UsageError
        By each method: a name, a role or a label is wrong, or not there.
    AuditFailed
        Nothing was changed.
    """

    def __init__(
        self, accounts: Accounts, audit: Audit, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    ) -> None:
        self._accounts, self._audit, self._now = accounts, audit, now

    def set_account(self, name: str, role: str | None, password_hash: str | None, who: str) -> Mapping[str, Any]:
        """Make an account, or give one another password; without `role` one keeps its own, and a new one may read."""
        require_name(name)
        known = self._accounts.by_name(name)
        wanted = _role(role) if role is not None else known.role if known is not None else Role.READ

        def change() -> dict[str, Any]:
            is_new = self._accounts.set(name, wanted, password_hash, self._now())
            return {"new": is_new, "role": wanted.name.lower()}

        return self._told(f"account {name}: role {wanted.name.lower()}, another password", who, change)

    def set_role(self, name: str, role: str, who: str) -> Mapping[str, Any]:
        """Let an account do more or less."""
        wanted = _role(role)
        return self._told(f"account {name}: role {role}", who, lambda: self._accounts.set_role(name, wanted))

    def remove_account(self, name: str, who: str) -> Mapping[str, Any]:
        """Take an account away, with its tokens, and log it out everywhere."""
        return self._told(f"account {name}: removed", who, lambda: self._accounts.remove(name))

    def add_token(self, name: str, label: str, sha256: str, expires_at: str | None, who: str) -> Mapping[str, Any]:
        """Keep a token of an account; `expires_at` is a moment in ISO 8601, or None for no end."""
        if not label.isprintable() or not 1 <= len(label) <= LONGEST_LABEL:
            raise UsageError(f"a label has 1 to {LONGEST_LABEL} printable characters")
        end = dt.datetime.fromisoformat(expires_at) if expires_at is not None else None

        def change() -> None:
            self._accounts.add_token(name, label, sha256, end, self._now())

        return self._told(f"account {name}: token {label!r} made", who, change)

    def remove_token(self, name: str, label: str, who: str) -> Mapping[str, Any]:
        """Take a token away."""
        return self._told(
            f"account {name}: token {label!r} removed", who, lambda: self._accounts.remove_token(name, label)
        )

    def _told(self, what: str, who: str, change: Callable[[], Mapping[str, Any] | None]) -> Mapping[str, Any]:
        """Change something between two lines of the audit log."""
        self._tell(Result.SUCCESS, f"ordered: {what}", who)
        try:
            done = change()
        except VoxelnodeError:
            self._tell(Result.SERIOUS_FAILURE, f"not done: {what}", who)
            raise
        self._tell(Result.SUCCESS, f"done: {what}", who)
        return done or {}

    def _tell(self, result: Result, detail: str, who: str) -> None:
        participants = [Participant(who, APPLICATION, is_requestor=True)]
        self._audit.record(AuditEvent.SECURITY_ALERT, Action.UPDATE, result, participants, (), detail, durable=True)


def _role(role: str) -> Role:
    try:
        return Role[role.upper()]
    except KeyError:
        known = ", ".join(each.name.lower() for each in Role)
        raise UsageError(f"{role!r} is no role: it is one of {known}") from None
