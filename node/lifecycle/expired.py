"""Which studies are due for deletion by the rules of retention, without SQLAlchemy."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from node.index.look.studies import CHUNK_STUDIES
from node.index.rows.records import StoredStudy
from node.selector import compile_selector
from node.settings.core import RetentionSettings

if TYPE_CHECKING:
    from node.index.look.views import ReadIndex
    from node.index.rows.view_rows import Row
    from node.settings.model import Settings

FEW = 3
"""Studies that a pass may always delete, however few there are."""

SPARED = {
    "keep_where": "[retention] keep_where",
    "only_converted": "[retention] only_converted",
    "owed": "messages that wait for hooks or routes",
}
"""What keeps studies that are due otherwise, in words."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A study due for deletion, and the rule that applies."""

    study: StoredStudy
    rule: str


@dataclass(frozen=True, slots=True)
class Due:
    """The studies that the next pass would delete, if it is no dry run, and the number of all studies.

    `spared`: how many are as old, or too many, and kept, by what keeps them: see `SPARED`.
    """

    expired: list[Expired]
    studies: int
    spared: Counter[str]

    def is_unusual(self, rules: RetentionSettings, approved: int) -> bool:
        """Return whether a pass waits for a person, who has agreed to `approved` studies, before it deletes these."""
        return len(self.expired) > max(FEW, int(rules.maximum_share * self.studies), approved)


def due_now(index: ReadIndex, rules: RetentionSettings, now: dt.datetime) -> Due:
    """Return what a pass would delete now."""
    studies = _by_age(index, rules) if rules.is_active else ()
    owed = index.studies.owed() if rules.is_active else ()
    return expired_studies(studies, index.studies.count(), rules, now, owed)


def to_come(index: ReadIndex, settings: Settings, study_instance_uid: str) -> list[Row]:
    """Return what happens to a study by itself, and when: messages once it is quiet, and its end by retention.

    What keeps it from retention may end before that; if no rule sets a time, retention is not in the list.
    """
    rules = settings.retention
    found: list[Row] = list(index.quiet_to_come("route", settings, study_instance_uid))
    found += index.quiet_to_come("hook", settings, study_instance_uid)
    study = index.studies.stored(study_instance_uid, with_senders=rules.is_by_sender)
    if study is None or not isinstance(days := _days(study, rules), float):
        return found
    is_kept = rules.keep_where is not None and index.facts.studies_with(
        compile_selector(rules.keep_where), [study_instance_uid]
    )
    due_at = study.last_received_at + dt.timedelta(days=days)
    reason = f"retention deletes it: older than {days:g} days"
    return found if is_kept else [*found, {"event": "retention", "due_at": due_at, "reason": reason}]


def _by_age(index: ReadIndex, rules: RetentionSettings) -> Iterator[StoredStudy]:
    """Yield the studies, the oldest first; a study is kept if ``keep_where`` selects one of its series."""
    by_age = index.studies.by_age(with_senders=rules.is_by_sender)
    if rules.keep_where is None:
        yield from by_age
        return
    selector = compile_selector(rules.keep_where)
    while some := list(islice(by_age, CHUNK_STUDIES)):
        kept = index.facts.studies_with(selector, [one.study_instance_uid for one in some])
        yield from (replace(one, is_kept=one.study_instance_uid in kept) for one in some)


def expired_studies(
    studies: Iterable[StoredStudy], count: int, rules: RetentionSettings, now: dt.datetime, owed: Container[str] = ()
) -> Due:
    """Return the studies to be deleted by the rules, oldest first.

    `studies`: in the order in which they last received an instance; no more are read than are old enough. `count`:
    number of all studies. `owed`: studies of which a message to a hook or a destination of a route waits; these stay
    until it was delivered or given up.

    A study from several senders is kept for the longest of their times. A study kept without limit, or that somebody
    brought back, counts towards ``maximum_studies`` but is never deleted for it. With ``only_converted``, a study is
    kept while any of its series waits, was refused or failed.
    """
    due = Due([], count, Counter())
    expired = due.expired
    surplus = count - rules.maximum_studies if rules.maximum_studies is not None else 0
    ages = [days for days in (rules.days, *rules.days_by_calling_ae_title.values()) if isinstance(days, float)]
    youngest = now - dt.timedelta(days=min(ages)) if ages else None
    for study in studies:
        is_old_for_some = youngest is not None and study.last_received_at < youngest
        if not is_old_for_some and len(expired) >= surplus:
            if study.is_back:  # it is not where its age would place it
                continue
            break
        days = _days(study, rules)
        if days == "never":
            continue
        if days is not None and study.last_received_at < now - dt.timedelta(days=days):
            rule = f"older than {days:g} days"
        elif len(expired) < surplus and not study.is_back:
            rule = f"more than {rules.maximum_studies} studies"
        else:
            continue
        if study.is_kept:
            due.spared["keep_where"] += 1
        elif rules.only_converted and not study.is_finished:
            due.spared["only_converted"] += 1
        elif study.study_instance_uid in owed:
            due.spared["owed"] += 1
        else:
            expired.append(Expired(study, rule))
    return due


def _days(study: StoredStudy, rules: RetentionSettings) -> float | Literal["never"] | None:
    """Return the longest time that the rules give to a sender of the study, or None if no age rule applies."""
    table = {title.strip(): days for title, days in rules.days_by_calling_ae_title.items()}
    wanted = [table.get(title.strip(), rules.days) for title in study.calling_ae_titles or {""}]
    if "never" in wanted:
        return "never"
    ages = [days for days in wanted if isinstance(days, float)]
    return max(ages) if len(ages) == len(wanted) else None
