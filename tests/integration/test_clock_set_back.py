"""The clock is set back between two things that happen: which of them came after the other is told by their rows."""

import datetime as dt
import json
from dataclasses import replace

import pytest
from pydicom.dataset import FileDataset

from node.extensions.peers.asking import Question, QuestionRepository
from node.index.rows.records import Lane
from node.index.rows.states import Inquiry, Outcome
from node.index.rules.work.ledger import Ended
from node.index.rules.work.messages import Attempt
from node.index.rules.work.routes import SentInstance
from node.receive.accounting import unaccounted
from tests import make
from tests.integration.conftest import Root
from tests.integration.test_jobs import WRITE, Begin, begin, jobs  # noqa: F401  (a fixture)
from tests.integration.test_lifecycle import origin, settle, verdict
from tests.integration.test_patients import number, persons, right
from tests.made_once import IN_POSTGRESQL
from tests.rows import write_rows

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
    [row] = root.rows("SELECT due_at FROM v_series")
    assert IN_POSTGRESQL or str(row["due_at"]) <= f"{root.clock() + dt.timedelta(seconds=300):%Y-%m-%d %H:%M:%S.%f}"
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


def test_a_study_is_back_from_the_trash_until_an_instance_comes(root: Root) -> None:
    [image] = make.ct_series(1)
    study = str(image.StudyInstanceUID)
    root.take(image)
    root.delete("study", study, trash_until=root.clock() + dt.timedelta(days=7))

    def is_back() -> bool:
        with root.index.reading() as view:
            found = view.studies.stored(study)
        assert found is not None
        return found.is_back

    set_back(root, 600)
    root.index.trash.bring_back(root.rows("SELECT id FROM tombstones")[0]["id"], root.clock())
    assert is_back(), "the rules of retention do not delete it at once, to have fewer studies"
    set_back(root, 600)
    root.take_all(make.ct_series(1, study_uid=study))
    assert not is_back()


def test_a_sender_is_left_alone_if_it_did_not_answer_the_last_question(root: Root) -> None:
    questions = root.index.repository(QuestionRepository)
    outcomes: tuple[Outcome, ...] = ("failed", "succeeded")
    for outcome in outcomes:
        questions.add([Question("pacs", ("1.2", "1.2.3"))], root.clock())
        [work] = root.index.work.due(["question"], root.clock())
        root.index.work.begin(work.id, root.clock())
        root.index.work.record(work.id, Ended(outcome, None, Inquiry(silent_seconds=600)), root.clock())
        assert questions.is_silent("pacs", root.clock()) == (outcome == "failed")
        set_back(root, 600)


def test_the_ledger_owes_what_was_sent_again_after_its_deletion(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.files.acknowledged.SEGMENT_ENTRIES", 1)
    first, *others = make.ct_series(3)

    def take(image: FileDataset) -> int:
        root.take(image)
        root.ingest.applier.checkpoint()
        return root.archive.acknowledged.position.entries

    take(first)
    root.delete("series", str(first.SeriesInstanceUID))
    marked = [take(one) for one in others][-1]
    set_back(root, 600)
    take(first)
    write_rows(root.folder, "DELETE FROM images")
    found = unaccounted(root.folder, root.index.lost.absent, since=marked)
    assert [one.sop_instance_uid for some in found for one in some] == [first.SOPInstanceUID]
