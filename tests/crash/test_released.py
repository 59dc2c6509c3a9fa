"""A node that is killed around the answer to a release: whoever has released has done its part."""

import pytest

from node.runtime.failpoints import VARIABLE
from tests.acceptance.served import until
from tests.crash.harness import Node, send
from tests.crash.journal import Journal, new_series
from tests.rows import read_rows

pytestmark = pytest.mark.slow

CLOSED = "SELECT verdict, verdict_reason FROM v_series WHERE state NOT IN ('receiving', 'converting')"
ENDS = "SELECT detail FROM v_events WHERE kind IN ('node-ended', 'sender-aborted')"


@pytest.mark.parametrize("point", ["release-recorded", "release-answered"])
def test_a_kill_around_the_answer_to_a_release_is_held_against_nobody(node: Node, journal: Journal, point: str) -> None:
    assert node.start({VARIABLE: point})
    send(node, new_series(8), journal)
    assert node.end() != 0
    assert node.start()
    until(lambda: read_rows(node.root, CLOSED), 60, "the series is converted")
    [series] = read_rows(node.root, CLOSED)
    assert series["verdict"] == "complete", series["verdict_reason"]
    assert read_rows(node.root, ENDS) == []


def test_a_kill_before_the_end_is_durable_cuts_the_association_off_once(node: Node, journal: Journal) -> None:
    assert node.start({VARIABLE: "record-synced:5"})
    send(node, new_series(8), journal)
    assert node.end() != 0
    for _ in range(2):
        assert node.start()
        until(lambda: read_rows(node.root, CLOSED), 60, "the series is converted")
        node.kill()
    assert [row["detail"] for row in read_rows(node.root, ENDS)] == ["the node ended the association: it was killed"]
