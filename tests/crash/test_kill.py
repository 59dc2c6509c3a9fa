"""SIGKILL at every named step and at random moments: what was acknowledged is there, once, and gets converted.

This is the short form of ``python -m tests.crash --cycles 1000 --senders 4``.
"""

from pathlib import Path
from typing import get_args

import pytest

from node.runtime.failpoints import CONVERTING, POINTS, RECEIVING, RECOVERING
from node.settings.core import OverwritePolicy
from tests.crash.harness import AFTER_RELEASE, Run, beside_random_moments
from tests.crash.mutants import MUTANTS

pytestmark = [pytest.mark.timeout(600)]

MOMENTS = (*RECEIVING, *CONVERTING, *RECOVERING, None)
SHORT = (
    "part-written",
    "record-begun",
    "record-synced",
    "rows-committed",
    "journal-freed",
    "volumes-written",
    "claims-released",
    None,
)
"""Those that find out most of the mutants below, and one of a start."""


@pytest.mark.slow
@pytest.mark.parametrize("moments", [SHORT, pytest.param((*MOMENTS, *[None] * 12), marks=pytest.mark.long)], ids=len)
def test_nothing_acknowledged_is_lost_altered_or_indexed_twice_and_all_is_converted(
    tmp_path: Path, moments: tuple[str | None, ...]
) -> None:
    result = Run(tmp_path, senders=2, slices=4, moments=moments).run(len(moments))
    assert result.problems == []
    assert result.cycles == len(moments)
    assert result.acknowledged > 5 * len(moments)
    assert set(RECEIVING) & set(moments) <= result.died_at.keys(), "a named step was never reached"


@pytest.mark.slow
@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("policy", sorted(get_args(OverwritePolicy), reverse=True))
def test_corrected_versions_are_kept_and_the_policy_says_which_counts(tmp_path: Path, policy: OverwritePolicy) -> None:
    moments = ("record-synced", "rows-committed", "batch-cleared", None)
    result = Run(tmp_path, senders=2, slices=2, moments=moments, policy=policy, has_reader=True).run(len(moments))
    assert (result.problems, result.cycles) == ([], len(moments))


@pytest.mark.long
def test_kills_lose_nothing_where_the_folder_of_instances_is_on_another_disk(tmp_path: Path) -> None:
    moments = ("part-synced", "file-written", "journal-freed", None)
    result = Run(tmp_path, senders=2, slices=4, moments=moments, has_two_disks=True).run(len(moments))
    assert (result.problems, result.cycles) == ([], len(moments))
    assert {"part-synced", "file-written"} <= result.died_at.keys()


@pytest.mark.slow
def test_what_was_sent_before_a_release_is_converted_whole_however_soon_the_node_dies(tmp_path: Path) -> None:
    result = Run(tmp_path, senders=2, slices=2, moments=AFTER_RELEASE).run(len(AFTER_RELEASE))
    assert (result.problems, result.cycles) == ([], len(AFTER_RELEASE))
    assert result.released == result.acknowledged / 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "points", "cycles", "found"),
    [
        ("answer-before-append", ("record-begun",), 8, "acknowledged and lost"),
        ("no-replay", ("record-synced",), 8, "acknowledged and lost"),
        ("resend-removes-both", RECEIVING, 8, "not what its row says"),
        ("claims-stay", ("volumes-written",), 1, "is converting"),
        ("published-stay", ("volumes-published",), 1, "volumes without rows"),
        ("parts-stay", ("part-written",), 8, "half received"),
        ("strays-stay", ("rows-committed",), 8, "has no row"),
        ("ledger-is-not-written", ("journal-freed",), 8, "neither in the ledger nor in the journal"),
        ("ledger-is-one-checkpoint-late", ("journal-freed",), 8, "neither in the ledger nor in the journal"),
    ],
)
def test_a_node_without_one_of_its_defences_is_found_out(
    tmp_path: Path, mutant: str, points: tuple[str, ...], cycles: int, found: str
) -> None:
    moments = beside_random_moments(points)
    result = Run(tmp_path, senders=2, slices=4, mutant=mutant, moments=moments, settle_seconds=10).run(cycles)
    assert result.problems, f"{mutant} was not found out"
    assert any(word in problem for problem in result.problems for word in found.split("|")), result.problems


def test_every_mutant_is_tried() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert {name for name in MUTANTS if f'"{name}"' not in tests} == set()


def test_every_named_step_is_in_the_code_once() -> None:
    code = "".join(path.read_text() for path in (Path(__file__).parents[2] / "node").rglob("*.py"))
    assert {point: code.count(f'reached("{point}")') for point in POINTS} == dict.fromkeys(POINTS, 1)
