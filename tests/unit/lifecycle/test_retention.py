"""Which studies the rules let go."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import ValidationError

from node.index.nouns.records import StoredStudy
from node.lifecycle.retention import expired_studies
from node.settings.model import RetentionSettings

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


def study(name: str, days_old: float, *titles: str, settled: bool = True) -> StoredStudy:
    return StoredStudy(name, NOW - dt.timedelta(days=days_old), settled, frozenset(titles or {"CT1"}))


def gone(studies: list[StoredStudy], **rules: Any) -> list[str]:
    ordered = sorted(studies, key=lambda one: one.last_received_at)
    return [one.study.study_instance_uid for one in expired_studies(ordered, RetentionSettings(**rules), NOW)]


def test_without_rules_nothing_ever_goes() -> None:
    assert not RetentionSettings().is_active
    assert gone([study("old", 36000)]) == []


def test_a_study_goes_when_it_has_not_grown_for_so_many_days() -> None:
    assert gone([study("old", 31), study("young", 29)], days=30) == ["old"]


def test_a_study_that_is_not_converted_stays_unless_that_is_asked_for() -> None:
    studies = [study("refused", 31, settled=False)]
    assert gone(studies, days=30) == []
    assert gone(studies, days=30, only_converted=False) == ["refused"]


def test_a_sender_has_days_of_its_own() -> None:
    studies = [study("a", 8, "SHORT"), study("b", 8, "LONG"), study("c", 8, "OTHER")]
    assert gone(studies, days=30, days_by_calling_ae_title={"SHORT": 7}) == ["a"]
    assert gone(studies, days=7, days_by_calling_ae_title={"LONG": 30}) == ["a", "c"]
    assert gone(studies, days_by_calling_ae_title={"SHORT ": 7}) == ["a"]


def test_a_study_of_several_senders_is_kept_as_long_as_the_most_patient_of_them_wants() -> None:
    studies = [study("both", 20, "SHORT", "LONG")]
    assert gone(studies, days_by_calling_ae_title={"SHORT": 7, "LONG": 30}) == []
    assert gone(studies, days_by_calling_ae_title={"SHORT": 7, "LONG": 19}) == ["both"]
    assert gone(studies, days_by_calling_ae_title={"SHORT": 7}) == []
    assert gone(studies, days_by_calling_ae_title={"SHORT": 7, "LONG": "never"}) == []


def test_beyond_a_number_of_studies_the_oldest_go() -> None:
    studies = [study(f"s{age}", age) for age in (5, 4, 3, 2, 1)]
    assert gone(studies, maximum_studies=3) == ["s5", "s4"]
    assert gone(studies, maximum_studies=5) == []


def test_the_number_counts_what_goes_for_its_age() -> None:
    studies = [study(f"s{age}", age) for age in (50, 40, 3, 2, 1)]
    assert gone(studies, maximum_studies=3, days=30) == ["s50", "s40"]
    assert gone(studies, maximum_studies=2, days=30) == ["s50", "s40", "s3"]


def test_what_is_kept_for_ever_counts_but_never_goes() -> None:
    studies = [study("kept", 5, "RESEARCH"), study("b", 4), study("c", 3)]
    assert gone(studies, maximum_studies=2, days_by_calling_ae_title={"RESEARCH": "never"}) == ["b"]


def test_a_clock_that_is_set_back_lets_nothing_go() -> None:
    assert gone([study("tomorrow", -1)], days=1) == []


@pytest.mark.parametrize("days", [0, -1, "for ever"])
def test_days_that_make_no_sense_are_refused(days: Any) -> None:
    with pytest.raises(ValidationError):
        RetentionSettings(days_by_calling_ae_title={"CT1": days})
