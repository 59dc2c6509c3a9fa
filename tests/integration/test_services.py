"""Background services that follow the index: each sleeps until its next due time, or until a commit."""

import datetime as dt
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from node.api import IndexFollower, OutOfResources
from node.archive.filesystem import Archive
from node.completeness import Reported
from node.conversion.job import ConversionJob, Converted, limits
from node.conversion.pipeline import convert
from node.conversion.pool import ConverterDied, Converters, ShortOfResources
from node.conversion.scheduler import CLOCK_SECONDS, Worker
from node.index.rows.place import IndexUnusable
from node.index.rows.records import Lane, OwedSidecars, Refused
from node.index.rules.series import conversions
from node.index.rules.work.routes import lane_to
from node.receive.ingest import Origin
from node.receive.senders import Rejections
from node.runtime.metrics import Metrics
from node.settings.model import Settings
from node.settings.section import Convert
from tests import make
from tests.integration.conftest import Root
from tests.rows import executed, give_locks_up_after, index_locked
from tests.waiting import until

DEADLINE_SECONDS = 30.0
WORKERS = 2
LONG = dt.timedelta(hours=1)


def the_series(root: Root) -> dict[str, Any]:
    [series] = root.rows("SELECT state, revision, attempts, error FROM v_series")
    return series


# What the index tells


def test_a_commit_that_changes_rows_tells_its_listeners_and_a_look_does_not(root: Root) -> None:
    reported: list[str] = []
    root.index.commit_listeners.append(lambda: reported.append(threading.current_thread().name))
    root.index._writer.run(lambda connection: connection.execute(select(func.count())).scalar_one())
    assert reported == []
    root.take(make.ct_series(1)[0])
    until(lambda: reported == ["index-writer"])
    root.index.about.set("a", "b")
    until(lambda: reported == ["index-writer"] * 2)


def test_a_commit_that_fails_tells_nobody(root: Root) -> None:
    reported: list[None] = []
    root.index.commit_listeners.append(lambda: reported.append(None))
    with pytest.raises(ZeroDivisionError):
        root.index._writer.run(lambda connection: 1 / 0)
    root.index._writer.run(lambda connection: None)
    assert reported == []


def test_a_writer_whose_listener_raises_writes_on(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.01)
    raised: list[None] = []

    def listener() -> None:
        if not raised:
            raised.append(None)
            raise MemoryError

    root.index.commit_listeners.append(listener)
    root.index.about.set("a", "b")
    until(lambda: root.index.thread.failures == 1)
    root.index.about.set("a", "c")
    assert root.index.about.get("a") == "c"
    assert root.index.thread.trouble is None


class _Counting(IndexFollower):
    def step(self) -> None:
        return None


def test_a_follower_is_woken_by_commits_until_it_stops(root: Root) -> None:
    service = _Counting("counting", root.index, 0.01)
    service.start()
    until(lambda: service.steps == 1)
    root.index.about.set("a", "b")
    until(lambda: service.steps == 2)
    service.stop()
    assert root.index.commit_listeners == []
    root.index.about.set("a", "c")


def test_a_queue_is_not_read_as_a_whole_while_a_series_is_due(root: Root) -> None:
    """The first moment at which a series was opened has no index: with a million series, each claim would read all."""
    root.take_all(make.ct_series(1))
    root.clock.move(61)
    with executed() as asked:
        assert root.index.series.is_due(root.clock(), LONG)
    assert [one for one, _ in asked if "due_at" in one]
    assert not [one for one, _ in asked if "min(series.open_since)" in one]


def test_a_series_is_due_when_it_is_quiet_or_has_waited_longest(root: Root) -> None:
    assert root.index.series.next_due_at(LONG) is None
    *most, last = make.ct_series(3)
    began = root.clock()
    root.take_all(most)
    assert root.index.series.next_due_at(LONG) == began + dt.timedelta(seconds=60)
    root.clock.move(3580)
    root.take(last)
    assert root.index.series.next_due_at() == root.clock() + dt.timedelta(seconds=60)
    assert root.index.series.next_due_at(LONG) == began + LONG
    with root.index.reading() as index:
        assert index.series.oldest_due(root.clock()) is None
    root.clock.move(61)
    with root.index.reading() as index:
        assert index.series.oldest_due(root.clock()) == root.clock() - dt.timedelta(seconds=1)
    assert root.index.series.claim_due(root.clock()) is not None
    assert root.index.series.next_due_at(LONG) is None
    with root.index.reading() as index:
        assert index.series.oldest_due(root.clock()) is None


def test_a_study_is_quiet_a_while_after_its_last_conversion(root: Root) -> None:
    quiet = dt.timedelta(seconds=900)
    root.index.deliveries.begin(
        "route", {lane_to("night", "PACS"): ["study-quiet"], lane_to("all", "PACS"): ["changed"]}
    )
    root.index.deliveries.begin("hook", {Lane("hook", "mail"): ["study-quiet"]})

    def to_come(**named: str) -> list[tuple[str, str | None]]:
        """Who waits until the study is quiet, and when that is due."""
        with root.index.reading() as index:
            kinds = ("route", "hook") if not named else ("route",)
            rows = [row for kind in kinds for row in index.quiet_to_come(kind, Settings(), uid, **named)]
            assert all(row["state"] == "waiting" and row["reason"] for row in rows)
            assert index.quiet_to_come("hook", Settings(), "1.2.3") == []
        return [(row.get("route") or row["hook"], row["due_at"]) for row in rows]

    root.take(one := make.ct_series(1)[0])
    uid = str(one.StudyInstanceUID)
    claimed = root.claim()
    assert root.index.studies.next_quiet_at(quiet) is None
    assert to_come() == [("night", None), ("mail", None)]
    root.index.series.record_crash(claimed, "ended by SIGSEGV", attempts=1, now=root.clock())
    quiet_at = root.clock() + quiet
    assert root.index.studies.next_quiet_at(quiet) == quiet_at
    due = quiet_at.replace(tzinfo=None).isoformat(" ")
    assert to_come() == [("night", due), ("mail", due)]
    assert to_come(destination="PACS") == [("night", due)]
    assert to_come(destination="ELSEWHERE") == []
    root.clock.move(901)
    assert root.index.studies.mark_quiet(quiet, root.clock()) == 1
    assert root.index.studies.next_quiet_at(quiet) is None
    assert to_come() == []


# Refusals


def test_refusals_that_the_index_does_not_take_are_written_later(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.05)
    refused = Refused("association", "calling AE title", "not listed", "add it", "10.0.0.1", "CT1")
    rejections = Rejections(root.index, Metrics(), now=root.clock)
    failing = threading.Event()
    failing.set()
    real = root.index.rejections.record

    def refuse(refusals: Any) -> Any:
        if failing.is_set():
            rejections.record(refused)
            raise OutOfResources("the index did not commit")
        return real(refusals)

    monkeypatch.setattr(root.index.rejections, "record", refuse)
    rejections.record(refused)
    rejections.start()
    until(lambda: rejections.steps > 2)
    failing.clear()
    until(lambda: bool(root.rows("SELECT 1 FROM v_rejections")))
    rejections.stop()
    [row] = root.rows("SELECT count FROM v_rejections")
    assert row["count"] >= 3


# The worker


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a lock up after a moment, and try again after a moment; used before the root is opened."""
    give_locks_up_after(0.05, monkeypatch)
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("node.runtime.background.MAX_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("node.conversion.scheduler.RETRY_SECONDS", 0.05)


class Locked:
    """The database, locked by somebody else while the block runs."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._held = folder, ExitStack()

    def lock(self) -> None:
        self._held.enter_context(index_locked(self._folder))

    def unlock(self) -> None:
        self._held.close()


Run = Callable[[ConversionJob], Converted]
Begin = Callable[..., Worker]


def convert_with_room(job: ConversionJob) -> Converted:
    """Convert, if there is room for files."""
    if not job.has_room:
        raise ShortOfResources("disk: File too large")
    return convert(job)


@pytest.fixture
def begin(root: Root, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Make a worker that converts in this process, by `run`; all due series of the root are due for it."""
    made: list[Worker] = []

    def make_worker(run: Run = convert_with_room, archive: Archive | None = None, **options: Any) -> Worker:
        settings = Convert(thumbnails=False, formats=("nifti",), workers=WORKERS)
        worker = Worker(archive or root.archive, root.index, settings, **options)
        monkeypatch.setattr(worker._converters, "run", lambda job, limits, cancelled: run(job))
        made.append(worker)
        return worker

    yield make_worker
    for worker in made:
        worker.stop(DEADLINE_SECONDS)


@pytest.fixture
def hourly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker look at the clock so rarely that only a wake-up or a due time explains a step."""
    monkeypatch.setattr("node.conversion.scheduler.CLOCK_SECONDS", 3600.0)
    monkeypatch.setattr("node.conversion.volume_files.STUDIES_SECONDS", 3600.0)
    monkeypatch.setattr("node.conversion.volume_files.FILES_SECONDS", 3600.0)


@pytest.mark.usefixtures("hourly")
def test_a_commit_wakes_the_worker(root: Root, begin: Begin) -> None:
    worker = begin()
    worker.start()
    until(lambda: worker.steps > 0)
    root.take(make.ct_series(1)[0])
    until(lambda: the_series(root)["state"] == "converted")


@pytest.mark.slow
@pytest.mark.usefixtures("hourly")
def test_the_worker_looks_for_sidecars_at_its_start_and_after_a_commit_that_owes_some(
    root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    owed_sidecars = conversions.ConversionRepository.owed_sidecars

    def counted(self: conversions.ConversionRepository, *args: Any) -> list[OwedSidecars]:
        found = owed_sidecars(self, *args)
        looks.append(len(found))
        return found

    monkeypatch.setattr(conversions.ConversionRepository, "owed_sidecars", counted)
    worker = begin()
    worker.start()
    first, *others = make.ct_series(3)
    root.take_all([first, *others])
    until(lambda: the_series(root)["state"] == "converted")
    steps = worker.steps
    root.index.about.set("a", "b")
    until(lambda: worker.steps > steps)
    assert looks == [0]
    key = str(first.StudyInstanceUID), str(first.SeriesInstanceUID)
    root.index.series.record_reported(key, Reported(3, 5), root.clock())
    until(lambda: looks == [0, 1] and root.rows("SELECT id FROM conversions WHERE owes_sidecars > 0") == [])


@pytest.mark.slow
def test_five_images_at_long_intervals_on_one_association_make_one_revision(root: Root, begin: Begin) -> None:
    root.ingest.now = lambda: dt.datetime.now(dt.UTC)
    root.ingest.quiet_seconds = lambda calling_ae_title: 0.001
    worker = begin(note_activity=root.ingest.note_activity)
    for ds in make.ct_series(5):
        root.take(ds, Origin("dicom", "MODALITY", "VOXELNODE", "127.0.0.1:1", "a1"))
        if not worker.is_alive:
            worker.start()
        for _ in range(2):  # the first of these steps may have begun before
            steps = worker.steps
            worker.wake()
            until(lambda at=steps: worker.steps > at)
        assert the_series(root)["state"] == "receiving"
    root.end("a1", "released")
    until(lambda: the_series(root)["state"] == "converted")
    assert the_series(root)["revision"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("hourly")
def test_the_worker_sleeps_until_a_series_is_due(root: Root, begin: Begin) -> None:
    root.ingest.now = lambda: dt.datetime.now(dt.UTC)
    root.ingest.quiet_seconds = lambda title: 1.0
    worker = begin()
    worker.start()
    root.take(make.ct_series(1)[0])
    until(lambda: the_series(root)["state"] == "converted")
    assert worker.steps < 12


@pytest.mark.slow
@pytest.mark.usefixtures("hourly")
def test_the_end_of_a_conversion_wakes_the_worker_for_what_is_due_besides(root: Root, begin: Begin) -> None:
    for _ in range(3 * WORKERS):
        root.take(make.ct_series(1)[0])
    begin().start()
    until(lambda: all(row["state"] == "converted" for row in root.rows("SELECT state FROM v_series")))


@pytest.mark.sqlite("hosts follow the clock of the server, which has no steps")
def test_the_worker_notices_a_step_of_the_clock_without_being_woken(
    root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.conversion.scheduler.CLOCK_SECONDS", 0.05)
    offsets = [dt.timedelta()]

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC) + offsets[-1]

    root.ingest.now = now
    root.take(make.ct_series(1)[0])
    due_at = root.index.series.next_due_at()
    assert due_at is not None
    worker = begin(now=now)
    worker.start()
    until(lambda: worker.steps > 0)
    offsets.append(LONG)

    def is_shifted() -> bool:
        moved = root.index.series.next_due_at()
        return moved is not None and abs(moved - due_at - LONG) < dt.timedelta(seconds=10)

    until(is_shifted)
    assert the_series(root)["state"] == "receiving"


def test_looks_that_find_nothing_due_leave_all_converters_free(root: Root, begin: Begin) -> None:
    worker = begin()
    for _ in range(3 * WORKERS):
        assert worker.step() <= CLOCK_SECONDS
    root.take(make.ct_series(1)[0])
    worker.step()
    until(lambda: the_series(root)["state"] == "converted")


def test_no_room_for_volumes_holds_back_no_outcome_that_needs_one_row(
    root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.conversion.scheduler.ROOM_SECONDS", 0.01)
    unchanged, cut, growing, last = make.ct_series(3), make.enhanced_mr(), *make.ct_series(2)
    cut.PixelData = cut.PixelData[:-100]
    series = [unchanged, [make.structured_report()], [cut], make.localizer(), [growing]]
    for instances in series:
        root.take_all(instances)
        if instances is unchanged:
            root.convert_due()
            root.index.series.reopen([(unchanged[0].StudyInstanceUID, unchanged[0].SeriesInstanceUID)], root.clock())
    jobs: list[str] = []

    def convert_in_child(job: ConversionJob) -> Converted:
        jobs.extend(uid for uid, _ in job.instances)
        return children.run(job, limits(Convert()), threading.Event())

    def have_ended(*ends: str) -> bool:
        rows = root.rows("SELECT series_instance_uid, state, error FROM v_series")
        by_uid = {row["series_instance_uid"]: f"{row['state']} {row['error'] or ''}" for row in rows}
        found = [by_uid[instances[0].SeriesInstanceUID] for instances in series]
        return all(map(str.startswith, found, ends))

    waits, ends = "receiving waits: for room: ", ("converted", "not-an-image", "refused")
    with closing(Converters()) as children:
        worker = begin(convert_in_child, Archive(root.folder, reserve_bytes=2**62))
        worker.start()
        until(lambda: have_ended(*ends, waits, waits))
        root.take(last)
        until(lambda: last.SOPInstanceUID in jobs and have_ended(*ends, waits, waits))
        steps = worker.steps
        until(lambda: worker.steps > steps + 10)
        worker.stop()
        tries = [jobs.count(instances[0].SOPInstanceUID) for instances in series]
        assert tries == [0, 1, 1, 1, 2], "each series is tried once, and again when it has grown"
        begin(convert_in_child).start()
        until(lambda: have_ended(*ends, "converted", "converted"))


def test_a_disk_that_fills_in_a_step_ends_the_claims(root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        root.take(make.ct_series(1)[0])
    looks = iter([None, None])  # at the begin of the step, and before the first claim
    monkeypatch.setattr(root.archive.intake, "waits_for", lambda: next(looks, "the disk is full"))
    worker = begin()
    worker.step()
    until(lambda: not worker._under_way)
    assert sorted(row["state"] for row in root.rows("SELECT state FROM v_series")) == ["converted", "receiving"]


# Claims whose outcome is not recorded


@pytest.fixture
def locked(root: Root) -> Iterator[Locked]:
    lock = Locked(root.folder)
    yield lock
    lock.unlock()


def converting_and_locking(locked: Locked, conversions: list[ConversionJob]) -> Callable[[ConversionJob], Converted]:
    """Return a conversion that locks the index before its outcome is recorded, and lists its jobs."""

    def convert_and_lock(job: ConversionJob) -> Converted:
        conversions.append(job)
        converted = convert(job)
        locked.lock()
        return converted

    return convert_and_lock


def begin_unrecorded(begin: Begin, conversion: Callable[[ConversionJob], Converted]) -> Worker:
    """Start a worker, and wait until the index does not take its outcome."""
    worker = begin(conversion)
    worker.start()
    until(lambda: bool(worker._unrecorded))
    return worker


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_outcome_that_an_index_did_not_take_is_recorded_later(
    root: Root, locked: Locked, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.take_all(make.ct_series(3))
    conversions: list[ConversionJob] = []
    worker = begin_unrecorded(begin, converting_and_locking(locked, conversions))
    steps = worker.steps
    until(lambda: worker.steps > steps + 2)
    assert worker.is_alive
    assert the_series(root)["state"] == "converting"
    monkeypatch.setattr("node.archive.space.free_bytes", lambda disk: 0)  # its files are there, it needs a row alone
    locked.unlock()
    until(lambda: the_series(root)["state"] == "converted")
    assert the_series(root) == {"state": "converted", "revision": 1, "attempts": 0, "error": None}
    [volume] = root.rows("SELECT path FROM v_volumes WHERE format = 'nifti' AND kind = 'volume'")
    assert (root.folder / volume["path"]).is_file()
    assert len(conversions) == 1
    until(lambda: not worker._unrecorded)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_crash_that_the_index_does_not_take_is_counted_when_it_does(root: Root, locked: Locked, begin: Begin) -> None:
    root.take(make.ct_series(1)[0])

    def crash(job: ConversionJob) -> Converted:
        locked.lock()
        raise ConverterDied("ended by SIGSEGV")

    begin_unrecorded(begin, crash)
    locked.unlock()
    until(lambda: the_series(root)["state"] == "receiving")
    assert the_series(root) == {"state": "receiving", "revision": 0, "attempts": 1, "error": "ended by SIGSEGV"}


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_stop_records_what_the_index_did_not_take_before(root: Root, locked: Locked, begin: Begin) -> None:
    root.take(make.ct_series(1)[0])

    worker = begin_unrecorded(begin, converting_and_locking(locked, []))
    worker.begin_stop()
    worker._thread.join(DEADLINE_SECONDS)
    locked.unlock()
    worker.stop(DEADLINE_SECONDS)
    assert the_series(root)["state"] == "converted"


SHORTAGES = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.EAGAIN, "Resource temporarily unavailable"),
    MemoryError(),
    RuntimeError("can't start new thread"),
    ShortOfResources("disk: No space left on device"),
    IndexUnusable("the index cannot be read: the server of PostgreSQL is away"),
]


@pytest.mark.slow
@pytest.mark.parametrize("shortage", SHORTAGES, ids=repr)
def test_a_series_that_met_a_shortage_has_not_failed_and_goes_on_by_itself(
    root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch, shortage: Exception
) -> None:
    monkeypatch.setattr("node.runtime.background.FIRST_WAIT_SECONDS", 0.005)
    root.take_all(make.ct_series(3))
    met: list[Exception] = []

    def convert_later(job: ConversionJob) -> Converted:
        if len(met) < 5:  # more than [convert] attempts
            met.append(shortage)
            raise shortage
        return convert(job)

    with capture_logs() as lines:
        begin(convert_later).start()
        until(lambda: the_series(root)["state"] == "converted")
    assert the_series(root)["attempts"] == 0
    assert not root.rows("SELECT 1 FROM v_events WHERE kind = 'series-failed'")
    assert [line["event"] for line in lines if line["log_level"] != "info"] == ["conversions_wait"]


def test_a_disk_without_room_is_logged_once_for_all(root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.conversion.scheduler.ROOM_SECONDS", 0.01)
    monkeypatch.setattr("node.archive.space.free_bytes", lambda disk: 0)
    with capture_logs() as lines:
        worker = begin()
        worker.start()
        until(lambda: worker.steps > 10)
    assert [line["event"] for line in lines] == ["conversions_wait"]


def test_a_series_that_is_due_tells_that_it_waits_for_room_and_how_much_there_is(
    root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.conversion.scheduler.ROOM_SECONDS", 0.01)
    root.take_all(make.ct_series(3))
    with monkeypatch.context() as full:
        full.setattr("node.archive.space.free_bytes", lambda disk: 4242)
        begin().start()
        until(lambda: the_series(root)["error"])
        reported = the_series(root)
        assert (reported["state"], reported["attempts"]) == ("receiving", 0)
        for part in ("waits: for room", str(root.folder), "4.2 kB free", "[storage] reserve_bytes", "remove files"):
            assert part in reported["error"]
    until(lambda: the_series(root)["state"] == "converted")
    assert the_series(root)["error"] is None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_during_a_conversion_is_named_with_its_room(root: Root, begin: Begin, error: int) -> None:
    root.take(make.ct_series(1)[0])

    def convert_into_nothing(job: ConversionJob) -> Converted:
        raise OSError(error, os.strerror(error))

    begin(convert_into_nothing).start()
    until(lambda: the_series(root)["error"])
    reported = the_series(root)["error"]
    for part in ("waits: disk: ", os.strerror(error), str(root.folder), "B and ", "free: remove files"):
        assert part in reported


@pytest.mark.slow
def test_a_claim_without_a_thread_is_given_back(root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.01)
    root.take(make.ct_series(1)[0])
    worker = begin()
    submit, refused = worker._pool.submit, []

    def without_threads(*arguments: Any) -> Any:
        if not refused:
            refused.append(arguments)
            raise RuntimeError("can't start new thread")
        return submit(*arguments)

    monkeypatch.setattr(worker._pool, "submit", without_threads)
    worker.start()
    until(lambda: the_series(root)["state"] == "converted")
    assert refused
    assert worker.is_alive
    assert worker.failures == 1


@pytest.mark.slow
def test_an_unrecordable_outcome_counts_as_a_crash(root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    root.take(make.ct_series(1)[0])
    monkeypatch.setattr(root.index.series, "record_outcome", lambda *arguments: 1 / 0)
    begin().start()
    until(lambda: the_series(root)["attempts"] == 1)
    assert the_series(root)["error"] == "ZeroDivisionError while recording the conversion"


def test_an_outcome_that_was_committed_although_an_error_came_keeps_its_files(
    root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.conversion.scheduler.RETRY_SECONDS", 0.05)
    root.take_all(make.ct_series(3))
    real, answers = root.index.series.record_outcome, []

    def commit_and_fail(*arguments: Any) -> bool:
        answers.append(real(*arguments))
        if len(answers) == 1:
            raise OutOfResources("the index did not commit: OperationalError")
        return answers[-1]

    monkeypatch.setattr(root.index.series, "record_outcome", commit_and_fail)
    worker = begin()
    worker.start()
    until(lambda: len(answers) == 2 and not worker._unrecorded)
    assert answers == [True, False]
    assert the_series(root)["state"] == "converted"
    [volume] = root.rows("SELECT path FROM v_volumes WHERE format = 'nifti' AND kind = 'volume'")
    assert (root.folder / volume["path"]).is_file()


def test_a_crash_of_a_series_that_was_deleted_meanwhile_is_forgotten(root: Root, begin: Begin) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)

    def delete_and_crash(job: ConversionJob) -> Converted:
        plan = root.index.deletions.plan("study", str(ds.StudyInstanceUID))
        root.index.deletions.order(plan, "test", root.clock())
        raise ConverterDied("ended by SIGSEGV")

    worker = begin(delete_and_crash)
    worker.step()
    until(lambda: not worker._under_way)
    assert not worker._unrecorded
    assert root.rows("SELECT 1 FROM v_series") == []


def test_a_claim_that_no_conversion_belongs_to_is_given_back_while_the_node_runs(root: Root, begin: Begin) -> None:
    root.take_all(make.ct_series(3))
    root.clock.move(61)
    assert root.index.series.claim_due(root.clock()) is not None  # by nobody who remembers it
    begin().start()
    until(lambda: the_series(root)["state"] == "converted")
    assert the_series(root)["revision"] == 1


def test_a_series_whose_thread_cannot_begin_is_converted_later_and_once(
    root: Root, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runtime.background.PAUSE_SECONDS", 0.05)
    root.take(make.ct_series(1)[0])
    conversions: list[ConversionJob] = []

    def counted(job: ConversionJob) -> Converted:
        conversions.append(job)
        return convert(job)

    worker = begin(counted)
    real, refusals = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("conversion") and len(refusals) < 2:
            refusals.append(thread)
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    worker.start()
    until(lambda: the_series(root)["state"] == "converted")
    worker.stop(DEADLINE_SECONDS)
    assert len(refusals) == 2
    assert len(conversions) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_two_conversions_of_one_series_never_run_at_once(root: Root, locked: Locked, begin: Begin) -> None:
    first, *late = make.ct_series(4)
    root.take(first)
    under_way, most, conversions = threading.Semaphore(0), [], []
    running: list[ConversionJob] = []

    def convert_slowly(job: ConversionJob) -> Converted:
        running.append(job)
        conversions.append(len(job.instances))
        most.append(len(running))
        assert under_way.acquire(timeout=DEADLINE_SECONDS)
        converted = convert(job)
        if len(conversions) == 1:
            locked.lock()
        running.remove(job)
        return converted

    worker = begin(convert_slowly)
    worker.start()
    for ds in late:
        until(lambda: bool(running))
        root.take(ds)
        root.index.series.reopen([(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))], root.clock())
        steps = worker.steps
        worker.wake()
        until(lambda: worker.steps > steps)  # noqa: B023  (called at once)
    under_way.release()
    until(lambda: bool(worker._unrecorded))
    locked.unlock()
    under_way.release()
    until(lambda: the_series(root)["state"] == "converted")
    assert most == [1, 1]
    assert conversions == [1, 4]
    assert the_series(root)["revision"] == 2
