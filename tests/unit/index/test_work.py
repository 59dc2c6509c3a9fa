"""What is still to be done for a study, and what hooks made of it: what deletions and chains of hooks depend on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert

from node.index.database.work_loop import CANCEL_SECONDS, stop_loops
from node.index.models.history import EventRow
from node.index.models.levels import Base
from node.index.models.work import ResultRow, SubscriberRow, WorkRow
from node.index.work.jobs import ReadJobs
from node.index.work.ledger import Lane
from node.index.work.routes import _is_done

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def connection() -> Iterator[Connection]:
    """An empty index in memory."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        Base.metadata.create_all(
            connection, tables=[Base.metadata.tables[name] for name in ("events", "subscribers", "work", "results")]
        )
        yield connection
    engine.dispose()


@pytest.mark.parametrize(
    ("subscriber", "is_done"),
    [
        (None, True),
        ({"event_id": 2}, True),
        ({"event_id": 1}, False),
        ({"event_id": 2, "image_id": 7}, True),
        ({"event_id": 2, "image_id": 6}, False),
        ({"event_id": 0, "image_id": 7}, False),
    ],
)
def test_a_subscriber_is_done_with_a_study_once_it_has_passed_its_events_and_instances(
    connection: Connection, subscriber: dict[str, int] | None, is_done: bool
) -> None:
    events = [(1, "series-quiet", "other"), (2, "series-quiet", "1.2.3"), (3, "study-quiet", "1.2.3")]
    for number, kind, study in events:
        row = {"id": number, "kind": kind, "study_instance_uid": study, "happened_at": NOW}
        connection.execute(insert(EventRow).values(row))
    lane = Lane("route", "all", "PACS")
    if subscriber is not None:
        row = {"kind": "route", "name": "all", "destination": "PACS", "image_id": None, **subscriber}
        connection.execute(insert(SubscriberRow).values(row))
    assert _is_done(connection, lane, {"series-quiet"}, "1.2.3", 7) is is_done


@pytest.mark.parametrize(
    ("hook", "series", "descends"),
    [
        ("a", "of a", True),
        ("a", "of b of a", True),
        ("b", "of b of a", True),
        ("b", "of a", False),
        ("a", "received", False),
        ("a", "of c", False),
    ],
)
def test_what_a_hook_made_descends_from_it_over_any_number_of_others(
    connection: Connection, hook: str, series: str, descends: bool
) -> None:
    made = [("a", "received", "of a"), ("b", "of a", "of b of a"), ("c", "received", "of c")]
    for number, (name, source, result) in enumerate(made, start=1):
        times = dict.fromkeys(("happened_at", "created_at", "changed_at", "ended_at"), NOW)
        job: dict[str, Any] = {"id": number, "kind": "job", "name": name, "key": str(number), "requested_by": "test"}
        connection.execute(insert(WorkRow).values({**job, **times, "state": "ended", "outcome": "done", "payload": {}}))
        row = {"job_id": number, "file": "f", "kind": "report", "sha256": "", "study_instance_uid": "1.2.3"}
        row |= {"source_series_instance_uid": source, "series_instance_uid": result}
        connection.execute(insert(ResultRow).values({**row, "sop_instance_uid": result, "sop_class_uid": ""}))
    assert ReadJobs(connection).descends(hook, "1.2.3", series) is descends


def test_loops_that_do_not_end_in_time_are_cancelled() -> None:
    said: list[str] = []

    class Loop:
        def begin_stop(self) -> None:
            said.append("begin")

        def stop(self, seconds: float) -> None:
            said.append("stop" if seconds == CANCEL_SECONDS else "wait")

        def cancel(self) -> None:
            said.append("cancel")

    stop_loops([Loop(), Loop()], 0.0)  # type: ignore[list-item]
    assert said == ["begin"] * 2 + ["wait"] * 2 + ["cancel"] * 2 + ["stop"] * 2
