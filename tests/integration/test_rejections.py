"""The table of what was refused: one row for equal refusals, and never more than so many."""

from dataclasses import replace
from typing import Any

import pytest

from node.index.rows.records import CountedRefusal, Refused
from node.receive.senders import MAX_KINDS, Rejections
from node.runtime.logs import KINDS_OF_MINUTE
from node.runtime.metrics import Metrics
from tests.integration.conftest import Root


def refused(title: str = "CT1", reason: str = "rejected permanently", **changes: Any) -> Refused:
    one = Refused("association", "calling AE title", reason, "add it", "10.0.0.1", title, "VOXELNODE", "3 contexts")
    return replace(one, **changes)


def counted(root: Root, one: Refused, count: int = 1) -> CountedRefusal:
    return CountedRefusal(one, count, root.clock(), root.clock())


def rows(root: Root) -> list[dict[str, Any]]:
    return root.rows("SELECT * FROM v_rejections ORDER BY first_at")


def test_equal_refusals_share_a_row_while_they_follow_each_other(root: Root) -> None:
    record = root.index.rejections.record
    assert record([counted(root, refused())]) == [refused()]
    root.clock.move(59)
    assert record([counted(root, refused(), 4)]) == []
    [row] = rows(root)
    assert (row["count"], row["last_at"] > row["first_at"]) == (5, True)
    root.clock.move(-3600)
    assert record([counted(root, refused())]) == [], "a clock that is set back splits no row"
    root.clock.move(3661)
    assert record([counted(root, refused())]) == [refused()], "after a minute of peace"
    assert [row["count"] for row in rows(root)] == [6, 1]


def test_refusals_of_different_reasons_have_rows_of_their_own_and_measures_are_no_reason(root: Root) -> None:
    collector = Rejections(root.index, Metrics(), now=root.clock)
    for length in range(40):
        collector.record(refused(reason=f"data set ends within an element, after {length} bytes", what="instance"))
        collector.record(refused(reason=f"PatientID (0010,{length:04}) is missing", what="context"))
        if length % 10 == 0:
            collector.step()
    collector.stop()
    found = rows(root)
    [ends] = [row for row in found if row["what"] == "instance"]
    assert (ends["count"], ends["reason"]) == (40, "data set ends within an element, after 39 bytes")
    missing = [row for row in found if row["what"] == "context"]
    assert [row["count"] for row in missing] == [1] * KINDS_OF_MINUTE + [40 - KINDS_OF_MINUTE]
    assert missing[-1]["rule"] == "too many kinds"


def test_a_flood_makes_no_more_rows_the_longer_it_lasts(root: Root) -> None:
    collector = Rejections(root.index, Metrics(), now=root.clock)
    for number in range(1000):
        collector.record(refused(reason=f"reason {number:04}x", peer=f"10.0.{number}.1"))
        if number % 100 == 0:
            collector.step()
            root.clock.move(2)
    collector.stop()
    found = rows(root)
    assert (len(found), sum(row["count"] for row in found)) == (MAX_KINDS + 1, 1000)


def test_the_table_is_bounded_and_the_oldest_give_way(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.rules.custody.problems.MAX_ROWS", 10)
    for number in range(25):
        root.index.rejections.record([counted(root, refused(f"CT{number}"))])
        root.clock.move(1)
    assert [row["calling_ae_title"] for row in rows(root)] == [f"CT{number}" for number in range(15, 25)]


def test_rows_of_one_level_take_no_place_of_another(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.index.rules.custody.problems.MAX_ROWS", 3)
    root.index.rejections.record([counted(root, refused("STRANGER"))])
    for number in range(9):
        root.clock.move(1)
        root.index.rejections.record([counted(root, refused(offered=f"context {number}", what="context"))])
    assert [(row["what"], row["offered"]) for row in rows(root)] == [
        ("association", "3 contexts"), *(("context", f"context {number}") for number in (6, 7, 8))
    ]  # fmt: skip


def test_neither_contexts_nor_one_sender_hide_a_rejected_association(root: Root) -> None:
    news: list[Refused] = []
    collector = Rejections(root.index, Metrics(), news.append, root.clock)
    for number in range(200):
        collector.record(refused(offered=f"context {number}", what="context", peer=f"10.0.{number}.1"))
        collector.record(refused(f"FLOOD{number}"))
    collector.record(refused("LOST", peer="10.9.9.9"))
    collector.stop()
    found = rows(root)
    assert sum(row["count"] for row in found) == 401
    assert len(news) == len(found)
    assert [row["count"] for row in found if row["calling_ae_title"] == "LOST"] == [1]
    assert [row["count"] for row in found if (row["rule"], row["peer"]) == ("too many kinds", "10.0.0.1")] == [
        200 - KINDS_OF_MINUTE
    ]
    assert len([row for row in found if row["what"] == "context"]) == MAX_KINDS + 1
