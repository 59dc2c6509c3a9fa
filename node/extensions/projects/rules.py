"""Which series the rules of projects select: applied to what is new at once, and to all from time to time.

Until a rule was applied to a series, members do not see it. A series that a rule selects no more, such as one that lost
a label, leaves the project in the same way.
"""

from __future__ import annotations

from functools import lru_cache, partial
from time import monotonic

import structlog

from node.extensions.projects.rows import ProjectRepository, ProjectRule, ReadProjects, RuleChange
from node.index.database.index import Index
from node.index.engine.rows import Row
from node.runtime.background import BackgroundService
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
        rules = view.repository(ReadProjects).rules()
        wanted = sorted(view.repository(ReadProjects).series_since(0) if series is None else series)
    selectors = {rule.project_id: _selector(rule, series is None) for rule in rules}
    fields = frozenset[str]().union(*(one.fields for one in selectors.values() if one is not None))
    changed = 0
    for at in range(0, len(wanted), CHUNK_SERIES):
        with index.reading(wait=False) as view:
            facts = view.facts.of_rows(fields, wanted[at : at + CHUNK_SERIES])
            there = view.repository(ReadProjects).by_rules(facts)
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


class ProjectRules(BackgroundService):
    """Applies the rules of projects while a node runs."""

    def __init__(self, index: Index) -> None:
        super().__init__("rules of projects")
        self._index = index
        self._last_event: int | None = None
        self._last_series = 0, ""
        self._labels: tuple[object, ...] | None = None
        self._all_at = 0.0
        index.commit_listeners.append(partial(self.wake, STEP_SECONDS))

    def step(self) -> float | None:
        """Apply the rules to series with events that are new, or to all; return the seconds until all are due.

        Commits wake it; without rules it sleeps until then.
        """
        with self._index.reading(wait=False, following=True) as view:
            projects = view.repository(ReadProjects)
            if not projects.rules():
                self._last_event = None
                return None
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
