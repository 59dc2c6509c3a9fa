"""Which series the rules of projects select: applied to what is new at once, and to all from time to time.

Until a rule was applied to a series, members do not see it. A series that a rule selects no more, such as one that lost
a label, leaves the project in the same way.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from time import monotonic
from typing import Any

import structlog

from node.association.added import OpenedRoot
from node.audit.audit_log import AuditAction, AuditEvent, AuditMessage, EventType, Made
from node.errors import UsageError
from node.extensions.projects.listed import ProjectRule, ProjectViews
from node.extensions.projects.rows import RULES, ProjectRepository, RuleChange
from node.hookspecs import Action as RootAction
from node.index.database import Index
from node.index.rows.repositories import Row
from node.index.rows.scope import PROJECT_ROLES
from node.index.rules.people.accounts import Content
from node.index.work_loop import IndexFollower
from node.selector import Selector, WrongSelector, compile_selector

log = structlog.get_logger()

STEP_SECONDS = 2.0
"""From a commit to the look at what is new: many commits share one."""

ALL_SECONDS = 3600.0
"""Between two applications to all series, beside those after changes of rules and labels: some facts, such as days
since the study, change by themselves."""

MAX_NEW = 1000
"""Events that are looked at in one step."""

CHUNK_SERIES = 2000
"""Series that are read at a time, and whose changes are one commit; no view stays open for longer."""


def apply_rules(index: Index, series: set[int] | None = None) -> int:
    """Apply all rules to series by their row ids, None: to all; return how many came into or left projects.

    The facts of a series are read once for all rules. A rule that does not compile, such as a rule of a later version,
    selects nothing and does not stop other rules.
    """
    projects = index.repository(ProjectRepository)
    with index.reading(wait=False) as view:
        rules = view.views(ProjectViews).rules()
        wanted = sorted(view.views(ProjectViews).series_since(0) if series is None else series)
    selectors = {rule.project_id: _selector(rule, series is None) for rule in rules}
    fields = frozenset[str]().union(*(one.fields for one in selectors.values() if one is not None))
    changed = 0
    for at in range(0, len(wanted), CHUNK_SERIES):
        with index.reading(wait=False) as view:
            facts = view.facts.of_rows(fields, wanted[at : at + CHUNK_SERIES])
            there = view.views(ProjectViews).by_rules(facts)
        changes = []
        for rule in rules:
            selector, before = selectors[rule.project_id], there.get(rule.project_id, set())
            selected = {id for id, of_series in facts.items() if selector.matches(of_series)} if selector else set()
            if selected != before:
                changes.append(RuleChange(rule, selected - before, before - selected))
        if changes:
            changed += projects.change_by_rules(changes)
    return changed


_compiled = lru_cache(maxsize=4096)(compile_selector)


def _selector(rule: ProjectRule, tell: bool) -> Selector | None:
    try:
        return _compiled(rule.rule)
    except WrongSelector:  # whose message has the rule, and that may name patients
        if tell:
            log.error("rule_of_project_wrong", project=rule.project)
        return None


class ProjectRules(IndexFollower):
    """Applies the rules of projects while a node runs."""

    def __init__(self, index: Index) -> None:
        super().__init__("rules of projects", index, STEP_SECONDS)
        self._projects = index.repository(ProjectRepository)
        self._last_event: int | None = None
        self._last_series = 0, ""
        self._labels: tuple[object, ...] | None = None
        self._all_at = 0.0

    def step(self) -> float | None:
        """Apply the rules to series with events that are new, or to all; return the seconds until all are due.

        Commits wake it; without rules it sleeps until then.
        """
        has_rules = self._projects.has_rules()
        self.notes = () if has_rules else (RULES,)
        if not has_rules:
            self._last_event = None
            return None
        with self._index.reading(wait=False, following=True) as view:
            projects = view.views(ProjectViews)
            labels = projects.labels_state()
            if self._last_event is None or labels != self._labels or monotonic() > self._all_at:
                last, series, more = view.events.newest(), None, False
            else:
                events = view.events.since(self._last_event, MAX_NEW)
                last, more = events[-1]["id"] if events else self._last_event, len(events) == MAX_NEW
                series = projects.series_behind(self._last_series)
                if series is not None:
                    series |= projects.rows_of({_changed_by(one) for one in events})
            self._last_series = projects.newest_series()
        if series is None or series:
            apply_rules(self._index, series)
        if series is None:
            self._all_at = monotonic() + ALL_SECONDS
        self._last_event, self._labels = last, labels
        return 0 if more else max(self._all_at - monotonic(), 0)


def _changed_by(event: Row) -> tuple[str | None, str | None]:
    """Return the UIDs of study and series of an event; a series that is gone changes the others of its study."""
    return event["study_instance_uid"], None if event["kind"] == "deleted" else event["series_instance_uid"]


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
