"""When the next batch is applied: the table, and the bound that holds whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.receive.pace import (
    GATHER_SECONDS,
    MAX_BATCH_BYTES,
    MAX_GATHERED,
    READ_SECONDS,
    YIELD_SECONDS,
    Waiting,
    due_at,
)

NOW = 100.0


@pytest.mark.parametrize(
    ("waiting", "due"),
    [
        (Waiting(1, 9, NOW, NOW), NOW + GATHER_SECONDS),  # others may follow
        (Waiting(2, 9, NOW - 1, NOW), NOW + GATHER_SECONDS),  # each lets the batch wait longer
        (Waiting(9, 9, NOW - YIELD_SECONDS, NOW), NOW),  # until the first has waited long enough
        (Waiting(1, 9, NOW, NOW, is_wanted=True), NOW),
        (Waiting(MAX_GATHERED, 9, NOW - 1, NOW), NOW - 1),
        (Waiting(2, MAX_BATCH_BYTES, NOW - 1, NOW), NOW - 1),
        (Waiting(2, 9, NOW - 1, NOW, read_at=NOW), NOW - 1 + GATHER_SECONDS),  # somebody will read again
        (Waiting(2, 9, NOW - 1, NOW, read_at=NOW - READ_SECONDS - 1), NOW + GATHER_SECONDS),
        (Waiting(1, 9, NOW, NOW, company=1), NOW),  # alone, it waits for nobody
        (Waiting(1, 9, NOW, NOW, company=2, took=0.01), NOW + 0.01),
        (Waiting(1, 9, NOW, NOW, company=2, took=60.0), NOW + GATHER_SECONDS),
        (Waiting(2, 9, NOW, NOW + 0.01, company=2, took=0.02), NOW),  # all are there
    ],
)
def test_a_batch_is_due(waiting: Waiting, due: float) -> None:
    assert due_at(waiting) == due


times = st.floats(0, 1e6)


@given(st.integers(1, 5000), st.integers(0, 1 << 30), times, times, st.booleans(), times, st.integers(0, 50), times)
def test_nothing_waits_longer_than_the_bound(
    records: int, size: int, first_at: float, later: float, wanted: bool, read_at: float, company: int, took: float
) -> None:
    waiting = Waiting(records, size, first_at, first_at + later, wanted, read_at, company, took)
    is_read = waiting.last_at <= read_at + READ_SECONDS
    longest = 0.0 if wanted else GATHER_SECONDS if company or is_read else YIELD_SECONDS
    assert due_at(waiting) <= first_at + longest
    assert due_at(waiting.with_another(1, waiting.last_at)) <= first_at + longest  # nor once others follow
