"""Hooks on a real index: what is told, in which order, what waits, and what a restart or a deletion does to it."""

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.api import Audit, HookMessage, HookSettings, Settings
from node.completeness import Reported
from node.extensions.channels.settings import CommandSettings, WebhookSettings
from node.index.rows.records import Lane
from node.index.rules.work import deliveries
from node.index.rules.work.messages import PendingEvent
from node.notify.notifier import HookWorker, Notifier
from node.receive.ingest import Origin
from node.runtime.metrics import Metrics
from tests import make
from tests.integration.conftest import Root
from tests.receivers import Answer, Received, Receiver, channel_of
from tests.waiting import running, until

ALL = ("instance-stored", "series-quiet", "volume-written", "volume-superseded", "series-failed", "study-quiet")

Start = Callable[..., HookWorker]


@pytest.fixture
def start(root: Root, audit: Audit) -> Iterator[Start]:
    """Begin one hook on the root; its `work` is called by the test."""
    channels: list[Any] = []

    def begin(
        receiver: Receiver | None, on: tuple[str, ...] = ALL, metrics: Metrics | None = None, **options: Any
    ) -> HookWorker:
        hook: HookSettings
        if receiver is None:
            hook = CommandSettings(on=on, **options)  # type: ignore[arg-type]
        else:
            hook = WebhookSettings(on=on, url=receiver.url, **options)  # type: ignore[arg-type]
        root.index.deliveries.begin("hook", {Lane("hook", "one"): on})
        channels.append(channel_of("one", hook))
        rest = audit, "VOXELNODE", root.results, root.clock
        return HookWorker("one", hook, channels[-1], root.index, metrics or Metrics(), *rest)

    yield begin
    for channel in channels:
        channel.close()


def take(root: Root, series: list[FileDataset], title: str = "MODALITY") -> None:
    for ds in series:
        root.take(ds, Origin("dicom", title, "VOXELNODE", "127.0.0.1:1"))
        root.clock.move(0.001)


def convert(root: Root, series: list[FileDataset], title: str = "MODALITY") -> None:
    """Take a series, and convert it."""
    take(root, series, title)
    root.convert_due()


def work_off(worker: HookWorker) -> None:
    while worker.work():
        pass


def test_the_counters_of_a_hook_begin_at_zero_so_that_an_alert_sees_the_first(root: Root, start: Start) -> None:
    metrics = Metrics()
    start(None, command=("true",), metrics=metrics)
    counts = {name: value for name, value in metrics.snapshot().items() if "hook_messages_total" in name}
    assert len(counts) == 3
    assert set(counts.values()) == {0}


def refusing(*statuses: int, **headers: str) -> Callable[[Received], Answer]:
    """Answers so in turn, and 204 after that."""
    left = list(statuses)
    reported = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return lambda received: Answer(left.pop(0), reported) if left else Answer()


def test_a_hook_is_reported_everything_in_the_order_in_which_it_happened(root: Root, start: Start) -> None:
    series = make.ct_series(3)
    with Receiver() as receiver:
        worker = start(receiver)
        convert(root, series)
        assert worker.work()
        assert not worker.work()
        assert receiver.events() == ["instance-stored"] * 3 + ["series-quiet", "volume-written"]
        *instances, _, written = [one.content for one in receiver.received]
    assert [one["sop_instance_uid"] for one in instances] == [ds.SOPInstanceUID for ds in series]
    for one in instances:
        assert Path(one["instance"]["path"]).stat().st_size > one["instance"]["bytes"]
    [volume] = written["volumes"]
    assert Path(volume["path"]).stat().st_size == volume["bytes"]
    assert (written["revision"], written["state"], written["verdict"]["state"]) == (1, "converted", "complete")
    assert (volume["shape"], written["instances"], written["modality"]) == ([12, 16, 3], 3, "CT")
    assert {one["study_instance_uid"] for one in instances} == {series[0].StudyInstanceUID}
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 5


def test_a_hook_is_reported_only_of_series_that_it_selects(root: Root, start: Start) -> None:
    with Receiver() as receiver:
        worker = start(receiver, ("volume-written", "study-quiet"), where={"modality": "CT", "slices": ">=4"})
        few, enough = make.ct_series(3), make.ct_series(5)
        for ds in enough:
            ds.BodyPartExamined, ds.SeriesDescription, ds.ProtocolName = "CHEST", "Thorax", "Lunge"
        take(root, few)
        convert(root, enough)
        work_off(worker)
        root.mark_quiet()
        work_off(worker)
        assert receiver.events() == ["volume-written", "study-quiet"]
        written, quiet = [one.content for one in receiver.received]
    assert written["series_instance_uid"] == enough[0].SeriesInstanceUID
    for description in (written, quiet["series"][0]):
        assert (description["modality"], description["series_description"]) == ("CT", "Thorax")
        assert (description["body_part_examined"], description["protocol_name"]) == ("CHEST", "Lunge")
    assert (quiet["study_instance_uid"], quiet["series_instance_uid"]) == (enough[0].StudyInstanceUID, None)
    [series] = quiet["series"]
    assert (series["state"], series["instances"], series["verdict"]["state"]) == ("converted", 5, "complete")
    assert root.rows("SELECT 1 FROM v_deliveries WHERE state <> 'delivered'") == []


def test_a_message_is_judged_by_the_volumes_of_its_revision(root: Root, start: Start) -> None:
    whole = make.ct_series(5)
    with Receiver() as receiver:
        worker = start(receiver, ("volume-written", "volume-superseded"), where="slices == 3")
        convert(root, whole[:3])
        convert(root, whole[3:])
        work_off(worker)
        assert [(one.content["event"], one.content["revision"]) for one in receiver.received] == [
            ("volume-written", 1), ("volume-superseded", 1),
        ]  # fmt: skip


def test_a_new_hook_is_not_told_of_the_past(root: Root, start: Start) -> None:
    convert(root, make.ct_series(3))
    with Receiver() as receiver:
        worker = start(receiver)
        assert not worker.work()
        take(root, make.ct_series(1))
        worker.work()
        assert receiver.events() == ["instance-stored"]


def test_a_restart_goes_on_where_the_last_process_ended(root: Root, start: Start) -> None:
    with Receiver() as receiver:
        worker = start(receiver)
        take(root, make.ct_series(2))
        worker.work()
        root.convert_due()
        start(receiver).work()
        assert receiver.events() == ["instance-stored"] * 2 + ["series-quiet", "volume-written"]


@pytest.mark.slow
def test_single_instances_cost_no_row_unless_they_fail(root: Root, start: Start) -> None:
    with Receiver(refusing(500)) as receiver:
        worker = start(receiver, ("instance-stored",))
        take(root, make.ct_series(2))
        worker.work()
        take(root, make.ct_series(3))
        worker.work()
    reported = root.rows("SELECT event, state, attempts, reason FROM v_deliveries ORDER BY happened_at")
    assert [(row["state"], row["attempts"], row["reason"]) for row in reported] == [
        ("waiting", 1, "HTTP status 500"),
        ("waiting", 0, None),  # of the same study: it waits behind
    ]
    [hook] = root.rows("SELECT * FROM v_hooks")
    assert (hook["delivered"], hook["waiting"], hook["instances_behind"]) == (3, 2, 0)


@pytest.mark.slow
def test_what_failed_is_reported_again_later_under_the_same_id(root: Root, start: Start) -> None:
    with Receiver(refusing(500, 503)) as receiver:
        worker = start(receiver, ("volume-written",))
        convert(root, make.ct_series(3))
        worker.work()
        assert not worker.work()
        root.clock.move(30)
        worker.work()
        root.clock.move(30)
        worker.work()
        assert len(receiver.received) <= 3
        root.clock.move(30)
        worker.work()
        assert len(receiver.received) == 3
        assert len({one.headers["webhook-id"] for one in receiver.received}) == 1
        assert len({one.body for one in receiver.received}) == 1
    [row] = root.rows("SELECT state, attempts, due_at FROM v_deliveries")
    assert (row["state"], row["attempts"], row["due_at"]) == ("delivered", 3, None)


@pytest.mark.slow
def test_what_happened_in_a_study_waits_behind_what_failed_of_it_and_others_go_on(root: Root, start: Start) -> None:
    first, other = make.ct_series(2), make.ct_series(2)
    with Receiver(refusing(500)) as receiver:
        worker = start(receiver, ("series-quiet", "volume-written"))
        convert(root, first)
        convert(root, other)
        worker.work()
        root.clock.move(60)
        worker.work()
        reported = [(one.content["study_instance_uid"], one.content["event"]) for one in receiver.received]
    a, b = str(first[0].StudyInstanceUID), str(other[0].StudyInstanceUID)
    assert reported == [
        (a, "series-quiet"),
        (b, "series-quiet"),
        (b, "volume-written"),
        (a, "series-quiet"),
        (a, "volume-written"),
    ]


def test_a_message_is_given_up_after_its_attempts_and_a_person_may_have_it_retried(root: Root, start: Start) -> None:
    with Receiver(refusing(500, 500)) as receiver:
        worker = start(receiver, ("volume-written",), attempts=2)
        convert(root, make.ct_series(2))
        for _ in range(4):
            worker.work()
            root.clock.move(3600)
        assert len(receiver.received) == 2
        [row] = root.rows("SELECT * FROM v_deliveries")
        assert (row["state"], row["attempts"], row["reason"]) == ("given-up", 2, "HTTP status 500")
        [event] = root.rows("SELECT * FROM v_events WHERE kind = 'message-given-up'")
        assert event["series_instance_uid"] == row["series_instance_uid"]
        assert event["detail"] == "hook one did not take volume-written in 2 attempts: HTTP status 500"
        assert root.index.deliveries.retry([Lane("hook", "one")], row["message_id"], root.clock()) == 1
        worker.work()
        assert len(receiver.received) == 3
    [row] = root.rows("SELECT state, attempts FROM v_deliveries")
    assert (row["state"], row["attempts"]) == ("delivered", 1)


@pytest.mark.parametrize(("asked", "least", "most"), [("120", 120, 121), ("99999999", 3600, 3600), ("soon", 15, 30)])
def test_the_other_side_may_ask_to_be_left_alone_for_an_hour_at_most(
    root: Root, start: Start, asked: str, least: float, most: float
) -> None:
    with Receiver(refusing(429, retry_after=asked)) as receiver:
        worker = start(receiver, ("study-quiet", "series-quiet"))
        convert(root, make.ct_series(1))
        worker.work()
    [row] = root.rows("SELECT due_at FROM v_deliveries")
    wait = dt.datetime.fromisoformat(row["due_at"]).replace(tzinfo=dt.UTC) - root.clock()
    assert least <= wait.total_seconds() <= most


def test_what_was_deleted_is_reported_no_more(root: Root, start: Start) -> None:
    series = make.ct_series(2)
    with Receiver(refusing(500)) as receiver:
        worker = start(receiver, ("volume-written",))
        convert(root, series)
        worker.work()
        root.delete("study", str(series[0].StudyInstanceUID))
        root.clock.move(60)
        worker.work()
        assert len(receiver.received) == 1
    [row] = root.rows("SELECT state, reason FROM v_deliveries")
    assert (row["state"], row["reason"]) == ("dropped", "the object was deleted")


def test_what_a_command_wrote_of_a_study_goes_with_the_study(root: Root, start: Start) -> None:
    series, other = make.ct_series(1), make.ct_series(1)
    worker = start(None, ("series-quiet",), command=("echo", "Nemo^Captain"))
    convert(root, [*series, *other])
    worker.work()
    root.delete("study", str(series[0].StudyInstanceUID))
    kept = {row["study_instance_uid"]: row["output"] for row in root.rows("SELECT * FROM v_deliveries")}
    assert kept == {str(series[0].StudyInstanceUID): None, str(other[0].StudyInstanceUID): "Nemo^Captain"}


def test_an_instance_whose_row_number_was_another_ones_is_reported(root: Root, start: Start) -> None:
    first, second, third = make.ct_series(3), make.ct_series(2), make.ct_series(4)
    with Receiver() as receiver:
        worker = start(receiver, ("instance-stored",))
        take(root, first)
        worker.work()
        root.delete("series", str(first[0].SeriesInstanceUID))
        take(root, second)
        worker.work()
        root.delete("instance", str(second[1].SOPInstanceUID))
        take(root, third)
        worker.work()
        reported = [one.content["sop_instance_uid"] for one in receiver.received]
    assert reported == [str(ds.SOPInstanceUID) for ds in (*first, *second, *third)]


def test_a_deletion_between_reading_and_recording_loses_no_instance(root: Root, start: Start) -> None:
    first, second = make.ct_series(3), make.ct_series(3)
    with Receiver() as receiver:
        worker = start(receiver, ("instance-stored",))
        take(root, first)
        read = root.index.deliveries.work(Lane("hook", "one"), ("instance-stored",), root.clock())
        assert len(read.new) == 3
        root.delete("series", str(first[0].SeriesInstanceUID))
        take(root, second)
        root.index.deliveries.record(Lane("hook", "one"), [], read.new, root.clock())
        worker.work()
        reported = [one.content["sop_instance_uid"] for one in receiver.received]
    assert reported == [str(ds.SOPInstanceUID) for ds in second]


def test_only_of_some_senders(root: Root, start: Start) -> None:
    wanted = make.ct_series(2)
    with Receiver() as receiver:
        worker = start(receiver, calling_ae_titles=("CT1",))
        take(root, make.ct_series(2), "CT2")
        convert(root, wanted, "CT1")
        worker.work()
        reported = [one.content for one in receiver.received]
    assert [one["event"] for one in reported] == ["instance-stored"] * 2 + ["series-quiet", "volume-written"]
    assert {one["study_instance_uid"] for one in reported} == {str(wanted[0].StudyInstanceUID)}
    assert {tuple(one["calling_ae_titles"]) for one in reported} == {("CT1",)}
    assert len(root.rows("SELECT 1 FROM v_deliveries")) == 2  # nothing of what nobody wants to know


def test_a_refused_series_has_failed_and_a_report_has_not(root: Root, start: Start) -> None:
    refused = make.ct_series(2)
    for ds in refused:
        ds.PixelData = ds.PixelData[:100]
    with Receiver() as receiver:
        worker = start(receiver, ("series-failed",))
        take(root, [make.structured_report()])
        convert(root, refused)
        assert {row["state"] for row in root.rows("SELECT state FROM v_series")} == {"refused", "not-an-image"}
        worker.work()
        [reported] = [one.content for one in receiver.received]
    assert (reported["state"], reported["volumes"]) == ("refused", [])
    assert reported["failures"]
    assert {row["reason"] for row in root.rows("SELECT reason FROM v_failures")} > {"not-an-image"}
    assert all(set(one) == {"stack", "reason", "detail"} for one in reported["failures"])


def test_what_a_hook_does_not_want_does_not_queue_behind_what_failed(root: Root, start: Start) -> None:
    scan, report = make.ct_series(2), make.structured_report()
    report.StudyInstanceUID, report.PatientID = scan[0].StudyInstanceUID, scan[0].PatientID
    with Receiver(refusing(500, 500)) as receiver:
        worker = start(receiver, ("volume-written", "series-failed"))
        convert(root, scan)
        worker.work()
        convert(root, [report])
        worker.work()
    assert {row["state"] for row in root.rows("SELECT state FROM v_series")} == {"converted", "not-an-image"}
    waiting = root.rows("SELECT event, state FROM v_deliveries")
    assert [(row["event"], row["state"]) for row in waiting] == [("volume-written", "waiting")]


def test_a_late_instance_tells_of_the_superseded_volume_and_of_the_new_one(root: Root, start: Start) -> None:
    *most, last = make.ct_series(4)
    with Receiver() as receiver:
        worker = start(receiver, ("volume-written", "volume-superseded"))
        convert(root, most)
        convert(root, [last])
        worker.work()
        reported = [(one.content["event"], one.content["revision"]) for one in receiver.received]
        newest = receiver.received[-1].content["volumes"]
    assert reported == [("volume-written", 1), ("volume-superseded", 1), ("volume-written", 2)]
    assert [volume["shape"][2] for volume in newest] == [4]


def test_a_changed_verdict_is_reported_with_the_one_before_even_after_a_failure(root: Root, start: Start) -> None:
    series = make.ct_series(3)
    with Receiver(refusing(204, 503)) as receiver:
        worker = start(receiver, ("volume-written", "volume-superseded", "verdict-changed"), where="slices == 3")
        convert(root, series)
        worker.work()
        key = str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID)
        root.index.series.record_reported(key, Reported(3, 5), root.clock())
        root.index.series.record_reported(key, Reported(3, 5), root.clock())  # the same again
        worker.work()
        root.clock.move(60)
        worker.work()
        reported = [one.content for one in receiver.received]
    assert [(one["event"], one["revision"]) for one in reported] == [("volume-written", 1)] + 2 * [
        ("verdict-changed", 1)
    ]
    assert reported[1] == reported[2]
    assert reported[0]["verdict_before"] is None
    assert reported[1]["verdict_before"] == reported[0]["verdict"]
    assert (reported[1]["verdict"]["certainty"], reported[1]["verdict"]["missing_instances"]) == ("suspect", 2)
    assert reported[1]["detail"] == reported[1]["verdict"]["reason"]
    assert reported[1]["volumes"] == reported[0]["volumes"]


def test_a_route_of_complete_series_hears_of_each_verdict() -> None:
    assert set(deliveries.kinds_of(["series-complete"])) == {"series-converted", "series-refused", "verdict-changed"}


@pytest.mark.parametrize("is_included", [False, True])
def test_the_patient_is_named_only_where_that_is_asked_for(root: Root, start: Start, is_included: bool) -> None:
    series = make.ct_series(1, PatientName="Nemo^Captain", PatientID="N1")
    with Receiver() as receiver:
        worker = start(receiver, include_patient=is_included)
        convert(root, series)
        worker.work()
        assert len(receiver.received) == 3
        for one in receiver.received:
            assert (b"Nemo" in one.body) is is_included
            assert one.content.get("patient", {}).get("patient_id") == ("N1" if is_included else None)
    lines = [json.loads(line) for line in (root.folder / "audit.jsonl").read_text().splitlines()]
    reported = [(line["event"]["meaning"], line["outcome"], line["objects"][0]["patient_id"]) for line in lines]
    assert reported == ([("Export", 0, "N1")] * 3 if is_included else [])


def test_an_instance_that_was_replaced_is_reported_under_another_id(root: Root, start: Start) -> None:
    root.ingest.overwrite_policy = "replace"
    [ds] = make.ct_series(1)
    with Receiver() as receiver:
        worker = start(receiver, ("instance-stored",))
        take(root, [ds])
        worker.work()
        ds.RescaleIntercept = "-1000"
        take(root, [ds])
        worker.work()
        first, second = receiver.received
    assert first.content["instance"]["sha256"] != second.content["instance"]["sha256"]
    assert first.headers["webhook-id"] != second.headers["webhook-id"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on", "reported"),
    [
        (ALL, (["instance-stored"] * 4 + ["series-quiet", "volume-written"]) * 4 + ["study-quiet"] * 4),
        (("study-quiet",), ["study-quiet"] * 4),  # behind many events that this hook does not want
    ],
    ids=["everything", "the last"],
)
def test_a_long_backlog_is_reported_whole_and_in_order(
    root: Root, start: Start, monkeypatch: pytest.MonkeyPatch, on: tuple[str, ...], reported: list[str]
) -> None:
    monkeypatch.setattr(deliveries, "MAX_READ_ROWS", 3)
    with Receiver() as receiver:
        worker = start(receiver, on)
        for _ in range(4):
            convert(root, make.ct_series(4))
        root.mark_quiet()
        while worker.step() == 0.0:
            pass
        assert receiver.events() == reported


def test_a_hook_sleeps_until_its_next_try_and_not_at_all_behind_what_blocks_others(root: Root, start: Start) -> None:
    with Receiver(refusing(500)) as receiver:
        worker = start(receiver, ("instance-stored",))
        assert worker.step() is None
        take(root, make.ct_series(3))  # two of them wait behind the first, and are due by themselves
        assert worker.step() == 0.0
        assert 15 <= worker.step() <= 30
        assert len(receiver.received) == 1


def test_a_running_hook_is_told_of_what_is_committed(root: Root, start: Start) -> None:
    with Receiver() as receiver:
        worker = start(receiver, ("instance-stored",))
        worker.start()
        until(lambda: worker.steps > 0, 30, "its first step")
        take(root, make.ct_series(1))
        receiver.wait_for(1)
        worker.stop()


@pytest.mark.slow
def test_news_of_a_gone_hook_wait_without_rows(root: Root, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_WAITING", 3)
    answers: list[int] = []
    series = [make.ct_series(1) for _ in range(6)]
    with Receiver(lambda received: Answer(204 if answers else 502)) as receiver:
        worker = start(receiver, ("instance-stored",), attempts=100)
        for one in series[:3]:
            take(root, one)
        worker.work()
        for one in series[3:]:
            take(root, one)
        for _ in range(3):
            root.clock.move(3600)
            worker.work()
        assert len(root.rows("SELECT 1 FROM v_deliveries")) == 3
        [hook] = root.rows("SELECT * FROM v_hooks")
        assert hook["instances_behind"] == 3
        answers.append(204)
        count = len(receiver.received)
        root.clock.move(3600)
        work_off(worker)
        reported = [one.content["sop_instance_uid"] for one in receiver.received[count:]]
    assert sorted(reported) == sorted(str(ds.SOPInstanceUID) for one in series for ds in one)


def test_a_hook_that_is_configured_no_more_is_forgotten(root: Root, start: Start) -> None:
    with Receiver(refusing(500)) as receiver:
        worker = start(receiver, ("instance-stored",))
        take(root, make.ct_series(2))
        worker.work()
    root.index.deliveries.begin("hook", {Lane("hook", "two"): ("volume-written",)})
    assert [row["hook"] for row in root.rows("SELECT hook FROM v_hooks")] == ["two"]
    assert {row["state"] for row in root.rows("SELECT state FROM v_deliveries")} == {"dropped"}


def test_a_hook_that_wants_instances_from_now_on_is_not_told_of_earlier_ones(root: Root, start: Start) -> None:
    with Receiver() as receiver:
        start(receiver, ("volume-written",))
        take(root, make.ct_series(2))
        worker = start(receiver, ("volume-written", "instance-stored"))
        take(root, make.ct_series(1))
        worker.work()
        assert receiver.events() == ["instance-stored"]


def test_a_slow_hook_holds_up_no_other_and_a_stop_does_not_wait_for_it(root: Root, audit: Audit) -> None:
    never = threading.Event()
    with Receiver(lambda received: Answer(after=never)) as slow, Receiver() as quick:
        hooks = {
            name: WebhookSettings(on=("instance-stored",), url=one.url)
            for name, one in (("slow", slow), ("quick", quick))
            for name, one in (("slow", slow), ("quick", quick))
        }
        with running(Notifier(Settings(hooks=hooks), root.index, Metrics(), audit, root.results), 0.1):
            take(root, make.ct_series(4))
            slow.wait_for(1)
            quick.wait_for(4)
        [row] = [row for row in root.rows("SELECT * FROM v_hooks") if row["hook"] == "slow"]
        assert (row["instances_behind"], row["waiting"]) == (4, 0)  # it is told by the next start
        never.set()


@pytest.mark.slow
def test_an_error_of_ours_is_one_of_its_message_and_holds_up_no_other(
    root: Root, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as receiver:
        worker = start(receiver, ("instance-stored",))
        take(root, make.ct_series(1))
        with monkeypatch.context() as broken:
            broken.setattr(HookMessage, "encoded", lambda self: 1 / 0)
            worker.work()
        take(root, make.ct_series(1))
        worker.work()
        assert len(receiver.received) == 1
    [row] = root.rows("SELECT state, reason FROM v_deliveries")
    assert (row["state"], row["reason"]) == ("waiting", "ZeroDivisionError while delivering")


@pytest.mark.slow
def test_a_replay_leaves_room_and_goes_on_from_there(root: Root, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_REPLAYED", 2)
    series = [make.ct_series(1) for _ in range(3)]
    for one in series:
        convert(root, one)
    keys = [(str(one[0].StudyInstanceUID), str(one[0].SeriesInstanceUID)) for one in series]

    def replay(again: str | None = None, keys: list[tuple[str, str]] = keys) -> deliveries.Replay:
        return root.index.deliveries.replay("one", ["volume-written"], keys, again, root.clock())

    with Receiver() as receiver:
        worker = start(receiver, ("volume-written",))
        first = replay()
        assert (len(first.queued), first.left) == (2, keys[2:])
        assert replay(keys=first.left).left == keys[2:]
        worker.work()
        second = replay()
        assert (len(second.queued), second.delivered, second.left) == (1, 2, [])
        worker.work()
        assert replay().delivered == 3
        assert receiver.events() == ["volume-written"] * 3
        for command in ("this one", "another"):
            root.clock.move(-600)  # nothing is told by the clock
            assert len(replay(command, keys[:1]).queued) == 1
            worker.work()
            assert replay(command, keys[:1]).delivered == 1
    assert replay(keys=[("1.2", "3.4")]).without_event == 1


def test_a_replay_repeats_the_last_outcome_alone(root: Root, start: Start) -> None:
    whole = make.ct_series(4)
    convert(root, whole[:3])
    convert(root, whole[3:])
    key = (str(whole[0].StudyInstanceUID), str(whole[0].SeriesInstanceUID))
    with Receiver() as receiver:
        worker = start(receiver)
        root.index.deliveries.replay("one", ALL, [key], None, root.clock())
        worker.work()
        assert [(one.content["event"], one.content["revision"]) for one in receiver.received] == [
            ("series-quiet", 2), ("volume-written", 2),
        ]  # fmt: skip
    pending = PendingEvent(receiver.received[1].headers["webhook-id"], "volume-written", root.clock(), *key)
    job, _ = root.index.jobs.begin("one", pending, root.clock(), dt.timedelta(days=1))
    root.index.jobs.end(job.job_id, "failed", "away", root.clock())
    root.index.deliveries.replay("one", ALL, [key], "again", root.clock())
    again, _ = root.index.jobs.begin("one", pending, root.clock(), dt.timedelta(days=1))
    assert (again.id != job.id, again.is_open) == (True, True)
