"""The ledger of work: one set of states, one retention, one cancellation, whatever the kind."""

import datetime as dt
import sqlite3
from contextlib import closing
from typing import get_args

import pytest
from sqlalchemy import Connection, func, select

from node.errors import UsageError
from node.index.rows.models.work import WorkRow
from node.index.rows.place import FILE_NAME
from node.index.rows.records import Lane
from node.index.rows.states import TRANSITIONS, Assignment, Counts, Download, Kind, Message, Move, Payload, State
from node.index.rules.work import ledger
from node.index.rules.work.ledger import Ended, NoSuchWork, Postponed, Work, WorkEnded
from node.index.rules.work.messages import Attempt, PendingEvent, forget_jobs
from tests.integration.conftest import Root
from tests.rows import executed, read_rows

HOOK = Lane("hook", "one")


def retrieval(root: Root, study: str = "1.2.3", peer: str = "pacs") -> Work:
    """A new retrieval."""
    [key] = root.index.work.add_retrievals(peer, [(study, None)], "ann", root.clock())
    [row] = read_rows(root.folder, f"SELECT id FROM work WHERE \"key\" = '{key}'")
    return root.index.work.one(row["id"])


def waits(root: Root) -> Work:
    """A message to a hook that waits for another attempt."""
    root.index.deliveries.begin("hook", {HOOK: ("volume-written",)})
    pending = PendingEvent("m", "volume-written", root.clock(), "1.2")
    attempt = Attempt(pending, Postponed(root.clock() + dt.timedelta(seconds=30), "busy"), 1)
    root.index.deliveries.record(HOOK, [attempt], [], root.clock())
    [row] = read_rows(root.folder, "SELECT id FROM work WHERE kind = 'hook'")
    return root.index.work.one(row["id"])


@pytest.mark.parametrize("how", get_args(Move))
@pytest.mark.parametrize("state", get_args(State))
def test_work_moves_only_as_the_picture_says(root: Root, how: Move, state: State) -> None:
    work = retrieval(root)
    if state == "running":
        assert root.index.work.begin(work.id, root.clock())
    elif state == "ended":
        root.index.work.record(work.id, Ended("failed", "away"), root.clock())
    outcome = {"end": {"outcome": "failed"}, "again": {"outcome": None}}.get(how, {})
    moved = root.index.work._writer.run(
        lambda connection: ledger.move(connection, how, root.clock(), WorkRow.id == work.id, **outcome)
    )
    is_allowed = state in TRANSITIONS[how].before
    assert (moved, root.index.work.one(work.id).state) == ((1, TRANSITIONS[how].after) if is_allowed else (0, state))


def test_in_a_lane_one_is_due_at_a_time_and_a_busy_lane_keeps_no_other_back(root: Root) -> None:
    first, second, other = retrieval(root), retrieval(root, "1.2.4"), retrieval(root, peer="away")
    now = root.clock()

    def due(*busy: Lane) -> list[int]:
        return [work.id for work in root.index.work.due(("retrieval",), now, busy)]

    assert due() == [first.id, other.id]
    assert due(first.lane) == [other.id]
    assert root.index.work.begin(first.id, now)
    later = now + dt.timedelta(seconds=30)
    root.index.work.record(first.id, Postponed(later, "busy"), now)
    assert due() == [second.id, other.id], "what waits for another attempt keeps the lane free"
    assert root.index.work.next_due_at(("retrieval",), now) == later


@pytest.mark.sqlite("asks SQLite for its plan")
def test_what_is_due_is_found_without_reading_what_has_ended(root: Root) -> None:
    with executed() as ran:
        root.index.work.due(("job", "retrieval"), root.clock())
        root.index.work.next_due_at(("job", "retrieval"), root.clock())
        root.index.work.resume({"job": 3}, root.clock())
    statements = [(sql, values) for sql, values in ran if "work.state" in sql and sql.startswith(("SELECT", "UPDATE"))]
    assert len(statements) >= 5
    with closing(sqlite3.connect(root.folder / FILE_NAME)) as connection:
        for sql, values in statements:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert any("ix_work_state_kind_name_destination_due_at (state=? AND kind=?" in step for step in plan), (
                sql,
                plan,
            )
            assert not any(step.startswith("SCAN") for step in plan), (sql, plan)


@pytest.mark.sqlite("loops of hosts that share an index look each time")
def test_loops_sleep_until_work_of_theirs_waits(root: Root) -> None:
    def is_noted(*kinds: Kind) -> bool:
        return any([root.index.take_note(kind) for kind in kinds])

    assert not is_noted("retrieval", "commitment")
    work, now = retrieval(root), root.clock()
    assert not is_noted("commitment")
    assert is_noted("retrieval")
    root.index.work.begin(work.id, now)
    assert not is_noted("retrieval"), "its end wakes the loop"
    root.index.work.record(work.id, Postponed(now + dt.timedelta(hours=1), "busy"), now)
    assert is_noted("retrieval"), "it has to be woken when that is due"


SECRET = "Secret^Name"


@pytest.mark.parametrize(
    ("kind", "payload", "is_ended", "left"),
    [
        ("retrieval", Counts(), True, None),
        ("retrieval", Counts(), False, (SECRET, Counts())),  # it goes on, and says another thing then
        ("job", Assignment(), True, (None, Assignment())),
        ("job", Assignment(), False, (None, Assignment())),
        ("hook", Message("detail", SECRET), True, (SECRET, Message("detail"))),
        ("hook", Message("detail", SECRET), False, (SECRET, Message("detail"))),
        ("hook", Message("detail"), True, (SECRET, Message("detail"))),
        (
            "download",
            Download("deidentified", f"{SECRET}.zip"),
            True,
            (SECRET, Download("deidentified", "deleted.zip")),
        ),
    ],
)
def test_work_of_a_deleted_study_no_longer_says_who_its_patient_is(
    root: Root, kind: Kind, payload: Payload, is_ended: bool, left: tuple[str | None, Payload] | None
) -> None:
    now, ids = root.clock(), {}
    ended = {"state": "ended", "outcome": "failed", "ended_at": now} if is_ended else {}
    facts = {"reason": SECRET, "happened_at": now, "requested_by": "ann", **ended}
    for study in ("1.2.3", "1.2.4"):
        ids[study] = root.index.work._writer.run(
            lambda connection, study=study: ledger.add(
                connection, Lane(kind, "one"), study, payload, now, study_instance_uid=study, **facts
            )
        )
    root.index.work._writer.run(lambda connection: forget_jobs(connection, "1.2.3"))
    of_other = root.index.work.one(ids["1.2.4"])
    assert (of_other.reason, of_other.payload) == (SECRET, payload), "another study keeps its own"
    if left is None:
        with pytest.raises(NoSuchWork):
            root.index.work.one(ids["1.2.3"])
    else:
        work = root.index.work.one(ids["1.2.3"])
        assert (work.reason, work.payload) == left


def test_what_was_cancelled_is_over_at_once_or_when_whoever_does_it_hears_it(root: Root) -> None:
    waiting, running = retrieval(root), retrieval(root, "1.2.4")
    now = root.clock()
    root.index.work.begin(running.id, now)
    for work in (waiting, running):
        root.index.work.cancel(work.id, "ann", now)
    ended = root.index.work.one(waiting.id)
    assert (ended.outcome, ended.reason) == ("cancelled", "cancelled by ann before it began")
    assert (root.index.work.one(running.id).outcome, root.index.work.cancelled_by(running.id)) == (None, "ann")
    root.index.work.resume({"retrieval": 3}, now)  # the process died before it heard
    assert root.index.work.one(running.id).reason == "cancelled by ann"
    with pytest.raises(WorkEnded):
        root.index.work.cancel(running.id, "bob", now)
    with pytest.raises(NoSuchWork):
        root.index.work.cancel(10_000, "bob", now)
    message = waits(root)
    root.index.work.cancel(message.id, "ann", now)
    assert root.index.work.one(message.id).outcome is None, "its worker may be delivering it"
    root.index.work.end_cancelled(HOOK, now)
    assert root.index.work.one(message.id).outcome == "cancelled"


def test_what_is_done_again_has_all_of_its_attempts(root: Root) -> None:
    message = waits(root)
    now = root.clock()
    root.index.work.cancel(message.id, "ann", now)
    root.index.work.end_cancelled(HOOK, now)
    root.index.deliveries.retry_one(message.id, now)
    [row] = read_rows(root.folder, "SELECT * FROM work WHERE kind = 'hook'")
    assert (row["state"], row["attempts"], row["cancelled_by"], row["reason"]) == ("waiting", 0, None, None)
    [again] = root.index.deliveries.work(HOOK, ("volume-written",), now).again
    assert again.message_id == "m"


def test_each_kind_keeps_its_newest_in_whatever_turns_they_come_and_all_that_is_open(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_KEPT", 20)
    kinds, now, still = get_args(Kind), root.clock(), retrieval(root)
    root.index.work.begin(still.id, now)

    def counts(connection: Connection) -> dict[str, int]:
        for number in range(0, 400, len(kinds)):
            for kind in kinds:
                values = {"requested_by": "ann", "happened_at": now}
                id = ledger.add(connection, Lane(kind, "one"), f"{kind}{number}", Counts(), now, **values)
                ledger.end(connection, Ended("succeeded"), now, WorkRow.id == id)
        return dict(connection.execute(select(WorkRow.kind, func.count()).group_by(WorkRow.kind)).all())

    assert root.index._writer.run(counts) == dict.fromkeys(kinds, 20) | {"retrieval": 21, "download": 21}, "since 400"


def test_retrievals_that_wait_are_no_more_if_they_are_asked_again(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_OPEN_RETRIEVALS", 5)
    ask = root.index.work.add_retrievals
    wanted: list[tuple[str, str | None]] = [("1.2.1", None), ("1.2.2", None), ("1.2.2", "1.2.3")]
    keys = ask("pacs", wanted, "ann", root.clock())
    assert ask("pacs", [*wanted, *wanted[:1]], "ann", root.clock()) == keys
    assert ask("pacs", [*wanted, ("1.2.4", None)], "ann", root.clock())[:3] == keys
    with pytest.raises(UsageError, match="4 retrievals wait or run, and 2 more would be beyond 5"):
        ask("other", wanted[:2], "ann", root.clock())
    assert ask("other", wanted[:1], "ann", root.clock()) != keys[:1]
    assert ask("pacs", wanted, "ann", root.clock()) == keys
