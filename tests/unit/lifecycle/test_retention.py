"""Which studies the rules let go."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from node.index.rows.records import StoredStudy
from node.lifecycle.expired import expired_studies
from node.settings.core import RetentionSettings

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


def study(name: str, days_old: float, *titles: str, settled: bool = True) -> StoredStudy:
    return StoredStudy(name, NOW - dt.timedelta(days=days_old), settled, frozenset(titles or {"CT1"}))


def gone(studies: list[StoredStudy], **rules: Any) -> list[str]:
    ordered = sorted(studies, key=lambda one: one.last_received_at)
    due = expired_studies(ordered, len(ordered), RetentionSettings(**rules), NOW)
    return [one.study.study_instance_uid for one in due.expired]


def of(*titles_and_days: Any) -> dict[str, Any]:
    return {"days_by_calling_ae_title": dict(zip(titles_and_days[::2], titles_and_days[1::2], strict=True))}


def test_without_rules_nothing_ever_goes() -> None:
    assert not RetentionSettings().is_active
    assert gone([study("old", 36000)]) == []


OLD_AND_YOUNG = [study("old", 31), study("young", 29)]
REFUSED = [study("refused", 31, settled=False)]
OF_SENDERS = [study("a", 8, "SHORT"), study("b", 8, "LONG"), study("c", 8, "OTHER")]
OF_BOTH = [study("both", 20, "SHORT", "LONG")]
RECENT = [study(f"s{age}", age) for age in (5, 4, 3, 2, 1)]
OLD_AND_RECENT = [study(f"s{age}", age) for age in (50, 40, 3, 2, 1)]
RESEARCH = [study("kept", 5, "RESEARCH"), study("b", 4), study("c", 3)]


@pytest.mark.parametrize(
    ("studies", "rules", "expected"),
    [
        pytest.param(OLD_AND_YOUNG, {"days": 30}, ["old"], id="has not grown for so many days"),
        pytest.param([study("tomorrow", -1)], {"days": 1}, [], id="the clock was set back"),
        pytest.param(REFUSED, {"days": 30}, [], id="is not converted"),
        pytest.param(REFUSED, {"days": 30, "only_converted": False}, ["refused"], id="need not be converted"),
        pytest.param(OF_SENDERS, {"days": 30, **of("SHORT", 7)}, ["a"], id="a sender has fewer days"),
        pytest.param(OF_SENDERS, {"days": 7, **of("LONG", 30)}, ["a", "c"], id="a sender has more days"),
        pytest.param(OF_SENDERS, of("SHORT ", 7), ["a"], id="a sender alone has days"),
        pytest.param(OF_BOTH, of("SHORT", 7, "LONG", 30), [], id="the most patient of two senders"),
        pytest.param(OF_BOTH, of("SHORT", 7, "LONG", 19), ["both"], id="both senders had their days"),
        pytest.param(OF_BOTH, of("SHORT", 7), [], id="one of two senders has no days"),
        pytest.param(OF_BOTH, of("SHORT", 7, "LONG", "never"), [], id="one of two senders keeps all"),
        pytest.param(RECENT, {"maximum_studies": 3}, ["s5", "s4"], id="beyond a number the oldest"),
        pytest.param(RECENT, {"maximum_studies": 5}, [], id="not beyond the number"),
        pytest.param(OLD_AND_RECENT, {"maximum_studies": 3, "days": 30}, ["s50", "s40"], id="age counts to the number"),
        pytest.param(OLD_AND_RECENT, {"maximum_studies": 2, "days": 30}, ["s50", "s40", "s3"], id="age and number"),
        pytest.param(
            RESEARCH, {"maximum_studies": 2, **of("RESEARCH", "never")}, ["b"], id="kept for ever, but counts"
        ),
    ],
)
def test_what_goes(studies: list[StoredStudy], rules: dict[str, Any], expected: list[str]) -> None:
    assert gone(studies, **rules) == expected


@pytest.mark.parametrize(
    ("rules", "read"),
    [
        ({"days": 30}, ["s50", "s40", "s3"]),
        ({"days": 30, **of("CT1", 45)}, ["s50", "s40", "s3"]),
        ({"maximum_studies": 4}, ["s50", "s40"]),
        ({"maximum_studies": 2, "days": 30}, ["s50", "s40", "s3", "s2"]),
    ],
)
def test_no_more_studies_are_read_than_may_go(rules: dict[str, Any], read: list[str]) -> None:
    studies = iter(OLD_AND_RECENT)
    expired_studies(studies, len(OLD_AND_RECENT), RetentionSettings(**rules), NOW)
    assert [one.study_instance_uid for one in [*OLD_AND_RECENT[: -len(list(studies)) or None]]] == read


def test_what_a_rule_keeps_is_counted_if_it_would_go_otherwise() -> None:
    studies = [study("kept", 40), study("waits", 39, settled=False), study("goes", 38), study("kept, young", 1)]
    studies = [replace(one, is_kept=one.study_instance_uid.startswith("kept")) for one in studies]
    due = expired_studies(studies, 4, RetentionSettings(days=30), NOW)
    assert [one.study.study_instance_uid for one in due.expired] == ["goes"]
    assert due.spared == {"keep_where": 1, "only_converted": 1}


@pytest.mark.parametrize("days", [0, -1, "for ever"])
def test_days_that_make_no_sense_are_refused(days: Any) -> None:
    with pytest.raises(ValidationError):
        RetentionSettings(days_by_calling_ae_title={"CT1": days})
