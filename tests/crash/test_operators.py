"""Operators beside senders and kills, in random orders: nothing is lost, and nothing that was deleted comes back.

This is the short form of ``python -m tests.crash --interleavings 500``; the gate runs it.
"""

from __future__ import annotations

import pytest

from tests.crash.interleavings import try_interleavings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("seed", "first", "orders"),
    [(0, 0, 1), pytest.param(0, 1, 3, marks=pytest.mark.long), pytest.param(1, 0, 4, marks=pytest.mark.long)],
)
def test_whatever_operators_do_nothing_acknowledged_is_lost_and_nothing_deleted_comes_back(
    seed: int, first: int, orders: int
) -> None:
    try_interleavings(orders, first=first, seed=seed)
