"""From the first instance of a series to the last revision of its volumes: waits, verdicts, revisions, events."""

import datetime as dt
import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset
from pydicom.uid import generate_uid

from node.api import Audit, OutOfResources
from node.completeness import Reported
from node.control.repository import Repository
from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert
from node.conversion.scheduler import Worker
from node.conversion.series import input_sha256, is_unchanged
from node.conversion.volume_files import Housekeeping
from node.dicom.attributes import instance_attributes
from node.dicom.header import Head
from node.extensions.results.rows import ResultRepository
from node.index.looking import looking
from node.index.rows.models.levels import Base, SeriesRow
from node.index.rows.records import ClaimedSeries, Lane, Received, StoredFile
from node.index.rules.series.waits import OPEN_SECONDS
from node.index.rules.work.ledger import Postponed
from node.index.rules.work.messages import Attempt, PendingEvent
from node.lifecycle.deletion import restore
from node.receive.ingest import Origin
from node.receive.senders import OpenAssociations, quiet_seconds_of
from node.settings.core import SeriesSettings
from node.settings.section import Convert
from node.writers.options import write_options
from tests import make
from tests.ingest import settings_of
from tests.integration.conftest import QUICK, Clock, Root, bring, data_set_bytes
from tests.rows import view_rows
from tests.split import by_volume, split_series

MAX_WAIT = dt.timedelta(seconds=5400)
BY_NODE = ("cut off", "drained", "given up", "idle")
MIN_SERIES = 5
"""Of a sender, until something is learnt of it."""


def due(root: Root) -> ClaimedSeries | None:
    return root.index.series.claim_due(root.clock(), MAX_WAIT)


def settle(root: Root, seconds: float = 61, run: Callable[[ConversionJob], Converted] = convert) -> ClaimedSeries:
    """Let the quiet time pass and convert, as a worker does."""
    root.clock.move(seconds)
    claimed = root.claim(0)
    if is_unchanged(claimed, root.archive, QUICK):
        root.index.series.record_unchanged(claimed, root.clock())
    else:
        root.convert(claimed, run)
    return claimed


def require_due_in(root: Root, seconds: float) -> None:
    """The series is due that much later, and not a second before."""
    root.clock.move(seconds - 1)
    assert due(root) is None
    root.clock.move(2)
    assert due(root) is not None


def the_series(root: Root) -> dict[str, Any]:
    [series] = root.rows("SELECT * FROM v_series")
    return series


def verdict(root: Root) -> tuple[Any, ...]:
    series = the_series(root)
    return tuple(series[name] for name in ("verdict", "verdict_rule", "expected_instances", "missing_instances"))


def told_by_sidecars(root: Root, uid: str, *names: str) -> set[tuple[Any, ...]]:
    """What the sidecars of the current volumes of a series tell of its verdict."""
    query = "SELECT path FROM v_volumes WHERE NOT superseded AND series_instance_uid = :uid"
    sidecars = {path for row in root.rows(query, uid=uid) for path in Path(row["path"]).parent.glob("*.json")}
    reported = [json.loads(path.read_text())["completeness"] for path in sidecars]
    return {tuple(one[name] for name in names) for one in reported}


def written_verdicts(root: Root) -> set[tuple[Any, ...]]:
    return told_by_sidecars(root, the_series(root)["series_instance_uid"], "state", "missing")


def settle_all(root: Root, seconds: float = 0) -> int:
    """Let time pass, and convert what is due; return how often."""
    root.clock.move(seconds)
    count = 0
    while (claimed := due(root)) is not None:
        root.convert(claimed)
        count += 1
        assert count < 10, "it is converted for ever"
    root.write_verdicts()
    return count


def require_sidecars_to_follow(root: Root) -> None:
    """The verdict of the index is in the sidecars in a moment, and no conversion is due for it."""
    series = the_series(root)
    assert (series["state"], series["revision"]) == ("converted", 1)
    root.write_verdicts()
    assert due(root) is None
    assert the_series(root) == series
    assert written_verdicts(root) == {(series["verdict"], series["missing_instances"])}


def events(root: Root) -> list[str]:
    return [row["kind"] for row in root.rows("SELECT kind FROM v_events ORDER BY id")]


def arrived_at(ds: FileDataset, received_at: dt.datetime, begun: str = "") -> Received:
    """An instance that a host received, and that its index may get much later."""
    syntax, data = str(ds.file_meta.TransferSyntaxUID), data_set_bytes(ds)
    origin = "dicom", "MODALITY", "VOXELNODE", "", received_at
    file = StoredFile(f"objects/00000000/{ds.SOPInstanceUID}.dcm", "", len(data), "0" * 64, 0, syntax, *origin)
    return Received(instance_attributes(data, syntax), file, 60.0, "never", begun, partial(Head, data, 0, syntax))


def place_of(ds: FileDataset) -> tuple[str, str]:
    return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)


def origin(association: str, calling_ae_title: str = "MODALITY") -> Origin:
    return Origin("dicom", calling_ae_title, "VOXELNODE", "127.0.0.1:1", association)


# Verdicts


def test_a_series_with_all_that_it_announces_is_complete_in_view_and_sidecar(root: Root) -> None:
    root.take_all(make.ct_series(5, ImagesInAcquisition=5))
    settle(root)
    assert verdict(root) == ("complete", "headers", 5, 0)
    assert the_series(root)["expected_source"] == "Images in Acquisition (0020,1002)"
    [path] = [Path(row["path"]) for row in root.rows("SELECT path FROM v_volumes WHERE format = 'nifti'")]
    sidecar = json.loads(path.with_name("volume.json").read_text())
    assert sidecar["completeness"] == {
        "state": "complete",
        "rule": "headers",
        "expected": 5,
        "expected_source": "Images in Acquisition (0020,1002)",
        "received": 5,
        "missing": 0,
        "reason": "5 of 5 instances that Images in Acquisition (0020,1002) announces",
        "missing_detail": "",
    }


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (lambda: make.gap_series(8, missing=(3, 4)), ("incomplete", "geometry", None, 2)),
        (lambda: make.ct_series(6, ImagesInAcquisition=6)[:5], ("incomplete", "headers", 6, 1)),
        (lambda: [make.structured_report()], ("complete", "quiet", None, 0)),
    ],
    ids=["a gap in space", "a last slice that never came", "no image"],
)
def test_a_series_is_judged_by_what_came_of_it(
    root: Root, instances: Callable[[], list[FileDataset]], expected: tuple[Any, ...]
) -> None:
    root.take_all(instances())
    settle(root)
    assert verdict(root) == expected


def test_a_lost_time_is_listed_in_the_index_in_words(root: Root) -> None:
    for index, ds in enumerate(make.time_series(5, 4)):
        if index // 4 != 2:
            root.take(ds)
    settle(root)
    assert verdict(root) == ("incomplete", "times", None, 4)
    series = the_series(root)
    assert "Instance Numbers 9-12 are missing" in series["verdict_reason"]
    assert series["missing_detail"].endswith("Instance Numbers 9-12")


@pytest.mark.slow
def test_a_last_slice_is_suspected_from_the_other_series_of_the_protocol(root: Root) -> None:
    study, protocol = generate_uid(), {"ProtocolName": "t2", "SeriesDescription": "t2 axial"}
    for _ in range(2):
        root.take_all(make.mr_series(6, study_uid=study, **protocol))
    root.take_all(make.mr_series(3, study_uid=study, ProtocolName="localizer", SeriesDescription="t2 axial"))
    for _ in range(3):
        settle(root)
    last = make.mr_series(6, study_uid=study, **protocol)[:5]
    root.take_all(last)
    settle(root)
    found = {row["series_instance_uid"]: row for row in root.rows("SELECT * FROM v_series")}
    suspect = found.pop(str(last[0].SeriesInstanceUID))
    assert {row["verdict"] for row in found.values()} == {"complete"}
    assert (suspect["verdict"], suspect["verdict_rule"], suspect["missing_instances"]) == ("suspect", "siblings", 1)
    assert suspect["verdict_reason"].startswith("2 other series of this protocol have 6 instances each")


@pytest.mark.slow
@pytest.mark.parametrize("numbered", ["alike", "in turn", "as scans that were repeated"])
def test_series_that_are_volumes_of_one_acquisition_say_so(root: Root, numbered: str) -> None:
    for index, ds in enumerate(split_series(3, 4, by_volume).datasets):
        time, slice_ = divmod(index, 4)
        if numbered != "alike":
            ds.SeriesNumber, ds.InstanceNumber = 7 + time, slice_ + 1
            ds.AcquisitionNumber = time + 1 if numbered == "in turn" else 1
        root.take(ds)
        if slice_ == 3:
            settle_all(root, 61)  # each is converted before the next one is received
    found = root.rows("SELECT * FROM v_series")
    for row in found:
        told = told_by_sidecars(root, row["series_instance_uid"], "state", "reason")
        assert told == {(row["verdict"], row["verdict_reason"])}
    if numbered == "as scans that were repeated":
        assert {row["verdict"] for row in found} == {"complete"}
    else:
        assert [(row["verdict"], row["verdict_rule"]) for row in found] == [("suspect", "siblings")] * 3
        assert all("seem to be of the same acquisition" in row["verdict_reason"] for row in found)


@pytest.mark.slow
def test_a_series_is_judged_again_when_another_one_of_its_study_goes_or_comes_back(root: Root, audit: Audit) -> None:
    for ds in split_series(2, 4, by_volume).datasets:
        root.take(ds)
    settle_all(root, 61)
    first, second = (row["series_instance_uid"] for row in root.rows("SELECT series_instance_uid FROM v_series"))

    def judged() -> dict[str, str]:
        found = root.rows("SELECT series_instance_uid AS uid, verdict, verdict_reason FROM v_series")
        for row in found:
            assert told_by_sidecars(root, row["uid"], "state", "reason") == {(row["verdict"], row["verdict_reason"])}
        return {row["uid"]: row["verdict"] for row in found}

    assert judged() == {first: "suspect", second: "suspect"}
    root.delete("series", second, trash_until=root.clock() + dt.timedelta(days=1))
    settle_all(root)
    assert judged() == {first: "complete"}
    assert events(root)[-2:] == ["verdict-changed", "deleted"]
    [number], _ = root.index.trash.of("series", second)
    restore(root.archive, root.index, audit, number, "someone", lambda title: 60.0, root.clock())
    settle_all(root, 61)
    assert judged() == {first: "suspect", second: "suspect"}


def test_a_series_of_each_time_lacks_no_times(root: Root) -> None:
    study, times = generate_uid(), {"ProtocolName": "dynamic", "NumberOfTemporalPositions": 2}
    for time in (1, 2):
        root.take_all(make.mr_series(4, study_uid=study, TemporalPositionIdentifier=time, **times))
    for _ in range(2):
        settle(root)
    assert {row["verdict"] for row in root.rows("SELECT verdict FROM v_series")} == {"complete"}


def test_a_series_whose_converter_crashes_has_a_verdict_too(root: Root) -> None:
    root.take_all(make.ct_series(4, ImagesInAcquisition=5)[:3])
    assert not root.index.series.record_crash(root.claim(), "ended by SIGSEGV", attempts=1, now=root.clock())
    assert verdict(root) == ("incomplete", "headers", 5, 2)
    assert events(root) == ["series-quiet", "series-failed"]


# Waits


def test_a_sender_that_aborted_has_the_time_of_the_configuration_to_come_back(tmp_path: Path) -> None:
    grace = SeriesSettings(aborted_grace_seconds=120)
    with Repository(settings_of(tmp_path).model_copy(update={"series": grace})) as repository:
        bring(repository.ingest, *make.ct_series(6)[:3], origin=origin("a1"))
        repository.ingest.association_ended("a1", "aborted")
        assert repository.applier.catch_up()
    [row] = view_rows(tmp_path, "SELECT due_at, last_received_at FROM v_series")
    due_at, received_at = (dt.datetime.fromisoformat(str(moment)) for moment in row.values())
    assert (due_at - received_at).total_seconds() == pytest.approx(120, abs=5)


def test_an_association_that_is_aborted_after_the_conversion_has_the_series_judged_again(root: Root) -> None:
    root.take_all(make.ct_series(8)[:4], origin("a1"))
    settle(root, 461)
    assert verdict(root) == ("complete", "geometry", None, 0)
    root.clock.move(60)
    root.end("a1", "aborted")
    assert verdict(root) == ("incomplete", "association", None, None)
    assert events(root) == ["series-quiet", "series-converted", "sender-aborted", "verdict-changed"]
    assert written_verdicts(root) == {("complete", 0)}
    require_sidecars_to_follow(root)
    reported = [path.read_bytes() for path in root.folder.glob("volumes/*/*/1-*/*.json")]
    series = the_series(root)
    root.index.series.reopen([(series["study_instance_uid"], series["series_instance_uid"])], root.clock())
    root.convert(root.claim(0))
    assert [path.read_bytes() for path in root.folder.glob("volumes/*/*/2-*/*.json")] == reported != []


@pytest.mark.parametrize("converted", [False, True], ids=["before the conversion", "after it"])
def test_an_association_that_the_end_of_the_node_cut_off_was_not_released(
    open_root: Callable[[], Root], converted: bool
) -> None:
    root = open_root()
    for number in (1, 2):
        for ds in make.ct_series(8, PatientID=f"TEST-{number}")[:4]:
            root.take(ds, origin(f"a{number}"))
    root.end("a2", "released")
    if converted:
        settle_all(root, 400)
    root = open_root()  # after a kill: nobody was told of the end of the first
    root.ingest.end_cut_off()
    settle_all(root, 400)
    rows = root.rows("SELECT * FROM v_series")
    verdicts = {(row["verdict"], row["verdict_rule"]) for row in rows}
    assert verdicts == {("complete", "geometry")} | (set() if converted else {("incomplete", "association")})
    assert not any("the sender did not release" in row["verdict_reason"] for row in rows), "the node did"
    reported, root = events(root), open_root()
    root.ingest.end_cut_off()
    assert events(root) == reported, "it is told once"


def ended(root: Root, association: str, outcome: str, **how: Any) -> None:
    """Three of the six slices of a series came with an association that began now, and ended ten seconds later."""
    for ds in make.ct_series(6)[:3]:
        root.take(ds, origin(association))
    root.clock.move(how.pop("seconds", 10))
    root.end(association, outcome, **how)


@pytest.mark.parametrize("outcome", BY_NODE)
def test_an_association_that_the_node_ended_before_its_series_was_quiet_is_not_held_against_the_sender(
    root: Root, outcome: str
) -> None:
    ended(root, "a1", outcome)
    root.clock.move(280)
    assert due(root) is None, "it has the time of an abort"
    settle(root, 20)
    assert verdict(root) == ("incomplete", "association", None, None)
    assert the_series(root)["verdict_reason"].startswith("this node, not the sender, ended the association after 3 ")
    assert events(root)[0] == "node-ended"


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        *((outcome, {"seconds": 61}) for outcome in BY_NODE),
        ("idle", {"is_agreed": True}),
        ("drained", {"is_agreed": True}),
        ("lost", {"releases": False}),
    ],
)
def test_an_association_that_the_node_ended_says_nothing_once_its_series_is_quiet_or_if_its_peer_agreed(
    root: Root, outcome: str, how: dict[str, Any]
) -> None:
    ended(root, "a1", outcome, **how)
    settle(root)
    assert verdict(root) == ("complete", "geometry", None, 0)
    assert events(root) == ["series-quiet", "series-converted"]


def test_what_was_quiet_counts_from_when_the_node_began_to_end_the_association(root: Root) -> None:
    ended(root, "a1", "drained", seconds=70, ending_at=root.clock() + dt.timedelta(seconds=59))
    settle(root, 300)
    assert verdict(root)[:2] == ("incomplete", "association")


@pytest.mark.parametrize("outcome", ["aborted", "lost", "violated", "idle"])
def test_an_association_that_ended_in_the_middle_of_an_instance_had_more_to_send(root: Root, outcome: str) -> None:
    ended(root, "a1", outcome, is_cut=True, releases=False)
    settle(root, 300)
    assert verdict(root) == ("incomplete", "association", None, None)
    assert "in the middle of an instance, after 3 instances" in the_series(root)["verdict_reason"]


@pytest.mark.parametrize("converted", [False, True], ids=["before the conversion", "after it"])
def test_a_sender_that_comes_back_after_the_node_ended_its_association_had_sent_its_series(
    root: Root, converted: bool
) -> None:
    ended(root, "a1", "drained")
    first = the_series(root)["series_instance_uid"]
    if converted:
        settle(root, 300)
        assert verdict(root)[0] == "incomplete"
    root.clock.move(1)
    for ds in make.ct_series(3):
        root.take(ds, origin("a2"))
    root.end("a2", "released")
    settle_all(root, 400)
    assert {row["verdict"] for row in root.rows("SELECT verdict FROM v_series")} == {"complete"}
    assert told_by_sidecars(root, first, "state") == {("complete",)}


def whole(root: Root, number: int, outcome: str = "aborted", **how: Any) -> None:
    """A whole series of a sender that did not release its association."""
    for ds in make.ct_series(3, PatientID=f"P-{number}"):
        root.take(ds, origin(f"w{number}"))
    root.end(f"w{number}", outcome, **how)


def verdicts(root: Root) -> list[str]:
    return [row["verdict"] for row in root.rows("SELECT verdict FROM v_series ORDER BY rowid")]


def test_series_of_a_sender_are_judged_again_once_a_person_says_that_it_never_releases(root: Root) -> None:
    title = str(origin("w").calling_ae_title)
    whole(root, 0)
    whole(root, 1, is_cut=True)
    settle_all(root, 301)
    whole(root, 2)
    assert verdicts(root) == ["incomplete", "incomplete", None]
    root.index.associations.forget_ends(["OTHER"], root.clock())
    assert settle_all(root) == 0
    root.index.associations.forget_ends([title], root.clock())
    assert settle_all(root, 301) == 1
    assert verdicts(root) == ["complete", "incomplete", "complete"], "who ends in an instance has more to send"
    root.index.associations.forget_ends([title], root.clock())
    assert settle_all(root) == 0


@pytest.mark.slow
def test_a_sender_is_not_known_never_to_release_by_series_that_are_not_whole(root: Root) -> None:
    for number in range(2 * MIN_SERIES):
        for ds in make.ct_series(6, PatientID=f"P-{number}")[1:4]:  # the first is missing
            root.take(ds, origin(f"w{number}"))
        root.end(f"w{number}", "aborted")
        settle_all(root, 301)
    assert set(verdicts(root)) == {"incomplete"}


def test_a_sender_that_is_back_has_no_grace_whatever_an_association_of_before_brings_with_it(root: Root) -> None:
    begin, second = root.clock(), dt.timedelta(seconds=1)
    first, back, beside = make.ct_series(3)
    before = origin("a2").begun
    root.take(first, origin("a1"))
    root.clock.move(30)
    root.end("a1", "aborted")
    came = arrived_at(back, begin + 41 * second, origin("a3").begun)
    root.index.instances.add([came, arrived_at(beside, begin + 42 * second, before)])
    assert the_series(root)["due_at"] == "2026-01-01 12:01:42.000000"


def test_a_late_instance_is_neither_the_last_nor_the_end_of_an_association_that_broke(root: Root) -> None:
    begin, second = root.clock(), dt.timedelta(seconds=1)
    first, back, last, *late = make.ct_series(6)
    root.take(first, origin("a1"))
    root.clock.move(10)
    root.end("a1", "aborted")
    root.clock.move(10)
    root.take(back, origin("a2"))
    root.index.instances.add([arrived_at(last, begin + 40 * second), arrived_at(late.pop(), begin + 30 * second)])
    root.index.instances.add([arrived_at(late.pop(), begin + 5 * second)])  # as another host does that was late
    assert the_series(root)["last_received_at"] == "2026-01-01 12:00:40.000000"
    assert the_series(root)["open_since"] == "2026-01-01 12:00:00.000000"
    root.index.instances.add([arrived_at(late.pop(), begin - 5 * second)])
    assert the_series(root)["open_since"] == "2026-01-01 11:59:55.000000"
    root.clock.move(79)
    assert due(root) is None
    assert not root.claim(2).expectation.aborted, "the sender has come back"


def test_an_open_association_keeps_its_last_series_waiting_while_it_is_active(root: Root) -> None:
    moment = [0.0]
    root.ingest.open_associations = OpenAssociations(lambda: moment[0])
    root.ingest.quiet_seconds = lambda calling_ae_title: 10.0

    def pass_time(seconds: float) -> None:
        moment[0] += seconds
        root.clock.move(seconds)

    def due_series() -> str | None:
        root.ingest.note_activity()
        claimed = root.index.series.claim_due(root.clock())
        if claimed is None:
            return None
        root.convert(claimed)
        return claimed.series_instance_uid

    first, second = make.ct_series(2), make.ct_series(2)
    root.take_all(first, origin("a1"))
    pass_time(1)
    root.take_all(second, origin("a1"))
    pass_time(40)
    assert due_series() == first[0].SeriesInstanceUID, "the association has gone on"
    assert due_series() is None
    root.ingest.open_associations.note_bytes("a1")
    root.ingest.open_associations.note_bytes("unknown")
    pass_time(OPEN_SECONDS - 1)
    assert due_series() is None, "bytes of an instance have come"
    pass_time(1)
    assert due_series() == second[0].SeriesInstanceUID, "it has been idle for long"
    third = make.ct_series(2)
    root.take_all(third, origin("a1"))
    pass_time(11)
    assert due_series() is None
    root.end("a1", "released")
    assert due_series() == third[0].SeriesInstanceUID
    assert root.rows("SELECT * FROM open_associations") == []


def test_the_quiet_time_of_a_sender_is_learnt_from_its_longest_gaps(root: Root) -> None:
    root.ingest.quiet_seconds = quiet_seconds_of("auto", {"FIXED": 30}, root.index.senders.quiet_seconds)
    for number in range(MIN_SERIES):
        assert root.index.senders.quiet_seconds("CT1") is None
        for ds in make.ct_series(3):
            root.take(ds, origin("a1", "CT1"))
            root.clock.move(7 + number)
        claimed = due(root) or settle(root)
        assert claimed is not None
    [sender] = root.rows("SELECT * FROM v_senders")
    assert (sender["calling_ae_title"], sender["series"], sender["quiet_seconds"]) == ("CT1", MIN_SERIES, 22.0)
    assert sender["longest_gap_seconds"] == 11.0
    learnt = quiet_seconds_of("auto", {"FIXED": 30}, root.index.senders.quiet_seconds)
    assert [learnt(title) for title in ("CT1", "FIXED", "NEW")] == [22.0, 30, 60.0]


def test_a_gap_that_split_a_series_is_learnt_and_one_of_hours_is_not(root: Root) -> None:
    first, second, third = make.ct_series(3)
    root.take(first, origin("a1", "CT1"))
    settle(root, 90)
    root.take(second, origin("a2", "CT1"))
    settle(root)
    root.clock.move(5 * 3600)
    root.take(third, origin("a3", "CT1"))
    settle(root)
    assert json.loads(root.rows("SELECT gaps FROM senders")[0]["gaps"]) == [90.0]


def test_a_series_that_grows_during_its_conversion_is_open_since_the_first_that_is_not_converted(root: Root) -> None:
    first, second, third, fourth = make.ct_series(4)
    root.take(first, origin("a1", "CT1"))
    claimed = root.claim(90)
    root.take(second, origin("a1", "CT1"))
    root.index.series.release_claim(claimed, root.clock())
    assert the_series(root)["open_since"] == "2026-01-01 12:00:00.000000"

    def grows(job: ConversionJob) -> Converted:
        root.take(third, origin("a1", "CT1"))
        root.clock.move(20)
        root.take(fourth, origin("a1", "CT1"))
        return convert(job)

    settle(root, run=grows)
    assert the_series(root)["open_since"] == "2026-01-01 12:02:31.000000"
    settle(root)
    gaps = json.loads(root.rows("SELECT gaps FROM senders")[0]["gaps"])
    assert gaps == [90.0, 61.0], "also the gap that made it be converted too early"


@pytest.mark.slow
def test_a_series_that_never_gets_quiet_is_converted_after_the_longest_wait(root: Root) -> None:
    series = iter(make.ct_series(30))
    began, claimed = root.clock(), None
    while claimed is None:
        root.take(next(series), origin("a1", "SLOW"))
        root.clock.move(299)
        claimed = due(root)
    assert MAX_WAIT <= root.clock() - began < MAX_WAIT + dt.timedelta(seconds=300)
    assert claimed.expectation.forced
    root.convert(claimed)
    assert verdict(root) == ("incomplete", "forced", None, None)
    root.take(next(series))
    assert due(root) is None, "the wait of what comes later begins anew"


def begin_retries(root: Root) -> None:
    """A message and a report that wait for another attempt, and a job that waits for its outcome, for 30 s."""
    due_at = root.clock() + dt.timedelta(seconds=30)
    root.index.deliveries.begin("hook", {Lane("hook", "one"): ("volume-written",)})
    pending = PendingEvent("id", "volume-written", root.clock(), "1.2")
    root.index.deliveries.record(Lane("hook", "one"), [Attempt(pending, Postponed(due_at), 1)], [], root.clock())
    root.index.work.add_commitment("1.3", "MODALITY", "127.0.0.1", [("1.4", "1.5")], root.clock(), due_at)
    job, _ = root.index.jobs.begin("one", pending, root.clock(), dt.timedelta(days=1))
    root.index.jobs.accepted(job.id, None, due_at, root.clock())


def due_retries(root: Root) -> tuple[int, bool]:
    """How many messages and whether a report are due."""
    work = root.index.deliveries.work(Lane("hook", "one"), ("volume-written",), root.clock())
    return len(work.again), root.index.work.due(("commitment",), root.clock()) != []


@pytest.mark.parametrize("hours", [5, -5])
def test_a_step_of_the_clock_changes_no_wait_of_messages_and_commitments(root: Root, hours: int) -> None:
    begin_retries(root)
    root.clock.move(3600 * hours)
    root.index.timers.shift(dt.timedelta(hours=hours))
    root.clock.move(29)
    assert due_retries(root) == (0, False)
    assert root.index.repository(ResultRepository).next_due_at() == root.clock() + dt.timedelta(seconds=1)
    root.clock.move(2)
    assert due_retries(root) == (1, True)


def test_a_clock_set_back_while_the_node_was_down_delays_no_message_and_no_commitment(root: Root) -> None:
    begin_retries(root)
    root.index.timers.correct(root.clock())
    assert due_retries(root) == (0, False)
    root.clock.move(-5 * 3600)
    root.index.timers.correct(root.clock())
    assert due_retries(root) == (1, True)


def test_no_table_waits_by_a_clock_of_its_own() -> None:
    """What has a `due_at` is moved by `timers.shift`: a table that is new here must be added there, and above."""
    waiting = {table.name for table in Base.metadata.tables.values() if "due_at" in table.columns}
    assert waiting == {"series", "work"}


@pytest.mark.sqlite("hosts follow the clock of the server, which has no steps")
def test_a_step_of_the_clock_that_fails_is_followed_later(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.01)
    begin_retries(root)
    clock = Clock(root.clock())
    worker = Worker(root.archive, root.index, Convert(), clock)
    shift, steps = root.index.timers.shift, []

    def failing(step: dt.timedelta) -> None:
        steps.append(step)
        if len(steps) == 1:
            raise OutOfResources("the index did not commit")
        shift(step)

    monkeypatch.setattr(root.index.timers, "shift", failing)
    clock.move(-5 * 3600)
    with pytest.raises(OutOfResources):
        worker.step()
    worker.step()
    worker.stop(10)
    assert [round(step.total_seconds() / 3600) for step in steps] == [-5, -5]
    root.clock.move(31 - 5 * 3600)
    assert due_retries(root) == (1, True)


def test_a_clock_set_back_while_the_node_was_down_makes_nothing_wait_longer(open_root: Callable[[], Root]) -> None:
    root = open_root()
    root.take(make.ct_series(1)[0])
    root.clock.move(-3600)
    root = open_root()
    root.index.timers.correct(root.clock())
    require_due_in(root, 60)


# Revisions


def test_a_late_instance_makes_a_revision_that_takes_the_place_of_the_first(root: Root) -> None:
    *most, last = make.ct_series(5, ImagesInAcquisition=5)
    root.take_all(most)
    settle(root)
    assert verdict(root) == ("incomplete", "headers", 5, 1)
    root.take(last)
    settle(root)
    assert verdict(root) == ("complete", "headers", 5, 0)
    volumes = root.rows(
        "SELECT revision, superseded, instances FROM v_volumes WHERE format = 'nifti' ORDER BY revision"
    )
    assert [tuple(row.values()) for row in volumes] == [(1, 1, 4), (2, 0, 5)]
    assert events(root) == [
        "series-quiet", "series-converted",
        "series-reopened", "series-quiet", "volume-superseded", "series-converted",
    ]  # fmt: skip


def test_what_was_made_of_bytes_that_were_replaced_meanwhile_is_not_recorded(root: Root) -> None:
    root.ingest.overwrite_policy = "replace"
    instances = make.ct_series(3)
    root.take_all(instances)
    corrected = instances[1]

    def replaced_meanwhile(job: ConversionJob) -> Converted:
        made = convert(job)
        corrected.RescaleIntercept = "-1000"
        root.take(corrected)
        return made

    settle(root, run=replaced_meanwhile)
    assert root.rows("SELECT 1 FROM v_volumes") == []
    assert list((root.folder / "volumes").glob("*/*/*")) == []
    assert (the_series(root)["state"], the_series(root)["revision"]) == ("receiving", 0)
    settle(root)
    assert events(root).count("series-converted") == 1


def test_readers_see_one_current_revision_at_every_moment(root: Root) -> None:
    *most, last = make.ct_series(5)
    root.take_all(most)
    settle(root)
    stop, has_read, seen = threading.Event(), threading.Event(), set()

    def read() -> None:
        query = "SELECT DISTINCT revision FROM v_volumes WHERE NOT superseded"
        while not stop.is_set():
            seen.add(tuple(row["revision"] for row in root.rows(query)))
            has_read.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert has_read.wait(60)
    root.take(last)
    settle(root)
    stop.set()
    reader.join()
    assert (1,) in seen
    assert seen <= {(1,), (2,)}


def test_the_provenance_of_a_volume_is_one_join_also_if_two_studies_share_a_series(root: Root) -> None:
    instances, others = make.ct_series(3), make.ct_series(4)
    for ds in others:
        ds.SeriesInstanceUID = instances[0].SeriesInstanceUID
    root.take_all([*instances, *others])
    settle(root)
    query = (
        "SELECT s.sop_instance_uid, s.sha256, i.sha256 AS stored FROM v_volumes v "
        "JOIN v_sources s USING (study_instance_uid, series_instance_uid, revision, stack) "
        "JOIN v_images i USING (sop_instance_uid) "
        f"WHERE v.format = 'nifti' AND v.study_instance_uid = '{instances[0].StudyInstanceUID}'"
    )
    found = root.rows(query)
    assert len(found) == 3
    assert {row["sop_instance_uid"] for row in found} == {ds.SOPInstanceUID for ds in instances}
    assert all(row["sha256"] == row["stored"] for row in found)


def test_an_unchanged_series_is_not_converted_again(root: Root) -> None:
    instances = make.ct_series(3)
    root.take_all(instances)
    settle(root)
    assert root.index.series.reopen([place_of(instances[0])], root.clock()) == 1
    settle(root, 0)
    series = the_series(root)
    assert (series["state"], series["revision"], series["verdict"], series["open_since"]) == (
        "converted", 1, "complete", None,
    )  # fmt: skip
    assert events(root)[-3:] == ["series-reopened", "series-quiet", "series-unchanged"]
    assert len(list((root.folder / "volumes").glob("*/*/*"))) == 1


def test_an_unchanged_series_whose_files_are_damaged_is_converted_again(root: Root) -> None:
    instances = make.ct_series(3)
    root.take_all(instances)
    settle(root)
    Path(root.rows("SELECT path FROM v_volumes WHERE format = 'nifti'")[0]["path"]).unlink()
    root.index.series.reopen([place_of(instances[0])], root.clock())
    settle(root, 0)
    assert the_series(root)["revision"] == 2


def test_another_option_and_another_commit_are_another_input(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root.take_all(make.ct_series(3))
    claimed = root.claim()
    digests = {input_sha256(claimed, write_options(Convert(**options))) for options in ({}, {"compress": False})}
    monkeypatch.setattr("node.conversion.series.CONVERTER", "voxelnode 0.2.0.dev0+gabababababab")
    assert len(digests | {input_sha256(claimed, write_options(Convert()))}) == 3


def test_conversions_that_are_owed_anyway_are_not_counted(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    assert root.index.series.reopen([place_of(ds), ("1.2", "3.4")], root.clock()) == 0
    assert due(root) is None


def test_files_of_a_superseded_revision_go_after_their_time_and_its_rows_stay(root: Root) -> None:
    *most, last = make.ct_series(4)
    root.take_all(most)
    settle(root)
    root.take(last)
    settle(root)
    keep = dt.timedelta(hours=24)
    housekeeping = Housekeeping(root.archive, root.index, dt.timedelta(seconds=900), keep, root.clock)
    root.clock.move(23 * 3600)
    housekeeping.remove_superseded()
    assert len(list((root.folder / "volumes").glob("*/*/*"))) == 2
    root.clock.move(2 * 3600)
    housekeeping.remove_superseded()
    assert [folder.name[:2] for folder in (root.folder / "volumes").glob("*/*/*")] == ["2-"]
    old = root.rows("SELECT files_removed_at FROM v_volumes WHERE superseded")
    assert old
    assert all(row["files_removed_at"] for row in old)
    assert root.index.conversions.superseded_before(root.clock()) == []


def test_a_claim_that_was_handed_back_is_reported_quiet_once(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    key = str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)
    root.index.series.record_reported(key, Reported(1, 1), root.clock())
    root.index.series.release_claim(root.claim(), root.clock())
    assert the_series(root)["open_since"] is not None
    settle(root, 0)
    assert events(root) == ["series-confirmed", "series-quiet", "series-converted"]
    [quiet] = root.rows("SELECT detail FROM v_events WHERE kind = 'series-quiet'")
    assert quiet["detail"] == "1 instance, as many as the sender has"


def test_what_a_host_has_claimed_is_claimed_by_another_once_it_is_gone(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.take(make.ct_series(1)[0])
    claimed, series = root.claim(), root.index.series
    assert series.take_over(root.clock()) is None
    monkeypatch.setattr(series._sharing, "abandoned", lambda _: SeriesRow.state == "converting")
    taken = series.take_over(root.clock())
    assert taken is not None
    assert taken[0].id == claimed.id
    assert not series.release_claim(claimed, root.clock())
    assert series.release_claim(taken[0], root.clock())


# Studies


def test_a_study_is_quiet_when_no_series_of_it_is_open(root: Root) -> None:
    quiet = dt.timedelta(seconds=900)
    [first] = make.ct_series(1)
    [second] = make.ct_series(1, study_uid=first.StudyInstanceUID)
    root.take(first)
    settle(root)
    root.clock.move(890)
    root.take(second)
    root.clock.move(20)
    assert root.index.studies.mark_quiet(quiet, root.clock()) == 0, "its second series is open"
    settle(root)
    assert root.index.studies.mark_quiet(quiet, root.clock()) == 0
    root.clock.move(901)
    assert root.index.studies.mark_quiet(quiet, root.clock()) == 1
    assert root.rows("SELECT quiet_at FROM v_studies")[0]["quiet_at"] is not None
    assert root.index.studies.mark_quiet(quiet, root.clock()) == 0, "it is told once"
    assert events(root).count("study-quiet") == 1


def test_a_study_that_gets_another_instance_is_no_longer_quiet_and_then_quiet_again(root: Root) -> None:
    quiet = dt.timedelta(seconds=900)
    first, second = make.ct_series(2)
    for ds in (first, second):
        root.take(ds)
        assert root.rows("SELECT quiet_at FROM v_studies")[0]["quiet_at"] is None
        settle(root)
        root.clock.move(901)
        assert root.index.studies.mark_quiet(quiet, root.clock()) == 1
    assert events(root).count("study-quiet") == 2


# The worker


def test_many_readers_do_not_keep_the_worker_from_what_is_due(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    root.clock.move(61)
    with ExitStack() as readers:
        for _ in range(40):
            readers.enter_context(root.index.reading()).instances.totals()
        assert root.index.series.claim_due(root.clock()) is not None


@pytest.mark.slow
def test_the_numbers_of_reports_make_no_series_of_a_study_incomplete(root: Root) -> None:
    series = make.ct_series(5)
    study = str(series[0].StudyInstanceUID)
    pictures = [make.rgb_capture(study_uid=study, series_uid="1.2.3", InstanceNumber=number) for number in range(1, 21)]
    reports = [
        make.structured_report(study_uid=study, series_uid=uid, InstanceNumber=number)
        for uid, number in (("1.2.3", 30), ("1.2.4", 1), ("1.2.4", 3), ("1.2.5", 99), (series[0].SeriesInstanceUID, 9))
    ]
    root.take_all([*series, *pictures, *reports])
    root.convert_due()
    root.mark_quiet()
    with looking(root.folder / "index.sqlite") as index:
        assert index.series.count_doubted() == {"incomplete": 0, "suspect": 0}
    assert {row["missing_instances"] for row in root.rows("SELECT missing_instances FROM v_series")} == {0}
