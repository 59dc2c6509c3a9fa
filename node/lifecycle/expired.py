"""Which studies are due for deletion by the rules of retention, without SQLAlchemy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from node.index.nouns.records import StoredStudy
from node.index.nouns.views import CHUNK_STUDIES
from node.selector import compile_selector
from node.settings.series import RetentionSettings

if TYPE_CHECKING:
    from node.index.database.look import Look
    from node.index.database.reading import ReadIndex

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


@dataclass(frozen=True, slots=True)
class Due:
    """The studies that the next pass would delete, if it is no dry run, and the number of all studies."""

    expired: list[Expired]
    studies: int


def due_now(index: Look | ReadIndex, rules: RetentionSettings, now: dt.datetime) -> Due:
    """Return what a pass would delete now."""
    count = index.studies.count()
    return Due(expired_studies(_not_kept(index, rules), count, rules, now) if rules.is_active else [], count)


def _not_kept(index: Look | ReadIndex, rules: RetentionSettings) -> Iterator[StoredStudy]:
    """Yield the studies without those of which ``keep_where`` selects a series, the oldest first."""
    by_age = index.studies.by_age(with_senders=rules.is_by_sender)
    if rules.keep_where is None:
        yield from by_age
        return
    selector = compile_selector(rules.keep_where)
    while some := list(islice(by_age, CHUNK_STUDIES)):
        kept = index.facts.studies_with(selector, [one.study_instance_uid for one in some])
        yield from (one for one in some if one.study_instance_uid not in kept)


def expired_studies(
    studies: Iterable[StoredStudy], count: int, rules: RetentionSettings, now: dt.datetime
) -> list[Expired]:
    """Return the studies to be deleted by the rules, oldest first.

    `studies`: those that may be deleted, in the order in which they last received an instance; no more are read than
    are old enough. `count`: number of all studies.

    A study from several senders is kept for the longest of their times. A study kept without limit counts towards
    ``maximum_studies`` but is never deleted. With ``only_converted``, a study is kept while any of its series waits,
    was refused or failed.
    """
    expired: list[Expired] = []
    surplus = count - rules.maximum_studies if rules.maximum_studies is not None else 0
    ages = [days for days in (rules.days, *rules.days_by_calling_ae_title.values()) if isinstance(days, float)]
    youngest = now - dt.timedelta(days=min(ages)) if ages else None
    for study in studies:
        is_old_for_some = youngest is not None and study.last_received_at < youngest
        if not is_old_for_some and len(expired) >= surplus:
            break
        days = _days(study, rules)
        if days == "never" or (rules.only_converted and not study.is_finished):
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
