"""SIGKILL at every named step and at random moments: what was acknowledged is there, once, and gets converted.

This is the short form of ``python -m tests.crash --cycles 1000 --senders 4``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from node.failpoints import CONVERTING, POINTS, RECEIVING, RECOVERING
from tests.crash.harness import Run, beside_random_moments
from tests.crash.mutants import MUTANTS

pytestmark = [pytest.mark.timeout(600)]

MOMENTS = (*RECEIVING, *CONVERTING, *RECOVERING, None)


@pytest.mark.slow
@pytest.mark.parametrize("moments", [MOMENTS, pytest.param((*MOMENTS, *[None] * 12), marks=pytest.mark.long)], ids=len)
def test_nothing_acknowledged_is_lost_altered_or_indexed_twice_and_all_is_converted(
    tmp_path: Path, moments: tuple[str | None, ...]
) -> None:
    result = Run(tmp_path, senders=2, slices=4, moments=moments).run(len(moments))
    assert result.problems == []
    assert result.cycles == len(moments)
    assert result.acknowledged > 5 * len(moments)
    assert set(RECEIVING) <= result.died_at.keys(), "a named step was never reached"


@pytest.mark.long
@pytest.mark.parametrize(
    ("mutant", "points", "cycles", "found"),
    [
        ("answer-before-append", ("record-begun",), 8, "acknowledged and lost"),
        ("no-replay", ("record-synced",), 8, "acknowledged and lost"),
        ("resend-removes-both", RECEIVING, 8, "not what its row says"),
        ("claims-stay", ("volumes-written",), 1, "is converting"),
        ("parts-stay", ("part-written",), 8, "half received"),
        ("strays-stay", ("rows-committed",), 8, "has no row"),
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
