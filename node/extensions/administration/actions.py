"""Changes to accounts, by commands and pages, and the test of a hook."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from node.association.added import OpenedRoot
from node.audit.audit_log import Audit, AuditAction, AuditEvent, AuditMessage, EventType, Result
from node.errors import UsageError
from node.extensions.administration.names import require_name, require_routes
from node.hookspecs import Action
from node.index.rules.people.accounts import AccountRepository, Role
from node.notify.channel import NotDelivered, delivered_test
from node.notify.message import message_of_first
from node.notify.notifier import export_line


def actions(root: OpenedRoot) -> Mapping[str, Action]:
    """Return the actions by name."""
    accounts = AccountAdministration(root.ingest.index.accounts, root.audit)
    return {
        "set-account": accounts.set_account,
        "set-role": accounts.set_role,
        "remove-account": accounts.remove_account,
        "add-token": accounts.add_token,
        "remove-token": accounts.remove_token,
        "end-sessions": accounts.end_sessions,
        "remove-factor": accounts.remove_factor,
        "test-hook": partial(test_hook, root),
    }


MAX_LABEL_CHARACTERS = 64


class AccountAdministration:
    """Changes to the accounts of one root, on behalf of commands and pages. Secrets are passed only as hashes.

    Every method raises UsageError if a name, role or label is invalid or unknown, and AuditFailed if the audit log
    cannot be written; nothing was changed then.
    """

    def __init__(self, accounts: AccountRepository, audit: Audit) -> None:
        self._accounts, self._audit = accounts, audit

    def set_account(self, name: str, role: str | None, password_hash: str | None, who: str) -> Mapping[str, Any]:
        """Create an account, or change its password; without `role` it keeps its role, and a new one gets ``read``."""
        require_name(name)
        known = self._accounts.by_name(name)
        new_role = _role(role) if role is not None else known.role if known is not None else Role.READ

        def change() -> dict[str, Any]:
            is_new = self._accounts.set(name, new_role, password_hash, dt.datetime.now(dt.UTC))
            return {"new": is_new, "role": new_role.name.lower()}

        order = f"account {name}: role {new_role.name.lower()}, new password"
        kind = EventType.ROLES_CHANGED if role is not None else EventType.USER_SECURITY_CHANGED
        return self._change(order, who, change, kind)

    def set_role(self, name: str, role: str, who: str) -> Mapping[str, Any]:
        """Change the role of an account."""
        new_role = _role(role)
        order = f"account {name}: role {role}"
        return self._change(order, who, lambda: self._accounts.set_role(name, new_role), EventType.ROLES_CHANGED)

    def remove_account(self, name: str, who: str) -> Mapping[str, Any]:
        """Remove an account with its tokens, and end its sessions."""
        return self._change(f"account {name}: removed", who, lambda: self._accounts.remove(name))

    def add_token(
        self,
        name: str,
        label: str,
        sha256: str,
        expires_at: str | None,
        who: str,
        role: str | None = None,
        routes: Sequence[str] = (),
        project: str | None = None,
    ) -> Mapping[str, Any]:
        """Add a token to an account.

        `expires_at` is an ISO 8601 time, or None for a token that never expires; `role` is at most that of the account,
        and None for that; `routes` are those of `require_routes`, none for all; `project` is the only one whose
        series it shows, None for those that the account sees.
        """
        if not label.isprintable() or not 1 <= len(label) <= MAX_LABEL_CHARACTERS:
            raise UsageError(f"a label has 1 to {MAX_LABEL_CHARACTERS} printable characters")
        end = dt.datetime.fromisoformat(expires_at) if expires_at is not None else None

        at_most, of_routes = _role(role) if role is not None else None, require_routes(routes)

        def change() -> None:
            limits: dict[str, Any] = {"role": at_most, "routes": of_routes, "project": project}
            self._accounts.add_token(name, label, sha256, end, dt.datetime.now(dt.UTC), **limits)

        scope = f", role {role or 'of the account'}, for {', '.join(of_routes) or 'all routes'}"
        scope += f", in project {project[:64]}" if project is not None else ""
        return self._change(f"account {name}: token {label!r} added{scope}", who, change)

    def remove_token(self, name: str, label: str, who: str) -> Mapping[str, Any]:
        """Remove a token."""
        return self._change(
            f"account {name}: token {label!r} removed", who, lambda: self._accounts.remove_token(name, label)
        )

    def end_sessions(self, name: str, who: str, session: int | None = None) -> Mapping[str, Any]:
        """End a session of an account, or all: their browsers sign in again."""
        if self._accounts.by_name(name) is None:
            raise UsageError(f"there is no account {name!r}: `voxelnode account list` lists accounts")
        what = f"session {session}" if session is not None else "all sessions"

        def change() -> dict[str, Any]:
            return {"ended": self._accounts.end_sessions(name, session)}

        return self._change(f"account {name}: {what} ended", who, change)

    def remove_factor(self, name: str, who: str) -> Mapping[str, Any]:
        """Remove the second factor of an account, such as of a lost telephone; end its sessions."""
        return self._change(f"account {name}: second factor removed", who, lambda: self._accounts.remove_factor(name))

    def _change(
        self,
        order: str,
        who: str,
        change: Callable[[], Mapping[str, Any] | None],
        kind: EventType = EventType.USER_SECURITY_CHANGED,
    ) -> Mapping[str, Any]:
        """Make a change, with an audit line before and after it."""
        message = AuditMessage.by(who, AuditEvent.SECURITY_ALERT, AuditAction.UPDATE, order, kind=kind)
        return self._audit.change(message, change) or {}


def _role(role: str) -> Role:
    try:
        return Role[role.upper()]
    except KeyError:
        known = ", ".join(known.name.lower() for known in Role)
        raise UsageError(f"unknown role {role!r}; known: {known}") from None


TESTED_SERIES = 100
"""Newest series, of which a test takes the first that has what the event needs."""

TEST_SECONDS = 30.0
"""Longest attempt of a test of a hook that the pages have written: somebody waits for it."""


def test_hook(root: OpenedRoot, name: str, who: str) -> Mapping[str, Any]:
    """Deliver a test message, and tell what became of it."""
    settings = root.settings
    if settings.loaded_from.is_of_pages(f"hooks.{name}"):
        seconds = min(TEST_SECONDS, settings.hooks[name].timeout_seconds)
        quick = settings.hooks[name].model_copy(update={"timeout_seconds": seconds})
        settings = settings.model_copy(update={"hooks": {**settings.hooks, name: quick}})
    hook = settings.hooks[name]
    with root.ingest.index.reading() as index:
        newest = index.series.newest(TESTED_SERIES)
        message = message_of_first(index, hook, hook.on[0], settings.dicom.ae_title, newest)
    if message is None:
        raise UsageError(f"there is no series yet that has what a message of {hook.on[0]} needs")
    event, kind = AuditEvent.SECURITY_ALERT, EventType.SOFTWARE_CONFIGURATION
    detail = f"hook {name}: test message{f' to {hook.host}' if hook.host else ''}"
    root.audit.note(AuditMessage.by(who, event, AuditAction.EXECUTE, detail, kind=kind))
    reason = None
    try:
        with delivered_test(settings, name, message):  # its results are thrown away
            pass
    except NotDelivered as error:
        reason = str(error)
    result = Result.SUCCESS if reason is None else Result.MINOR_FAILURE
    line = export_line(name, hook, message, settings.dicom.ae_title, result)
    if line is not None:
        root.audit.note(line)
    return {"hook": name, "accepted": reason is None, "reason": reason, "event": message.event, "id": message.id}
