"""What hooks made of a study, on which chains of hooks depend; and how the loops of subscribers end."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert

from node.index.look.work import WorkViews
from node.index.rows.models.levels import Base
from node.index.rows.models.work import ResultRow, WorkRow
from node.index.rows.repositories import queries_of
from node.index.work_loop import CANCEL_SECONDS, stop_loops

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def connection() -> Iterator[Connection]:
    """An empty index in memory."""
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        Base.metadata.create_all(connection, tables=[Base.metadata.tables[name] for name in ("work", "results")])
        yield connection
    engine.dispose()


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
    assert WorkViews(queries_of(connection)).descends(hook, "1.2.3", series) is descends


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
