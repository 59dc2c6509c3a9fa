"""Operators beside senders and kills, in random orders: nothing is lost, and nothing that was deleted comes back.

This is the short form of ``python -m tests.crash --interleavings 500``; the gate runs it.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import pytest

from tests.crash.interleavings import try_interleavings
from tests.crash.journal import new_series
from tests.crash.operators import Operators
from tests.crash.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("seed", "first", "orders"),
    [(0, 0, 1), pytest.param(0, 1, 3, marks=pytest.mark.long), pytest.param(1, 0, 4, marks=pytest.mark.long)],
)
def test_whatever_operators_do_nothing_acknowledged_is_lost_and_nothing_deleted_comes_back(
    seed: int, first: int, orders: int
) -> None:
    try_interleavings(orders, first=first, seed=seed)


def test_a_disk_that_is_away_a_journal_that_is_gone_and_starts_in_a_loop_lose_only_what_is_reported() -> None:
    with closing(Site("root", "replace", None)) as site:
        operators = Operators(site, Counter())
        site.send(new_series(3))
        operators.serve_without_the_disk()
        operators.lose_journal(None, 1)
        operators.lose_journal("record-synced", 3)
        operators.start_in_a_loop(3, "journal-replayed")
        operators.settle()
