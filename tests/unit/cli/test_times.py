"""Times of the index as commands print them."""

import time
from collections.abc import Iterator

import pytest

from node.cli.output import minute


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("text", ["2026-11-22 21:26:38.424485", "2026-11-22T21:26:38+00:00"])
@pytest.mark.usefixtures("in_tokyo")
def test_a_time_of_the_index_is_shown_in_the_zone_of_this_machine(text: str) -> None:
    assert minute(text) == "2026-11-23 06:26 JST"
