"""Segments of the journal that somebody removes: under a running node, and while none runs after it was killed."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from node.journal.journal import MARK_FILE
from tests.acceptance.served import until
from tests.crash.harness import Node, send
from tests.crash.journal import Journal, new_series
from tests.rows import read_rows

EVENTS = "SELECT kind, detail FROM v_events WHERE kind = 'journal-damaged'"
UIDS = "SELECT sop_instance_uid FROM images"


def acknowledged(journal: Journal) -> set[str]:
    return {uid for uid, _ in journal.acknowledged()}


@pytest.mark.slow
def test_a_segment_removed_under_a_node_takes_nothing_acknowledged_along(tmp_path: Path) -> None:
    root, mark = tmp_path / "root", tmp_path / "root" / "journal" / MARK_FILE
    with closing(Journal(tmp_path / "journal")) as journal, Node(root) as node:
        assert node.start()
        send(node, new_series(3), journal)
        for segment in root.glob("journal/*.journal"):
            segment.unlink()
        send(node, new_series(2), journal)
        assert len(acknowledged(journal)) == 3
        assert "was removed while the node was running" in node.log.read_text()
        until(lambda: json.loads(mark.read_bytes())["freed"] == 3, 30, "what was acknowledged is durable elsewhere")
        assert node.kill() != 0
        assert node.start()
        assert {row["sop_instance_uid"] for row in read_rows(root, UIDS)} == acknowledged(journal)
        assert read_rows(root, EVENTS) == []
        send(node, new_series(1), journal)
        assert len(acknowledged(journal)) == 4
