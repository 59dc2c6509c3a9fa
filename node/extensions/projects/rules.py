"""Which series the rules of projects select: applied to what is new at once, and to all from time to time.

Until a rule was applied to a series, members do not see it. A series that a rule selects no more, such as one that lost
a label, leaves the project in the same way.
"""

from __future__ import annotations

from time import monotonic

import structlog

from node.background import BackgroundService
from node.index.database.index import Index
from node.index.nouns.projects import ProjectRepository, ProjectRule, ReadProjects
from node.selector import WrongSelector, compile_selector

log = structlog.get_logger()

STEP_SECONDS = 2.0
"""From a commit to the look at what is new: many commits share one."""

ALL_SECONDS = 3600.0
"""Between two applications to all series, beside those after changes of rules and labels: some facts, such as days
since the study, change by themselves."""

MAX_NEW = 1000
"""Events that are looked at in one step."""


def apply_rules(index: Index, series: set[int] | None = None) -> int:
    """Apply all rules to series by their row ids, None: to all; return how many came into or left projects.

    A rule that does not compile, such as a rule of a later version, selects nothing and does not stop other rules.
    """
    projects = index.repository(ProjectRepository)
    with index.reading(wait=False) as view:
        rules = view.repository(ReadProjects).rules()
    return sum(_apply(index, projects, rule, series) for rule in rules)


def _apply(index: Index, projects: ProjectRepository, rule: ProjectRule, series: set[int] | None) -> int:
    try:
        selector = compile_selector(rule.rule)
    except WrongSelector:  # whose message has the rule, and that may name patients
        with index.reading(wait=False) as view:
            there = view.repository(ReadProjects).series_of(rule.project_id)
        if there or series is None:
            log.error("rule_of_project_wrong", project=rule.project, count=len(there))
        return projects.apply_rule(rule, there, set())
    with index.reading(wait=False) as view:
        if series is None:
            facts = {one.id: one.facts for one in view.facts.all(selector.fields)}
            looked_at = view.repository(ReadProjects).series_of(rule.project_id) | facts.keys()
        else:
            facts, looked_at = view.facts.of_rows(selector.fields, series), series
    selected = {id for id, of_series in facts.items() if selector.matches(of_series)}
    return projects.apply_rule(rule, looked_at, selected)


class Rules(BackgroundService):
    """Applies the rules of projects while a node runs."""

    def __init__(self, index: Index) -> None:
        super().__init__("rules of projects")
        self._index = index
        self._last_event: int | None = None
        self._last_series = 0
        self._labels: tuple[object, ...] | None = None
        self._all_at = 0.0
        index.commit_listeners.append(self._follow)

    def _follow(self) -> None:
        self.wake(STEP_SECONDS)

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
                series = projects.rows_of({(one["study_instance_uid"], one["series_instance_uid"]) for one in events})
                series |= projects.series_since(self._last_series)
            self._last_series = projects.newest_series()
        if series is None or series:
            apply_rules(self._index, series)
        if series is None:
            self._all_at = monotonic() + ALL_SECONDS
        self._last_event, self._labels = last, labels
        return 0 if more else max(self._all_at - monotonic(), 0)
