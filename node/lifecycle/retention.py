"""Delete studies by the retention rules of the configuration. Without rules, nothing is deleted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from node.archive.filesystem import Archive
from node.audit.audit_log import Audit
from node.background import BackgroundService
from node.index.database.index import Index
from node.index.database.reading import ReadIndex
from node.index.nouns.deletions import NotThere
from node.index.nouns.records import StoredStudy
from node.lifecycle.deletion import Order, delete
from node.selector import compile_selector
from node.settings.model import RetentionSettings

log = structlog.get_logger()

PASS_SECONDS = 3600.0
"""Interval between passes over the studies."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A study due for deletion, and the rule that applies."""

    study: StoredStudy
    rule: str


def kept_studies(index: ReadIndex, rules: RetentionSettings) -> frozenset[str]:
    """Return the studies with a series that ``keep_where`` selects."""
    if rules.keep_where is None:
        return frozenset()
    return frozenset(study for study, _ in index.facts.selected(compile_selector(rules.keep_where)))


def expired_studies(
    studies: Sequence[StoredStudy], rules: RetentionSettings, now: dt.datetime, kept: Collection[str] = ()
) -> list[Expired]:
    """Return the studies to be deleted by the rules, oldest first.

    `studies`: all studies, in the order in which they last received an instance. `kept`: studies that are never
    deleted; see `kept_studies`.

    A study from several senders is kept for the longest of their times. A study kept without limit counts towards
    ``maximum_studies`` but is never deleted. With ``only_converted``, a study is kept while any of its series waits,
    was refused or failed.
    """
    expired: list[Expired] = []
    surplus = len(studies) - rules.maximum_studies if rules.maximum_studies is not None else 0
    for study in studies:
        days = _days(study, rules)
        if days == "never" or study.study_instance_uid in kept or (rules.only_converted and not study.settled):
            continue
        if days is not None and study.last_received_at < now - dt.timedelta(days=days):
            expired.append(Expired(study, f"older than {days:g} days"))
        elif len(expired) < surplus:
            expired.append(Expired(study, f"more than {rules.maximum_studies} studies"))
    return expired


def _days(study: StoredStudy, rules: RetentionSettings) -> float | Literal["never"] | None:
    """Return the longest time that the rules give to a sender of the study, or None if no age rule applies."""
    table = {title.strip(): days for title, days in rules.days_by_calling_ae_title.items()}
    wanted = [table.get(title.strip(), rules.days) for title in study.calling_ae_titles or {""}]
    if "never" in wanted:
        return "never"
    ages = [days for days in wanted if isinstance(days, float)]
    return max(ages) if len(ages) == len(wanted) else None


class Retention(BackgroundService):
    """Delete expired studies, at startup and then hourly."""

    turn: str = "retention"

    def __init__(
        self,
        archive: Archive,
        index: Index,
        audit: Audit,
        rules: RetentionSettings,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        super().__init__("retention")
        self._archive, self._index, self._audit, self._rules, self._now = archive, index, audit, rules, now

    def _is_ours(self) -> bool:
        return self._index.turn.has(self.turn)

    def step(self) -> float:
        """Delete expired studies. A deletion that fails ends the step; the next step repeats it."""
        self.run_once()
        return PASS_SECONDS

    def run_once(self) -> int:
        """Delete expired studies, or only log them in a dry run; return how many there were."""
        count = 0
        with self._index.reading() as index:
            kept = kept_studies(index, self._rules)
        for expired in expired_studies(self._index.studies.stored(), self._rules, self._now(), kept):
            if self._stopping.is_set():
                break
            uid = expired.study.study_instance_uid
            if self._rules.dry_run:
                log.info("retention_would_delete", study_instance_uid=uid, reason=expired.rule)
            else:
                self._delete(uid, expired.rule)
            count += 1
        return count

    def _delete(self, study_instance_uid: str, rule: str) -> None:
        order = Order("retention", f"retention: {rule}")
        try:
            plan = self._index.deletions.plan("study", study_instance_uid)
            with self._archive.ballast.dropped():
                delete(self._archive, self._index, self._audit, plan, order, self._now())
        except NotThere:  # deleted by a command meanwhile
            log.info("retention_found_nothing", study_instance_uid=study_instance_uid)
