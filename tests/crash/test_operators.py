"""Operators beside senders and kills, in random orders: nothing is lost, and nothing that was deleted comes back.

This is the short form of ``python -m tests.crash --interleavings 500``; the gate runs it.
"""

from collections import Counter
from contextlib import closing
from itertools import product

import pytest

from node.runtime.failpoints import TRASH
from tests.crash.interleavings import try_interleavings
from tests.crash.journal import new_series
from tests.crash.operators import LEVELS, Operators
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


@pytest.mark.long
def test_what_is_deleted_comes_back_or_is_gone_wherever_the_node_dies_and_a_new_index_knows_it() -> None:
    with closing(Site("root", "replace", None)) as site:
        operators = Operators(site, counts := Counter[str]())
        for pick, point in enumerate(TRASH[:2], 1):  # of a series and of an instance
            operators.undo(pick, point, serves=True, after=None)
        operators.empty_trash(1, TRASH[2], serves=True)
        operators.trash(1, "study", None, is_converted=True)
        operators.rebuild(keep=True)
        operators.undo(0, None, serves=True, after=None)
        assert counts["series as before"] == 3
        for trashed, erased in product(LEVELS, repeat=2):  # what the trash has as well is erased, or it is refused
            series = new_series(2)
            for level, how in ((trashed, ()), (erased, ("--erase",))):
                site.send(series)
                operators._delete(site.rows()[series[0].sop_instance_uid], level, how=how)
        operators.rebuild(keep=False)  # what was refused is in the trash
        operators.settle()


@pytest.mark.long
def test_a_disk_that_is_away_a_journal_that_is_gone_and_starts_in_a_loop_lose_only_what_is_reported() -> None:
    with closing(Site("root", "replace", None)) as site:
        operators = Operators(site, Counter())
        site.send(new_series(3))
        operators.serve_without_the_disk()
        operators.lose_journal(None, 1)
        operators.lose_journal("record-synced", 3)
        operators.start_in_a_loop(3, "journal-replayed")
        operators.settle()
