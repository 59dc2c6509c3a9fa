"""Jobs of hooks: each message is one, whatever fails; what a hook made never starts it again."""

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from pydicom import dcmread

from node.api import Audit, Channel, Correction
from node.archive.intake import ASK_BYTES
from node.errors import OutOfResources, ResultRefused
from node.extensions.channels.settings import CommandSettings, WebhookSettings
from node.extensions.results import rows
from node.extensions.results.intake import JobExpiry
from node.extensions.results.listed import JobViews
from node.extensions.results.rows import ResultRepository
from node.index.rows.records import Lane
from node.index.rules.work import messages as of_hooks
from node.notify.notifier import HookWorker
from node.receive.apply import Applier
from node.receive.data_set import LARGE_BYTES
from node.receive.ingest import Origin
from node.runtime.metrics import Metrics
from tests import make
from tests.integration.conftest import Root, announced, data_set_bytes
from tests.integration.test_hooks import take
from tests.integration.test_patients import number as number_of
from tests.integration.test_patients import persons
from tests.receivers import Answer, Received, Receiver, channel_of
from tests.rows import read_rows
from tests.waiting import running, until

pytestmark = pytest.mark.postgresql

WRITE = 'printf "%%PDF-1.4 %%%%EOF" > "$0/report.pdf"'

Begin = Callable[..., HookWorker]


@pytest.fixture
def begin(root: Root, audit: Audit) -> Iterator[Begin]:
    """Begin hooks with results on the root, which by default leave a PDF; their `work` is called by the test."""
    channels = list[Channel]()
    names: dict[Lane, Sequence[Any]] = {}

    def begin_hook(name: str, on: Sequence[str] = ("series-quiet",), script: str = WRITE, **options: Any) -> HookWorker:
        by = options if "url" in options else {"command": ("/bin/sh", "-c", script, "{out}"), **options}
        hook = (WebhookSettings if "url" in by else CommandSettings)(on=on, results=True, **by)
        names[Lane("hook", name)] = on
        root.index.deliveries.begin("hook", names)
        channels.append(channel_of(name, hook))
        rest = audit, "VOXELNODE", root.results, root.clock
        return HookWorker(name, hook, channels[-1], root.index, Metrics(), *rest)

    yield begin_hook
    for channel in channels:
        channel.close()


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A pipe that the program of a hook holds open as long as it runs."""
    os.mkfifo(tmp_path / "held")
    return tmp_path / "held"


def jobs(root: Root) -> list[dict[str, Any]]:
    with root.index.reading() as index:
        return index.views(JobViews).newest(100)


def work(root: Root, *workers: HookWorker) -> None:
    """Settle and deliver until nothing follows from anything."""
    for _ in range(6):
        root.convert_due()
        root.mark_quiet()
        if not any([worker.work() for worker in workers]):
            return
    raise AssertionError("something always follows")


def attempt(root: Root, worker: HookWorker) -> None:
    """Have a new series told once."""
    take(root, make.ct_series(1))
    root.convert_due()
    worker.work()


@pytest.mark.slow
def test_what_hooks_make_comes_to_an_end(root: Root, begin: Begin) -> None:
    """Also if two hooks work on what the other one makes; a chain has each hook once."""
    one, other = begin("one"), begin("other")
    take(root, make.ct_series(1))
    work(root, one, other)
    assert {job["results_stored"] for job in jobs(root)} == {1}
    assert sorted(job["hook"] for job in jobs(root)) == ["one", "one", "other", "other"]
    assert {job["state"] for job in jobs(root)} == {"succeeded"}


@pytest.mark.slow
def test_a_study_is_not_reported_again_for_what_its_hooks_made(root: Root, begin: Begin) -> None:
    series = make.ct_series(1)
    manifest = json.dumps(
        {"results": [{"file": "report.pdf", "series_instance_uid": str(series[0].SeriesInstanceUID)}]}
    )
    script = f"{WRITE}; echo '{manifest}' > $0/results.json"
    workers = [begin(name, ("study-quiet",), script) for name in ("one", "other")]
    take(root, series)
    work(root, *workers)
    assert [job["results_stored"] for job in jobs(root)] == [1, 1]
    take(root, make.ct_series(1, study_uid=str(series[0].StudyInstanceUID)))
    work(root, *workers)
    assert [job["results_stored"] for job in jobs(root)] == [1, 1, 1, 1]


@pytest.mark.slow
def test_an_attempt_after_a_lost_record_finds_it_all(root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends between the instance and the record of it: the next attempt stores no second one."""
    worker = begin("one")
    take(root, make.ct_series(1))
    root.convert_due()

    with monkeypatch.context() as patched:
        patched.setattr(ResultRepository, "stored", Mock(side_effect=OutOfResources("the process ended")))
        worker.work()
    assert [(job["state"], job["results_stored"]) for job in jobs(root)] == [("waiting", 0)]
    root.clock.move(60)
    worker.work()
    assert [(job["state"], job["results_stored"]) for job in jobs(root)] == [("succeeded", 1)]
    assert root.rows("SELECT count(*) AS n FROM v_images WHERE source = 'result'") == [{"n": 1}]


def test_a_result_that_is_refused_fails_its_job_and_takes_no_other_along(root: Root, begin: Begin) -> None:
    worker = begin("one", script=WRITE + '; echo "[]" > "$0/Nemo_Captain.json"')
    take(root, make.ct_series(1))
    work(root, worker)
    [job] = jobs(root)
    detail = "Nemo_Captain.json: the file is not a JSON object; 1 other result is stored"
    assert (job["state"], job["detail"], job["results_stored"]) == ("failed", detail, 1)
    [delivery] = root.rows("SELECT * FROM v_deliveries")
    assert (delivery["state"], "Nemo" in delivery["reason"]) == ("given-up", False)
    assert len(root.rows("SELECT 1 FROM v_images WHERE source = 'result'")) == 1
    assert list((root.folder / "jobs").iterdir()) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("script", "reported"),
    [
        ('truncate -s 40G "$0/mask.nii"', "mask.nii: the file is larger than 8000000000 bytes"),
        ('truncate -s 300M "$0/report.pdf"', "report.pdf: the file is larger than 200000000 bytes"),
        ('truncate -s 5G "$0/a.nii" "$0/b.nii"', "the files of a job may have 8000000000 bytes"),
        ('truncate -s 2M "$0/results.json"', "results.json: the file is larger than 1000000 bytes"),
        ('ln -s "$ELSEWHERE/report.pdf" "$0/report.pdf"', "'report.pdf' is not a file, or its name is not that of a"),
        ('rmdir "$0" && ln -s "$ELSEWHERE" "$0"', "the folder of the job is a link or a file"),
        ('rmdir "$0" && touch "$0"', "the folder of the job is a link or a file"),
    ],
)
def test_sizes_and_links_are_looked_at_before_any_byte_is_read(
    root: Root, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reported: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "report.pdf").write_bytes(b"%PDF-1.4 %%EOF")

    monkeypatch.setattr(rows, "_taken", Mock(side_effect=AssertionError("a file of the hook was read")))
    worker = begin("one", script=script.replace("$ELSEWHERE", str(elsewhere)))
    take(root, make.ct_series(1))
    work(root, worker)
    [job] = jobs(root)
    assert (job["state"], str(job["detail"])[: len(reported)]) == ("failed", reported)
    assert root.rows("SELECT 1 FROM v_images WHERE source = 'result'") == []
    assert [path.name for path in elsewhere.iterdir()] == ["report.pdf"]
    assert list((root.folder / "jobs").iterdir()) == []


def test_a_link_in_place_of_a_job_folder_is_not_followed_by_uploads_and_removals(root: Root, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.pdf").touch()
    job_id = "0" * 32
    job = cast(of_hooks.Job, SimpleNamespace(job_id=job_id))
    folder = root.results.empty_folder(job_id)
    folder.rmdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(ResultRefused, match="is a link"), root.results.new_file(job, "report.pdf"):
        pass
    assert root.results.empty_folder(job_id).is_symlink() is False
    folder.rmdir()
    folder.symlink_to(elsewhere)
    root.results.sweep()
    assert not os.path.lexists(folder)
    assert [path.name for path in elsewhere.iterdir()] == ["kept.pdf"]


@pytest.mark.slow
def test_a_cancelled_job_ends_its_command_which_runs_again_only_if_somebody_asks(
    root: Root, begin: Begin, tmp_path: Path, held: Path
) -> None:
    """The group of the command ends: a grandchild holds a pipe open, which its end closes."""
    worker = begin("one", script=f"[ -e {tmp_path}/again ] && {WRITE} && exit; sleep 600 > {held} & wait")
    take(root, make.ct_series(1))
    root.convert_due()
    thread = threading.Thread(target=worker.work)
    thread.start()
    with held.open("rb") as pipe:  # opens once the grandchild runs
        [job] = jobs(root)
        assert job["state"] == "running"
        root.results.end(job["job_id"], "cancelled", "cancelled by anna")
        assert pipe.read() == b""
    thread.join(30)
    assert not thread.is_alive()
    assert [(job["state"], job["detail"]) for job in jobs(root)] == [("cancelled", "cancelled by anna")]
    [delivery] = root.rows("SELECT * FROM v_deliveries")
    assert (delivery["state"], delivery["reason"]) == ("given-up", "cancelled by anna")
    (tmp_path / "again").touch()
    root.clock.move(100_000)
    worker.work()
    assert [job["state"] for job in jobs(root)] == ["cancelled"]
    root.index.deliveries.retry([Lane("hook", "one")], None, root.clock())
    worker.work()
    assert [job["state"] for job in jobs(root)] == ["succeeded", "cancelled"]


@pytest.mark.slow
def test_a_deletion_ends_the_command_of_its_job_and_one_that_fails_waits(
    root: Root, begin: Begin, tmp_path: Path, held: Path
) -> None:
    worker = begin("one", script=f"[ -e {tmp_path}/again ] || {{ echo no model; exit 1; }}; sleep 600 > {held} & wait")
    [ct] = make.ct_series(1)
    take(root, [ct])
    root.convert_due()
    worker.work()
    assert [(job["state"], job["detail"]) for job in jobs(root)] == [("waiting", "exit status 1; it printed: no model")]
    (tmp_path / "again").touch()
    root.clock.move(100_000)
    thread = threading.Thread(target=worker.work)
    thread.start()
    with held.open("rb") as pipe:
        assert [job["state"] for job in jobs(root)] == ["running"]
        root.delete("study", ct.StudyInstanceUID)
        JobExpiry(root.index, root.results, root.clock).step()
        assert pipe.read() == b""
    thread.join(30)
    assert not thread.is_alive()
    assert [(job["state"], job["detail"]) for job in jobs(root)] == [("cancelled", None)]


@pytest.mark.parametrize("host", ["this one", "another one"])
def test_each_host_removes_its_folders_of_ended_jobs_and_one_ends_those_that_are_late(
    root: Root, begin: Begin, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver(lambda _: Answer(202, ())) as receiver:
        attempt(root, begin("one", url=receiver.url, job_seconds=100))
    ended = root.results.folder("0" * 32)
    ended.mkdir(parents=True)
    (ended / "report.pdf").write_bytes(b"of a patient")
    root.clock.move(101)
    monkeypatch.setattr(root.index.sharing, "has", lambda work: host == "this one")
    with running(JobExpiry(root.index, root.results, root.clock)) as expiry:
        until(lambda: not ended.exists(), 30, "the folder of no open job is gone")
        if host == "this one":
            until(lambda: jobs(root)[0]["state"] == "expired", 30, "the job is ended")
        else:
            assert (jobs(root)[0]["state"], expiry.step()) == ("running", None)


@pytest.mark.slow
def test_what_an_attempt_left_ends_before_the_next_one(root: Root, begin: Begin, tmp_path: Path, held: Path) -> None:
    """As the command of a node that was killed: it is not in the group of any command of this process."""
    worker = begin("one", script=f"[ -e {tmp_path}/again ] && {WRITE} && exit; setsid sleep 600 > {held} & exit 1")
    attempt(root, worker)
    with held.open("rb") as pipe:  # opens once it runs
        (tmp_path / "again").touch()
        root.clock.move(60)
        worker.work()
        assert pipe.read() == b""
    assert [job["state"] for job in jobs(root)] == ["succeeded"]


@pytest.mark.slow
def test_a_webhook_that_accepts_has_time_until_it_expires_and_a_replay_is_a_new_job(root: Root, begin: Begin) -> None:
    def later(received: Received) -> Answer:
        return Answer(202, (("location", "/status/7"),))

    with Receiver(later) as receiver:
        worker = begin("one", url=receiver.url, job_seconds=100)
        attempt(root, worker)
        [message] = [one.content for one in receiver.received]
        assert message["job"]["folder"] is None
        assert root.index.jobs.knows_token(message["job"]["id"], message["job"]["token"])
        [job] = jobs(root)
        assert (job["state"], job["location"]) == ("running", receiver.url.replace("/told", "/status/7"))
        expiry = JobExpiry(root.index, root.results, root.clock)
        assert expiry.step() == 60
        refused = "refused: mask.nii.gz: it has no position"
        root.index.repository(ResultRepository).report(message["job"]["id"], 40, refused, root.clock(), is_refused=True)
        root.clock.move(101)
        assert expiry.step() == 0
        assert expiry.step() is None
        assert jobs(root)[0]["state"] == "expired"
        assert jobs(root)[0]["detail"].endswith(f"no outcome in time ([hooks.NAME] job_seconds); {refused}")
        key = message["study_instance_uid"], message["series_instance_uid"]
        root.index.deliveries.replay("one", ("series-quiet",), [key], "again", root.clock())
        worker.work()
        assert [job["state"] for job in jobs(root)] == ["running", "expired"]
        assert [event["detail"] for event in root.rows("SELECT detail FROM v_events WHERE kind = 'job-ended'")] == [
            "the job of hook one has expired, with 0 results"
        ]


def test_a_receiver_that_reported_before_it_was_heard_is_not_asked_again(root: Root, begin: Begin) -> None:
    def report(received: Received) -> Answer:
        root.results.end(received.content["job"]["id"], "succeeded")
        return Answer(503)

    with Receiver(report) as receiver:
        worker = begin("one", url=receiver.url)
        attempt(root, worker)
        root.clock.move(3600)
        worker.work()
        assert len(receiver.received) == 1
    assert root.rows("SELECT state FROM v_deliveries") == [{"state": "delivered"}]


@pytest.mark.parametrize(
    ("keys", "reported"),
    [
        ({"on": ("instance-stored",), "command": ("true",), "results": True}, "results come from series-quiet"),
        ({"on": ("series-quiet",), "command": ("true", "{out}")}, "{out} in command needs results = true"),
        ({"on": ("series-quiet",), "url": "http://example.org", "results": True}, "messages have a token"),
    ],
)
def test_a_hook_that_could_give_no_results_is_refused(keys: dict[str, Any], reported: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reported)):
        (WebhookSettings if "url" in keys else CommandSettings)(**keys)


MASK = """
import sys, nibabel, numpy
image = nibabel.load(sys.argv[1])
mask = (numpy.asanyarray(image.dataobj) > 0).astype("u1")
nibabel.save(nibabel.Nifti1Image(mask, image.affine), sys.argv[2] + "/mask.nii")
open(sys.argv[2] + "/report.json", "w").write('{"lungs": "clear"}')
open(sys.argv[2] + "/report.pdf", "w").write("%PDF-1.4 %%EOF")
"""


@pytest.mark.slow
def test_the_job_of_a_hook_that_leaves_nothing_says_so(root: Root, begin: Begin) -> None:
    worker = begin("one", ("volume-written",), command=(sys.executable, "-c", "", "{path}", "{out}"))
    take(root, make.ct_series(3))
    work(root, worker)
    assert [(job["state"], job["detail"]) for job in jobs(root)] == [("succeeded", "the hook left no results")]


@pytest.mark.slow
def measured(of: Sequence[Any]) -> Any:
    """A report with a measurement, which a conversion writes as a file."""
    return make.measurement_report(of, make.measured(("81827009", "SCT", "Diameter"), "12", "mm"))


@pytest.mark.sample(1)
@pytest.mark.parametrize("of_images", [lambda _: make.structured_report(), measured], ids=["texts", "measurements"])
def test_a_foreign_instance_in_a_series_refuses_none_of_its_results(
    root: Root, begin: Begin, of_images: Callable[[Sequence[Any]], Any]
) -> None:
    series = make.ct_series(3)
    report = of_images(series)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "PatientName", "PatientID"):
        setattr(report, keyword, series[0][keyword].value)
    worker = begin("one", ("volume-written",), command=(sys.executable, "-c", MASK, "{path}", "{out}"))
    take(root, [report, *series])
    work(root, worker)
    assert [(job["state"], job["results_stored"], job["detail"]) for job in jobs(root)] == [("succeeded", 3, None)]
    numbers = root.rows("SELECT series_number FROM v_series WHERE series_number > 9000 ORDER BY series_number")
    assert [row["series_number"] for row in numbers] == [9001, 9002, 9003]
    for row in root.rows("SELECT path FROM v_images WHERE source = 'result'"):
        ds = dcmread(row["path"])
        assert ds.PatientName == series[0].PatientName
        assert report.SOPInstanceUID not in str(ds), "only images are what a result was made of"


def test_a_result_has_a_uid_of_its_own(root: Root, begin: Begin, tmp_path: Path) -> None:
    """An instance with the UID of a stored one is refused by name, and replaces nothing; numbers are given once.

    It is of the patient whom the files name, or whom somebody has decided, as the copies that hooks get say.
    """
    [other], [source] = make.ct_series(1, PatientID="OTHER", Modality="MR"), make.ct_series(1)
    study = str(source.StudyInstanceUID)
    left = tmp_path / "left"
    left.mkdir()
    for name, uid, patient in (
        ("fine", "2.25.77", source.PatientID), ("stored", str(other.SOPInstanceUID), source.PatientID),
        ("decided", "2.25.78", "RIGHT"), ("twice", "2.25.77", "RIGHT"), ("wrong", "2.25.79", "OTHER"),
    ):  # fmt: skip
        ds = make.instance(study_uid=study, PatientID=patient)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
        ds.save_as(left / f"{name}.dcm", enforce_file_format=True)
    worker = begin("one", script=f'{WRITE}; cp {left}/* "$0"', where={"modality": "CT"})
    take(root, [other])
    take(root, [source])
    root.convert_due()
    before = root.rows("SELECT sop_instance_uid, sha256 FROM v_images ORDER BY sop_instance_uid")
    persons(root).correct(number_of(root, str(source.PatientID)), Correction(patient_id="RIGHT"), root.clock())
    worker.work()
    [job] = jobs(root)
    assert (job["state"], job["results_stored"]) == ("failed", 3)
    taken = "SOP Instance UID: give each result a new one"
    assert job["detail"] == (
        "wrong.dcm: its PatientID is not that of the source; copy patient and study from an instance; twice.dcm: "
        f"another result has its {taken}; stored.dcm: the node has another instance with its {taken}; 3 other results "
        "are stored"
    )
    rows = root.rows("SELECT sop_instance_uid, sha256 FROM v_images WHERE source != 'result' ORDER BY sop_instance_uid")
    assert rows == before


def test_an_upload_is_measured_against_the_reserve_while_it_arrives(root: Root, begin: Begin) -> None:
    begin("one")
    job = of_hooks.Job(0, "0" * 32, "one", "1.2", "1.2.3", 1, "running", None)
    intake = root.ingest.archive.intake

    def leave() -> None:
        with root.results.new_file(job, "mask.nii") as upload:
            for reserve_bytes in (0, 1 << 62):
                intake._reserve_bytes = reserve_bytes
                upload.write(bytes(ASK_BYTES))

    with pytest.raises(OutOfResources, match="in reserve"):
        leave()
    assert list(root.results.folder(job.job_id).iterdir()) == []
    intake._reserve_bytes = 0
    origin = Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1")
    incoming = root.ingest.begin(announced(make.ct_series(1)[0]), origin)
    incoming.take_fragment(bytes(LARGE_BYTES + 1))
    intake._reserve_bytes = 1 << 62
    with pytest.raises(OutOfResources, match="in reserve"):
        incoming.take_fragment(bytes(ASK_BYTES))
    incoming.abandon()
    assert not list((root.folder / "incoming").iterdir())


def counted_runs(folder: Path) -> tuple[str, Callable[[], int]]:
    """A script that leaves a PDF and counts how often it ran, and what it has counted."""
    runs = folder / "runs"
    return f"echo run >> {runs}; {WRITE}", lambda: len(runs.read_text().splitlines())


@pytest.mark.slow
def test_a_hook_runs_once_though_the_index_is_behind(
    root: Root, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, runs = counted_runs(tmp_path)
    worker = begin("one", script=script, attempts=1)
    take(root, make.ct_series(1))
    root.convert_due()
    monkeypatch.setattr(Applier.catch_up, "__defaults__", (0.1,))
    other = make.ct_series(1)[0]
    with root.ingest.applier.standing():
        incoming = root.ingest.begin(announced(other), Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1"))
        incoming.take_fragment(data_set_bytes(other))
        incoming.finish()
        for _ in range(2):
            worker.work()
            [delivery] = read_rows(root.folder, "SELECT state, attempts, reason FROM v_deliveries")
            assert (delivery["state"], delivery["attempts"]) == ("waiting", 0)
            assert "behind what was received" in delivery["reason"]
            root.clock.move(60)
    assert root.ingest.applier.catch_up(10)
    worker.work()
    assert [(job["state"], job["results_stored"]) for job in jobs(root)] == [("succeeded", 1)]
    assert runs() == 1
    assert list((root.folder / "jobs").iterdir()) == []


def test_a_hook_runs_once_though_the_disk_is_full_for_a_while(root: Root, begin: Begin, tmp_path: Path) -> None:
    script, runs = counted_runs(tmp_path)
    begin_full = tmp_path / "begin"
    os.mkfifo(begin_full)
    worker = begin("one", script=f"{script}; read line < {begin_full}", attempts=1)
    take(root, make.ct_series(1))
    root.convert_due()
    thread = threading.Thread(target=worker.work)
    thread.start()
    with begin_full.open("w") as release:
        reserve, root.archive.intake._reserve_bytes = root.archive.intake._reserve_bytes, 1 << 62
        release.write("\n")
    thread.join(30)
    assert not thread.is_alive()
    [delivery] = root.rows("SELECT state, attempts FROM v_deliveries")
    assert (delivery["state"], delivery["attempts"]) == ("waiting", 0)
    root.archive.intake._reserve_bytes = reserve
    root.clock.move(60)
    worker.work()
    assert [(job["state"], job["results_stored"]) for job in jobs(root)] == [("succeeded", 1)]
    assert runs() == 1
