"""Segments of the journal that somebody removes: under a running node, and while none runs after it was killed."""

import json
import signal
from collections.abc import Iterator

import pytest

from node.journal.inspection import MARK_FILE
from tests.crash.harness import Node, send
from tests.crash.journal import Journal, Sent, new_series
from tests.made_once import empty_folder
from tests.preloaded import run
from tests.rows import read_rows, wait_until_applied
from tests.waiting import until

pytestmark = pytest.mark.slow


EVENTS = "SELECT kind, detail FROM v_events WHERE kind = 'journal-damaged'"
UIDS = "SELECT sop_instance_uid FROM images"


def acknowledged(journal: Journal) -> set[str]:
    return {uid for uid, _ in journal.acknowledged()}


def test_a_segment_removed_under_a_node_takes_nothing_acknowledged_along(node: Node, journal: Journal) -> None:
    root, mark = node.root, node.root / "journal" / MARK_FILE
    assert node.start()
    send(node, new_series(3), journal)
    for segment in root.glob("journal/*.journal"):
        segment.unlink()
    send(node, new_series(2), journal)
    assert len(acknowledged(journal)) == 3
    assert "was removed while the node was running" in node.log.read_text()
    until(lambda: json.loads(mark.read_bytes())["freed"] >= 3, 30, "what was acknowledged is durable elsewhere")
    assert node.kill() != 0
    assert node.start()
    assert {row["sop_instance_uid"] for row in read_rows(root, UIDS)} == acknowledged(journal)
    assert read_rows(root, EVENTS) == []
    send(node, new_series(1), journal)
    assert len(acknowledged(journal)) == 4


def test_a_journal_that_is_missing_after_a_kill_is_reported_by_the_start(node: Node, journal: Journal) -> None:
    root = node.root
    assert node.start()

    class KilledAfterTheFirst(list[Sent]):
        def __iter__(self) -> Iterator[Sent]:
            yield self[0]
            wait_until_applied(root)
            assert node.kill() != 0

    instances = KilledAfterTheFirst(new_series(3))
    send(node, instances, journal)
    assert acknowledged(journal)
    empty_folder(root / "journal")
    assert node.start()
    [event] = read_rows(root, EVENTS)
    assert f" sent then are to be sent again: {instances[0].series_instance_uid}" in event["detail"]
    assert event["detail"].startswith("the journal that the last process wrote is not in ")
    stays_until_it_is_accepted(node, event["detail"])


def test_a_journal_that_is_removed_after_a_clean_end_is_no_loss(node: Node, journal: Journal) -> None:
    root = node.root
    assert node.start()
    send(node, new_series(3), journal)
    assert node.end(signal.SIGTERM) == 0
    empty_folder(root / "journal")
    assert node.start()
    assert read_rows(root, EVENTS) == []


def stays_until_it_is_accepted(node: Node, detail: str) -> None:
    """A gap is told by all that people look at, also after another start, until somebody accepts it."""
    root = ("--root", str(node.root))
    listed = run("lost", "list", *root)
    assert listed.returncode == 1
    assert detail in listed.stdout
    until(lambda: f"no, journal: {detail}" in run("status", *root).stdout, 30, "the node tells that it is not ready")
    assert "1 gap of the journal" in run("status", *root).stdout
    assert run("lost", "write-off", "journal", "--reason", "sent again", "--yes", *root).returncode == 0
    assert run("lost", "list", *root).returncode == 0
    until(lambda: "journal: " + detail not in run("status", *root).stdout, 30, "the node is ready again")
