"""The clock is set back between two things that happen: which of them came after the other is told by their rows."""

import datetime as dt
import json
from dataclasses import replace

import pytest

from node.index.rows.records import Lane
from node.index.rules.work.ledger import Ended
from node.index.rules.work.messages import Attempt
from node.index.rules.work.routes import SentInstance
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_jobs import WRITE, Begin, begin, jobs  # noqa: F401  (a fixture)
from tests.integration.test_lifecycle import origin, settle, verdict
from tests.integration.test_patients import number, persons, right

pytestmark = pytest.mark.postgresql

STEPS = pytest.mark.parametrize("step", [0, 1, 5, 600])


def set_back(root: Root, seconds: float) -> None:
    """Set the clock back, as the worker notices it: a small step is none. Several hosts wait longer."""
    root.clock.move(-seconds)
    if seconds > 2:
        root.index.timers.shift(dt.timedelta(seconds=-seconds))


@STEPS
@pytest.mark.parametrize("outcome", ["aborted", "drained"])
def test_an_end_after_the_last_instance_counts(root: Root, step: int, outcome: str) -> None:
    root.take_all(make.ct_series(5)[:3], origin("a1"))
    set_back(root, step)
    root.end("a1", outcome, is_cut=True)
    settle(root, 1100)
    assert verdict(root)[:2] == ("incomplete", "association")


@STEPS
@pytest.mark.parametrize("rest", [5, 3], ids=["with the rest", "with nothing new"])
def test_a_sender_that_comes_back_has_sent_all(root: Root, step: int, rest: int) -> None:
    instances = make.ct_series(5)
    root.take_all(instances[:3], origin("a1"))
    root.end("a1", "aborted", is_cut=True)
    set_back(root, step)
    root.take_all(instances[:rest], origin("a2"))
    root.end("a2", "released")
    settle(root, 1100)
    assert verdict(root)[:2] == ("complete", "geometry")


@pytest.mark.parametrize("host", [None, "another"])
def test_an_association_that_was_open_when_another_broke_tells_nothing(root: Root, host: str | None) -> None:
    instances, beside = make.ct_series(3), origin("a2")
    root.take_all(instances, origin("a1"))
    if host is not None:  # what it has begun is known by what it has brought
        beside = replace(beside, begun=f"{host}:1")
        root.take(instances[0], beside)
    set_back(root, 600)
    root.end("a1", "aborted", is_cut=True)
    root.clock.move(1300)
    root.take_all(instances, beside)
    root.end("a2", "released")
    settle(root, 1100)
    assert verdict(root)[:2] == ("incomplete", "association")


def test_an_association_brings_what_it_brought_last(root: Root) -> None:
    [first], [second] = make.ct_series(1), make.ct_series(1)
    root.take(first, origin("a1"))
    set_back(root, 1)
    root.take(second, origin("a1"))
    root.clock.move(59)
    root.ingest.index.associations.keep_open({"a1": 0.0}, root.clock())
    root.clock.move(10)
    claimed = root.index.series.claim_due(root.clock())
    assert claimed is not None
    assert claimed.series_instance_uid == first.SeriesInstanceUID


def test_a_hook_hears_of_what_came_beside_its_own_results(root: Root, begin: Begin) -> None:  # noqa: F811
    [image] = make.ct_series(1)
    made = json.dumps({"results": [{"file": "report.pdf", "series_instance_uid": str(image.SeriesInstanceUID)}]})
    worker = begin("one", ("study-quiet",), f"{WRITE}; echo '{made}' > $0/results.json")
    root.take(image)
    root.convert_due()
    root.mark_quiet()
    worker.work()
    set_back(root, 600)
    root.take_all(make.ct_series(1, study_uid=str(image.StudyInstanceUID)))
    for _ in range(2):
        root.convert_due()
        root.mark_quiet()
        worker.work()
    assert [job["results_stored"] for job in jobs(root)] == [1, 1]


def test_a_destination_gets_what_was_corrected_or_undone_after_it_took_it(root: Root) -> None:
    lane = Lane("route", "up", "pacs")
    root.index.deliveries.begin("route", {lane: ("study-quiet",)})
    [image] = make.ct_series(1, PatientID="OLD")
    root.take(image)
    root.convert_due()
    root.mark_quiet()
    [pending] = root.index.deliveries.work(lane, ["study-quiet"], root.clock()).new

    def sent() -> bool:
        [due] = root.index.routes.due(lane, [pending])[pending.message_id]
        as_sent = SentInstance(due, due.sop_class_uid, due.sop_instance_uid, "sent")
        root.index.routes.record_sent(lane, [as_sent], root.clock())
        return due.is_sent

    assert (sent(), sent()) == (False, True)
    set_back(root, 600)
    persons(root).correct(number(root, "OLD"), right(patient_id="NEW"), root.clock(), str(image.StudyInstanceUID))
    assert (sent(), sent()) == (False, True)
    root.clock.move(-600)
    persons(root).separate(number(root, "NEW"), root.clock(), study=str(image.StudyInstanceUID))
    assert (sent(), sent()) == (False, True)


@pytest.mark.sqlite("the waits of several hosts follow the clock of their database")
def test_messages_are_delivered_and_failures_counted_in_the_order_of_their_commits(root: Root) -> None:
    lane, kinds = Lane("hook", "one"), ("instance-stored", "series-quiet", "volume-written")
    root.index.deliveries.begin("hook", {lane: kinds})
    for _ in range(2):
        root.take_all(make.ct_series(1))
        set_back(root, 600)
        root.convert_due()
    pending = root.index.deliveries.work(lane, kinds, root.clock()).new
    assert [one.event for one in pending] == [*kinds, *kinds]
    with root.index.reading() as view:
        seen = view.events.newest()
    set_back(root, 600)
    root.index.deliveries.record(lane, [Attempt(pending[0], Ended("failed", "no"), 1)], pending[:1], root.clock())
    with root.index.reading() as view:
        assert [view.work.count_failed(since) for since in (seen, view.events.newest())] == [1, 0]
