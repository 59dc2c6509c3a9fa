"""What becomes of an instance that was received: every case of what is there, of its file, and of the policy."""

import datetime as dt
from itertools import product

import pytest

from node.index.rows.records import Flaw, ReceivedPolicy, StoredFile
from node.index.rules.intake.disposition import Applied, Aside, First, New, Replaces, Restores, Same, disposition

POLICIES: tuple[ReceivedPolicy, ...] = ("never", "keep_both", "replace", "accept")
GONE = (Flaw.MISSING, Flaw.ASIDE, Flaw.DAMAGED)
UNKNOWN = (None, Flaw.AWAY, Flaw.UNREADABLE)


def received(sha256: str = "same", key: str = "second") -> StoredFile:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return StoredFile(key, "aside", 1, sha256, 0, "1.2.840.10008.1.2", "dicom", "CT", "", "", now)


def first(*, missing: bool = False, of_series: bool = False, had_digest: bool = False) -> First:
    return First("same", "first", 1, missing, is_of_series=of_series, had_digest=had_digest)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_instance_that_is_not_there_is_new_and_one_that_was_applied_before_is_left(policy: ReceivedPolicy) -> None:
    assert disposition(received(), None, None, policy) == New()
    for flaw in (None, *Flaw):
        assert disposition(received("other", "first"), first(of_series=True), flaw, policy) == Applied()


@pytest.mark.parametrize(("policy", "of_series"), [*product(POLICIES, (False, True))])
def test_the_same_bytes_are_kept_once_and_replace_a_file_with_a_flaw(policy: ReceivedPolicy, of_series: bool) -> None:
    there = first(of_series=of_series)
    assert disposition(received(), there, None, policy) == Same(there)
    missing = first(missing=True, of_series=of_series)
    assert disposition(received(), missing, None, policy) == Same(missing, is_found=True)
    assert disposition(received(), there, Flaw.CUT, policy, is_cut=True) == Same(there)
    for flaw in set(Flaw) - {Flaw.CUT}:
        assert disposition(received(), missing, flaw, policy) == Restores(missing, flaw)


@pytest.mark.parametrize(("policy", "flaw"), [*product(POLICIES, GONE)])
def test_other_bytes_of_the_same_series_replace_a_file_that_is_gone_whatever_the_policy(
    policy: ReceivedPolicy, flaw: Flaw
) -> None:
    there = first(missing=True, of_series=True)
    assert disposition(received("other"), there, flaw, policy) == Restores(there, flaw)
    elsewhere = first(missing=True)
    wanted = Replaces(elsewhere) if policy == "accept" else Aside(elsewhere)
    assert disposition(received("other"), elsewhere, flaw, policy) == wanted


@pytest.mark.parametrize(("policy", "flaw"), [*product(POLICIES, (*UNKNOWN, *GONE))])
def test_the_digest_that_a_row_had_before_comes_back_to_it(policy: ReceivedPolicy, flaw: Flaw | None) -> None:
    there = first(of_series=True, had_digest=True)
    wanted = flaw if flaw in GONE else Flaw.DAMAGED
    assert disposition(received("other"), there, flaw, policy) == Restores(there, wanted)


@pytest.mark.parametrize(
    ("policy", "of_series", "replaces"),
    [
        ("never", True, False),
        ("never", False, False),
        ("keep_both", True, False),
        ("keep_both", False, False),
        ("replace", True, True),
        ("replace", False, False),
        ("accept", True, True),
        ("accept", False, True),
    ],
)
@pytest.mark.parametrize(("flaw", "missing"), [*product(UNKNOWN, (False, True))])
def test_the_policy_decides_between_two_versions_whose_files_may_be_whole(
    policy: ReceivedPolicy, of_series: bool, replaces: bool, flaw: Flaw | None, missing: bool
) -> None:
    there = first(missing=missing, of_series=of_series)
    wanted = Replaces(there) if replaces else Aside(there, is_found=missing and flaw is None)
    assert disposition(received("other"), there, flaw, policy) == wanted


@pytest.mark.parametrize("policy", ["never", "keep_both", "replace"])
def test_of_two_versions_of_a_series_the_one_that_is_not_cut_counts_whatever_the_policy(policy: ReceivedPolicy) -> None:
    there, elsewhere = first(of_series=True), first()
    assert disposition(received("other"), there, Flaw.CUT, policy) == Replaces(there, is_whole=True)
    assert disposition(received("other"), there, None, policy, is_cut=True) == Aside(there)
    assert disposition(received("other"), elsewhere, Flaw.CUT, policy) == Aside(elsewhere)
    for flaw in set(UNKNOWN) - {None}:
        wanted = Replaces(there) if policy == "replace" else Aside(there)
        assert disposition(received("other"), there, flaw, policy, is_cut=True) == wanted
    both = Replaces(there) if policy == "replace" else Aside(there)
    assert disposition(received("other"), there, Flaw.CUT, policy, is_cut=True) == both


def test_a_person_may_decide_for_a_version_that_is_cut() -> None:
    there = first(of_series=True)
    assert disposition(received("other"), there, None, "accept", is_cut=True) == Replaces(there)
    assert disposition(received("other"), there, Flaw.CUT, "accept") == Replaces(there)
