"""Which studies are due for deletion by the rules of retention, without SQLAlchemy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from node.index.nouns.facts import SeriesFacts
from node.index.nouns.records import StoredStudy
from node.selector import compile_selector
from node.settings.series import RetentionSettings

FEW = 3
"""Studies that a pass may always delete, however few there are."""


def unasked(rules: RetentionSettings, studies: int, approved: int) -> int:
    """Return how many of all studies a pass deletes at most before a person confirms it.

    `approved`: how many a person has agreed to.
    """
    return max(FEW, int(rules.maximum_share * studies), approved)


@dataclass(frozen=True, slots=True)
class Expired:
    """A study due for deletion, and the rule that applies."""

    study: StoredStudy
    rule: str


def kept_studies(facts: SeriesFacts, rules: RetentionSettings) -> frozenset[str]:
    """Return the studies with a series that ``keep_where`` selects."""
    if rules.keep_where is None:
        return frozenset()
    return frozenset(study for study, _ in facts.selected(compile_selector(rules.keep_where)))


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
        if days == "never" or study.study_instance_uid in kept or (rules.only_converted and not study.is_finished):
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
