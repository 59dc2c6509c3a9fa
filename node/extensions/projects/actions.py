"""Actions on projects, each with a line in the audit log before and after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from node.association.added import OpenedRoot
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage, EventType, Made
from node.errors import UsageError
from node.extensions.projects.rows import ProjectRepository
from node.extensions.projects.rules import apply_rules
from node.hookspecs import Action as RootAction
from node.index.engine.scope import PROJECT_ROLES
from node.index.nouns.projects import Content
from node.selector import compile_selector

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MAX_CONTENTS = 1000
"""Studies and series that are put into a project at a time."""

MAX_DESCRIPTION_CHARACTERS = 200
MAX_AE_TITLE_CHARACTERS = 16


def actions(root: OpenedRoot) -> Mapping[str, RootAction]:
    """Return the actions by name."""
    changes = _Changes(root)
    return {
        "set-project": changes.set_project,
        "remove-project": changes.remove_project,
        "set-project-member": changes.set_member,
        "remove-project-member": changes.remove_member,
        "limit-account": changes.limit_account,
        "change-project-contents": changes.change_contents,
    }


class _Changes:
    def __init__(self, root: OpenedRoot) -> None:
        self._index, self._now, self._audit = root.ingest.index, root.ingest.now, root.audit
        self._projects = self._index.repository(ProjectRepository)

    def set_project(
        self,
        name: str,
        who: str,
        description: str | None = None,
        rule: str | None = None,
        called_ae_title: str | None = None,
    ) -> Mapping[str, Any]:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name[:80]!r} cannot be the name of a project: use 1 to 64 letters, digits and . _ -, and begin with "
                "a letter or digit"
            )
        if description is not None and len(description) > MAX_DESCRIPTION_CHARACTERS:
            raise UsageError(f"a description has at most {MAX_DESCRIPTION_CHARACTERS} characters")
        if called_ae_title is not None and len(called_ae_title) > MAX_AE_TITLE_CHARACTERS:
            raise UsageError(f"an AE title has at most {MAX_AE_TITLE_CHARACTERS} characters")
        if rule:
            compile_selector(rule)
        given = {"description": description, "rule": rule, "called_ae_title": called_ae_title}
        is_new = self._change(who, f"project {name} set", lambda: self._projects.set(name, who, self._now(), **given))
        if rule:
            apply_rules(self._index)
        return {"project": name, "new": is_new}

    def remove_project(self, name: str, who: str) -> Mapping[str, Any]:
        self._change(who, f"project {name} removed", lambda: self._projects.remove(name))
        return {"removed": name}

    def set_member(self, name: str, account: str, role: str, who: str, *, may_limit: bool = True) -> Mapping[str, Any]:
        if role not in PROJECT_ROLES:
            raise UsageError(f"{role[:20]!r} is not a role in a project: choose {', '.join(PROJECT_ROLES)}")
        what = f"account {account} has the role {role} in project {name}"
        self._change(
            who,
            what,
            lambda: self._projects.set_member(name, account, role, may_limit=may_limit),
            kind=EventType.ROLES_CHANGED,
        )
        return {"project": name, "account": account, "role": role}

    def remove_member(self, name: str, account: str, who: str) -> Mapping[str, Any]:
        what = f"account {account} is no longer a member of project {name}"
        self._change(who, what, lambda: self._projects.remove_member(name, account), kind=EventType.ROLES_CHANGED)
        return {"project": name, "removed": account}

    def limit_account(self, account: str, who: str, *, is_limited: bool) -> Mapping[str, Any]:
        what = f"account {account} sees {'its projects only' if is_limited else 'the whole node'}"
        self._change(
            who, what, lambda: self._projects.limit(account, is_limited=is_limited), kind=EventType.ROLES_CHANGED
        )
        return {"account": account, "limited": is_limited}

    def change_contents(
        self, name: str, who: str, add: Sequence[Sequence[str]] = (), remove: Sequence[Sequence[str]] = ()
    ) -> Mapping[str, Any]:
        if len(add) + len(remove) > MAX_CONTENTS:
            raise UsageError(f"at most {MAX_CONTENTS} studies and series are put into a project at a time")
        new, gone = [Content(*one) for one in add], [Content(*one) for one in remove]

        def change() -> tuple[int, int]:
            added = self._projects.add(name, new, who, self._now()) if new else 0
            return added, self._projects.take(name, gone) if gone else 0

        def what(added: int, removed: int) -> str:
            return f"{added} put into project {name}, {removed} taken out"

        added, removed = self._change(
            who, what(len(new), len(gone)), change, [*new, *gone], done=lambda numbers: what(*numbers)
        )
        return {"added": added, "removed": removed}

    def _change(
        self,
        who: str,
        what: str,
        make: Callable[[], Made],
        contents: Sequence[Content] = (),
        done: Callable[[Made], str] | None = None,
        kind: EventType = EventType.OBJECT_SECURITY_CHANGED,
    ) -> Made:
        """Make a change, with lines about the studies of `contents`; the last one says what `done` returns."""
        objects = [{"study_instance_uid": study} for study in dict.fromkeys(one.study for one in contents)]
        order = AuditMessage.by(who, AuditEvent.SECURITY_ALERT, AuditAction.UPDATE, what, objects, kind=kind)
        return self._audit.change(order, make, (lambda made: replace(order, detail=done(made))) if done else None)
