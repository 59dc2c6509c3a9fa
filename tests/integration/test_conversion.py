"""From a quiet series to files and rows: claims, late instances, crashes, refusals."""

import dataclasses
import datetime as dt
import errno
import gc
import hashlib
import json
import os
import re
import resource
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, generate_uid
from structlog.testing import capture_logs

from node.api import assemble
from node.children.messages import ChildCancelled
from node.children.serving import ChildLimits
from node.conversion.job import ConversionJob, Converted
from node.conversion.naming import folder_name, name_template
from node.conversion.offline import convert_folder
from node.conversion.out_folder import Layout
from node.conversion.pipeline import convert
from node.conversion.pool import ConverterDied, Converters, ShortOfResources
from node.conversion.scheduler import Worker
from node.conversion.series import is_unchanged, record_outcome, write_volumes
from node.conversion.volume_files import revision_folder, sweep, sweep_unknown
from node.settings.section import Convert
from node.writers.options import write_options
from tests import make, volumes
from tests.converting import convert_with_all, here
from tests.integration.conftest import QUICK, Clock, Root, announced, data_set_bytes, flip
from tests.preloaded import run
from tests.processes import children

OPTIONS = write_options(Convert())
LIMITS = ChildLimits(memory_bytes=8 << 30, cpu_seconds=60, deadline_seconds=60)


@pytest.fixture
def converters() -> Iterator[Converters]:
    converters = Converters()
    yield converters
    converters.close()


def test_a_quiet_series_becomes_volumes_with_rows_that_name_them(root: Root) -> None:
    root.take_all(make.ct_series(5))
    assert root.convert(root.claim(), options=OPTIONS)
    volumes = root.rows("SELECT * FROM v_volumes")
    assert {(row["kind"], row["format"]) for row in volumes} == {
        ("volume", "nifti"),
        ("volume", "mhd"),
        ("thumbnail", "png"),
    }
    for row in volumes:
        path = Path(row["path"])
        assert path.is_absolute()
        assert path.stat().st_size == row["bytes"]
        assert (row["revision"], row["superseded"], row["instances"]) == (1, 0, 5)
        assert row["kind"] == "thumbnail" or json.loads(row["shape"]) == [12, 16, 5]
    [series] = root.rows("SELECT * FROM v_series")
    assert (series["state"], series["revision"], series["verdict"], series["due_at"]) == (
        "converted",
        1,
        "complete",
        None,
    )
    assert len(root.rows("SELECT 1 FROM v_sources")) == 5
    assert list((root.folder / "work").iterdir()) == []


def test_an_instance_whose_sequence_ends_early_is_excluded_and_the_others_converted(root: Root) -> None:
    """The error of pydicom is an `OSError`, and says nothing about the disk: it has no errno."""
    instances = make.ct_series(5)
    # An item of 20 bytes has a sequence of undefined length that does not end (PS3.5 7.5.2).
    inner = b"\x40\x00\x08\x00SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0" + bytes(4)
    unended = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\x14\0\0\0" + inner
    whole = data_set_bytes(instances[2])
    at = whole.index(b"\xe0\x7f\x10\x00OW")
    damaged = whole[:at] + unended + b"\xfe\xff\xdd\xe0" + bytes(4) + whole[at:]
    root.take_all(instances[:2] + instances[3:])
    root.take_bytes(announced(instances[2]), bytes(damaged))
    assert root.convert(root.claim())
    [exclusion] = root.rows("SELECT sop_instance_uid, reason FROM v_exclusions")
    assert exclusion == {"sop_instance_uid": instances[2].SOPInstanceUID, "reason": "unreadable"}
    assert {row["instances"] for row in root.rows("SELECT instances FROM v_volumes WHERE kind = 'volume'")} == {4}
    [series] = root.rows("SELECT state, verdict FROM v_series")
    assert series == {"state": "converted", "verdict": "incomplete"}


def test_an_instance_that_arrives_during_conversion_makes_the_series_due_again(root: Root) -> None:
    first, *rest = make.ct_series(5)
    root.take_all(rest)

    def late(job: ConversionJob) -> Converted:
        root.take(first)
        return convert(job)

    assert root.convert(root.claim(), late)
    [series] = root.rows("SELECT state, revision FROM v_series")
    assert series == {"state": "receiving", "revision": 1}
    claimed = root.claim()
    assert (claimed.revision, len(claimed.instances)) == (2, 5)
    assert root.convert(claimed)
    current = root.rows("SELECT * FROM v_volumes WHERE NOT superseded AND format = 'nifti'")
    assert [(row["revision"], row["instances"]) for row in current] == [(2, 5)]
    assert len(root.rows("SELECT 1 FROM v_volumes WHERE superseded AND format = 'nifti'")) == 1


@pytest.mark.parametrize("refused", [False, True])
def test_measurements_are_a_file_of_their_series_and_do_not_make_up_for_volumes(root: Root, refused: bool) -> None:
    images = make.ct_series(2, ImageOrientationPatient=r"0\0\0\0\0\0")
    measured = make.measured(("81827009", "SCT", "Diameter"), "12", "mm")
    report = make.measurement_report(images, measured, series_uid=images[0].SeriesInstanceUID)
    root.take_all([*images, report] if refused else [report])
    assert root.convert(root.claim(), convert_with_all)
    [row] = root.rows("SELECT * FROM v_volumes")
    assert (row["kind"], row["format"], row["shape"], row["instances"]) == ("measurements", "json", "[]", 1)
    assert json.loads(Path(row["path"]).read_bytes())["groups"][0]["measurements"][0]["value"] == 12
    state = "refused" if refused else "not-an-image"
    assert root.rows("SELECT state FROM v_series") == [{"state": state}]
    root.index.series.reopen([(report.StudyInstanceUID, report.SeriesInstanceUID)], root.clock())
    again = root.claim()
    assert not is_unchanged(again, root.archive, QUICK)
    assert root.convert(again)
    assert root.rows("SELECT state FROM v_series") == [{"state": state}]


@pytest.mark.slow
@pytest.mark.parametrize("harm", [flip, lambda path: os.truncate(path, 100), Path.unlink], ids=["flip", "cut", "gone"])
def test_a_series_with_a_file_that_is_not_as_it_was_received_keeps_its_volumes_until_it_is_sent_again(
    root: Root, harm: Callable[[Path], None]
) -> None:
    *most, last = make.ct_series(5)
    root.take_all([*most, last])
    worker = Worker(root.archive, root.index, Convert(), root.clock)
    convert_due(root, worker)
    before = root.rows("SELECT path, sha256 FROM v_volumes ORDER BY path")
    [image] = root.rows("SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=last.SOPInstanceUID)
    harm(Path(image["path"]))
    root.take(make.ct_series(6, study_uid=last.StudyInstanceUID, series_uid=last.SeriesInstanceUID)[-1])
    convert_due(root, worker)
    [series] = root.rows("SELECT state, error FROM v_series")
    assert (series["state"], series["error"].partition(":")[0]) == ("failed", "damaged")
    assert [row["reason"] for row in root.rows("SELECT reason FROM v_failures")] == ["damaged"]
    assert root.rows("SELECT path, sha256 FROM v_volumes ORDER BY path") == before
    assert all(Path(row["path"]).exists() for row in before)
    kind = "file-missing" if harm is Path.unlink else "file-damaged"
    [event] = root.rows("SELECT * FROM v_events WHERE kind = :kind", kind=kind)
    assert event["sop_instance_uid"] == last.SOPInstanceUID
    root.take(last)
    convert_due(root, worker)
    [series] = root.rows("SELECT state FROM v_series")
    assert series["state"] == "converted"
    assert len(root.rows("SELECT DISTINCT sop_instance_uid FROM v_sources WHERE revision = 2")) == 6
    worker.stop()


@pytest.mark.usefixtures("other_pythons")
def test_a_child_is_started_shortly_before_the_first_series_is_due(root: Root) -> None:
    root.take(make.ct_series(1)[0])
    worker = Worker(root.archive, root.index, Convert(), root.clock)
    before = children()
    try:
        assert worker._seconds_until_due(root.clock() + dt.timedelta(seconds=53)) == pytest.approx(2)
        assert children() <= before
        assert worker._seconds_until_due(root.clock() + dt.timedelta(seconds=57)) == pytest.approx(3)
        [child] = children() - before
        worker._seconds_until_due(root.clock() + dt.timedelta(seconds=58))
        assert children() - before == {child}
    finally:
        worker.stop()
    assert children() <= before


def test_a_report_that_has_no_volume_is_not_logged_as_converted(root: Root) -> None:
    for series in ([make.structured_report()], make.ct_series(1)):
        root.take_all(series)
    worker = Worker(root.archive, root.index, Convert(), root.clock)
    with capture_logs() as lines:
        convert_due(root, worker)
    worker.stop()
    assert {(line["event"], line["state"]) for line in lines if line["event"].startswith("series_")} == {
        ("series_converted", "converted"), ("series_without_volume", "not-an-image"),
    }  # fmt: skip


def convert_due(root: Root, worker: Worker) -> None:
    """Convert what is due in this process, and record it as the scheduler does."""
    root.clock.move(61)
    while (claimed := root.index.series.claim_due(root.clock())) is not None:
        worker._conversions.record(claimed, worker._conversions.convert(claimed, convert))


def test_a_file_that_cannot_be_read_now_is_not_left_out(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = make.ct_series(5)
    root.take_all(instances)
    worker = Worker(root.archive, root.index, Convert(), root.clock)
    [image] = root.rows("SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=instances[2].SOPInstanceUID)
    real = os.open

    def open_(name: Any, *arguments: Any, **options: Any) -> int:
        if str(name) == image["path"]:
            raise OSError(errno.EIO, "Input/output error")
        return real(name, *arguments, **options)

    with monkeypatch.context() as failing:
        failing.setattr(os, "open", open_)
        convert_due(root, worker)
    [series] = root.rows("SELECT state, error FROM v_series")
    assert (series["state"], series["error"]) == ("receiving", "disk: Input/output error")
    assert not root.rows("SELECT 1 FROM v_images WHERE file_missing")
    root.clock.move(3600)
    convert_due(root, worker)
    assert len(root.rows("SELECT DISTINCT sop_instance_uid FROM v_sources")) == 5
    worker.stop()


def test_a_lost_claim_records_nothing_and_leaves_no_files(root: Root) -> None:
    root.take_all(make.ct_series(3))
    assert not root.convert(dataclasses.replace(root.claim(), claim="of a process that is gone"))
    assert root.rows("SELECT 1 FROM v_volumes") == []
    assert list(root.folder.glob("volumes/*/*/*")) == []


def test_what_a_dead_process_published_goes_unless_rows_name_it(root: Root) -> None:
    root.take_all(make.ct_series(3))
    claimed = root.claim()
    (root.folder / "work" / "left").mkdir(parents=True)
    outcome = write_volumes(claimed, root.archive, root.index, OPTIONS, convert)
    [published] = (root.folder / "volumes").glob("*/*/*")
    [note] = (root.folder / "work").glob("publishing-*")
    written = note.read_bytes()
    note.with_name("publishing-half.part").write_bytes(b"[1, ")
    sweep(root.archive, root.index)
    assert (published.exists(), list((root.folder / "work").iterdir())) == (False, [])

    outcome = write_volumes(claimed, root.archive, root.index, OPTIONS, convert)
    assert note.read_bytes() == written
    assert record_outcome(claimed, outcome, root.archive, root.index, root.clock)
    assert not note.exists()
    note.write_bytes(written)  # the process died after the commit
    sweep(root.archive, root.index)
    assert not note.exists()
    assert all(Path(row["path"]).exists() for row in root.rows("SELECT path FROM v_volumes"))


def test_a_folder_that_is_copied_to_another_disk_leaves_no_part(root: Root) -> None:
    root.take_all(make.ct_series(3))
    write_volumes(root.claim(), root.archive, root.index, OPTIONS, convert)
    [published] = (root.folder / "volumes").glob("*/*/*")
    published.rename(published.with_name(f"part-{published.name}"))  # the process died while it copied
    sweep(root.archive, root.index)
    assert list((root.folder / "volumes").glob("*/")) == []


def test_folders_without_a_note_are_compared_with_rows_when_all_are(root: Root) -> None:
    root.take_all(make.ct_series(3))
    root.convert(root.claim())
    [whole] = (root.folder / "volumes").glob("*/*/*")
    half = whole.with_name("2-00000000")
    half.mkdir()
    sweep(root.archive, root.index)
    assert half.exists()
    assert sweep_unknown(root.archive, root.index)
    assert not half.exists()
    assert all(Path(row["path"]).exists() for row in root.rows("SELECT path FROM v_volumes"))


def test_uids_that_are_none_do_not_become_folder_names() -> None:
    assert folder_name("1.2.3") == "1.2.3"
    for hostile in ("..", "../..", "/etc", "1..2", ".", "1.2\n", "a/b"):
        assert re.fullmatch("uid-[0-9a-f]{32}", folder_name(hostile))


def test_a_folder_belongs_to_one_claim(root: Root) -> None:
    root.take_all(make.ct_series(3))
    first = root.claim()
    second = dataclasses.replace(first, claim="0123456789")
    assert revision_folder(second).name == "1-01234567"
    assert revision_folder(first).parent == revision_folder(second).parent
    assert revision_folder(first) != revision_folder(second)


@pytest.fixture
def job(tmp_path: Path) -> ConversionJob:
    series = make.ct_series(5)
    instances = zip((str(ds.SOPInstanceUID) for ds in series), make.saved(series, tmp_path), strict=True)
    (tmp_path / "out").mkdir()
    return ConversionJob(tuple(instances), tmp_path / "out", OPTIONS)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one processor")
def test_compressed_frames_are_decoded_by_assistants_to_the_same_volume(root: Root) -> None:
    noise = np.random.default_rng(0).integers(0, 4000, (12, 256, 256), np.int16)
    for ds in make.ct_series(12, pixels=noise):
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        root.take(ds)
    claimed = root.claim()
    assert claimed.transfer_syntax_uids == {JPEG2000Lossless}
    seen: set[int] = set()
    ended = threading.Event()
    watch = threading.Thread(target=_watch_descendants, args=(ended, seen))
    converters = Converters()
    watch.start()
    try:
        outcome = write_volumes(
            claimed, root.archive, root.index, OPTIONS, lambda job: converters.run(job, LIMITS, threading.Event())
        )
    finally:
        ended.set()
        watch.join()
        converters.close()
    [nifti] = [file for file in outcome.files if file.format == "nifti"]
    assert np.array_equal(np.asanyarray(nib.load(root.folder / nifti.path).dataobj).T, noise - 1024)
    assert seen, "no process below the one that converts"


def _watch_descendants(ended: threading.Event, seen: set[int]) -> None:
    """Collect the processes that work for what a child of this process has started."""
    while not ended.wait(0.002):
        for keeper in _children(os.getpid()):
            for worker in _children(keeper):
                seen.update(_children(worker))


def _children(process: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


@pytest.mark.slow
def test_a_child_over_its_deadline_is_ended_and_the_next_one_works(job: ConversionJob, converters: Converters) -> None:
    before = children()
    with pytest.raises(ConverterDied, match="deadline_seconds"):
        converters.run(job, dataclasses.replace(LIMITS, deadline_seconds=0.001), threading.Event())
    for left in job.folder.iterdir():
        left.unlink()
    assert converters.run(job, LIMITS, threading.Event()).files
    for left in job.folder.iterdir():
        left.unlink()
    for child in children() - before:
        resource.prlimit(child, resource.RLIMIT_FSIZE, (100, 100))  # of bytes, as `ulimit -f` sets it
    with pytest.raises(ShortOfResources, match=r"disk: File too large; remove the limit .*`ulimit -f`"):
        converters.run(job, LIMITS, threading.Event())


@pytest.mark.slow
def test_a_child_over_its_memory_says_so_and_works_on(
    job: ConversionJob, tmp_path: Path, converters: Converters
) -> None:
    large = []
    for ds in make.ct_series(60, pixels=np.zeros((60, 512, 512), np.int16)):
        large.append((str(ds.SOPInstanceUID), tmp_path / f"large{len(large)}.dcm"))
        ds.save_as(large[-1][1], enforce_file_format=True)
    for memory_bytes in (0, 10 << 20, 20 << 20, 30 << 20, 40 << 20):  # different libraries give up at each
        with pytest.raises(ConverterDied, match=rf"more than {memory_bytes} bytes \(\[convert\] memory_bytes\)"):
            converters.run(
                dataclasses.replace(job, instances=tuple(large)),
                dataclasses.replace(LIMITS, memory_bytes=memory_bytes),
                threading.Event(),
            )
        for left in job.folder.iterdir():
            left.unlink()
    assert converters.run(job, LIMITS, threading.Event()).files


@pytest.mark.slow
def test_the_least_memory_of_settings_is_enough_for_a_conversion(job: ConversionJob, converters: Converters) -> None:
    [at_least] = Convert.model_fields["memory_bytes"].metadata
    everything = write_options(Convert(previews=True, montages=True, projections=True, body_masks=True))
    limits = dataclasses.replace(LIMITS, memory_bytes=at_least.ge)
    assert len(converters.run(dataclasses.replace(job, options=everything), limits, threading.Event()).files) > 5


@pytest.mark.slow
def test_a_child_that_the_kernel_kills_is_reported_as_such(job: ConversionJob) -> None:
    before = children()
    with ThreadPoolExecutor(1) as thread, closing(Converters()) as converters:
        os.mkfifo(fifo := job.folder.parent / "fifo")
        waiting = dataclasses.replace(job, instances=(("1.2", fifo),))
        running = thread.submit(converters.run, waiting, LIMITS, threading.Event())
        with fifo.open("wb"):  # returns when the child reads
            [child] = children() - before
            os.kill(child, signal.SIGKILL)
            with pytest.raises(ConverterDied, match="killed by SIGKILL"):
                running.result(60)


def test_a_cancelled_conversion_ends_at_once(job: ConversionJob, converters: Converters) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(ChildCancelled):
        converters.run(job, LIMITS, cancelled)


def test_a_crashing_series_is_tried_again_later_and_then_set_aside_with_its_reason(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    claimed = root.claim()
    assert root.index.series.record_crash(claimed, "ended by SIGSEGV", attempts=2, now=root.clock())
    assert root.index.series.claim_due(root.clock() + dt.timedelta(seconds=29)) is None
    claimed = root.claim()
    assert not root.index.series.record_crash(claimed, "ended by SIGSEGV", attempts=2, now=root.clock())
    assert root.index.series.record_crash(claimed, "of a claim that was lost", attempts=9, now=root.clock())
    [series] = root.rows("SELECT state, error, attempts FROM v_series")
    assert series == {"state": "failed", "error": "ended by SIGSEGV", "attempts": 2}
    [failure] = root.rows("SELECT reason, detail FROM v_failures")
    assert failure == {"reason": "failed", "detail": "ended by SIGSEGV"}
    [again] = make.ct_series(1)
    again.StudyInstanceUID, again.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
    root.take(again)
    assert root.index.series.claim_due(root.clock() + dt.timedelta(seconds=61)) is not None, (
        "a new instance is a new try"
    )


@pytest.mark.slow
def test_commands_and_pages_name_a_series_that_waits_for_another_try_with_its_error(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    assert root.index.series.record_crash(root.claim(), "it took too long", attempts=2, now=dt.datetime.now(dt.UTC))
    told = run("status", "--root", root.folder).stdout
    assert re.search(r"(?m)^series +1 receiving \(1 waiting for another try\)$", told), told
    assert "it took too long" in told
    [late] = make.ct_series(1)
    late.StudyInstanceUID, late.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
    root.take(late)
    assert "it took too long" not in run("status", "--root", root.folder).stdout
    assert root.rows("SELECT error FROM v_series") == [{"error": None}]


def test_a_new_instance_gives_a_series_all_its_tries_again(root: Root) -> None:
    first, second = make.ct_series(2)
    root.take(first)
    crash = {"attempts": 2, "now": root.clock()}
    assert root.index.series.record_crash(root.claim(), "ended by SIGSEGV", **crash)  # type: ignore[arg-type]
    root.take(second)
    assert root.index.series.record_crash(root.claim(), "ended by SIGSEGV", **crash)  # type: ignore[arg-type]
    assert not root.index.series.record_crash(root.claim(), "ended by SIGSEGV", **crash)  # type: ignore[arg-type]


def wait_for(root: Root, state: str, clock: Clock) -> None:
    deadline = threading.Event()
    for _ in range(600):
        if root.rows("SELECT state FROM v_series") == [{"state": state}]:
            return
        deadline.wait(0.05)
    pytest.fail(f"series never became {state}: {root.rows('SELECT state, error FROM v_series')}")


def test_a_stopping_worker_hands_back_what_it_cannot_finish(root: Root) -> None:
    root.take_all(make.ct_series(5))
    worker = Worker(root.archive, root.index, Convert())
    worker.start()
    wait_for(root, "converting", root.clock)
    worker.stop(0)
    [series] = root.rows("SELECT state, revision FROM v_series")
    assert series == {"state": "receiving", "revision": 0}
    assert list((root.folder / "work").iterdir()) == []


# Identical input gives identical files, and what was read is let go.


EVERYTHING = dataclasses.replace(volumes.EVERYTHING, suv=True)


def saved(datasets: list[Dataset], folder: Path) -> list[tuple[str, Path]]:
    folder.mkdir(exist_ok=True)
    paths = [(str(ds.SOPInstanceUID), folder / f"{generate_uid()}.dcm") for ds in datasets]
    for ds, (_, path) in zip(datasets, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return paths


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(volumes.unpacked(path)).hexdigest() for path in files}


@pytest.mark.slow
def test_every_format_and_picture_is_the_same_twice(tmp_path: Path) -> None:
    for datasets in (
        make.tilted_ct_series(6),
        make.time_series(3, 4),
        make.localizer(),
        [make.rgb_capture(frames=3)],
        [make.enhanced_mr(4, 2)],
        make.image_series(3, modality="PT", Units="GML"),
    ):
        saved(datasets, tmp_path / "in")
    layout = Layout(name_template("volume"))
    convert_folder([tmp_path / "in"], tmp_path / "first", EVERYTHING, here, layout=layout)
    convert_folder([tmp_path / "in"], tmp_path / "second", EVERYTHING, here, layout=layout)
    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert {re.sub(r"-\d+(?=[_.])", "", Path(name).name) for name in first} >= {
        *("volume.nii.gz", "volume.hdr", "volume.img", "volume_analyze.img", "volume.mhd", "volume.npz"),
        *("volume.json", "volume_thumbnail.png", "volume_preview.png", "volume_montage.png", "volume_mip_axial.png"),
        *("volume_resampled.nii.gz", "volume_mask.nii.gz", "volume_suv.nii.gz"),
    }


@pytest.mark.slow
def test_the_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    instances = saved([*make.duplicate_series(6), make.structured_report()], tmp_path / "in")
    for name, order in (("first", instances), ("second", instances[::-1])):
        (tmp_path / name).mkdir()
        assert convert_with_all(ConversionJob(tuple(order), tmp_path / name, EVERYTHING)).files
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_a_data_set_is_let_go_when_the_next_one_is_read(request: pytest.FixtureRequest) -> None:
    series = {str(ds.SOPInstanceUID): ds for ds in make.ct_series(6)}
    read: list[weakref.ref[Dataset]] = []

    def one_by_one() -> Iterator[Dataset]:
        while series:
            _, ds = series.popitem()
            kept[str(ds.SOPInstanceUID)] = dict(ds.items())
            gc.collect()
            assert [each for each in read[:-1] if each() is not None] == []
            read.append(weakref.ref(ds))
            yield ds

    kept: dict[str, dict] = {}
    request.addfinalizer(gc.unfreeze)
    gc.freeze()  # what earlier tests left is not looked through for each data set
    (volume,) = assemble(one_by_one(), lambda uid: Dataset(kept[uid])).volumes
    assert volume.shape[2] == len(read) == 6
