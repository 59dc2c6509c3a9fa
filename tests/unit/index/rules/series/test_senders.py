"""Which quiet time is learnt of a sender."""

import pytest

from node.errors import VoxelnodeError
from node.index.rules.series.waits import quiet_seconds_after
from node.receive.senders import quiet_seconds_of


@pytest.mark.parametrize(
    ("gaps", "seconds"),
    [
        ([1.0] * 4, None),
        ([1.0] * 5, 10.0),
        ([8.0] * 5, 16.0),
        ([2000.0] * 5, 600.0),
        ([8.0] * 19 + [300.0], 16.0),  # one break in twenty series
    ],
)
def test_a_learnt_quiet_time_has_bounds_and_ignores_one_series_in_twenty(
    gaps: list[float], seconds: float | None
) -> None:
    assert quiet_seconds_after(gaps) == seconds


def test_an_index_that_cannot_be_read_leaves_the_last_quiet_time() -> None:
    def unreadable(calling_ae_title: str) -> float:
        raise VoxelnodeError("the index cannot be read")

    assert quiet_seconds_of("auto", {}, unreadable)("CT1") == 60.0
