"""The background comparison of the archive: what it finds, what it leaves alone, and how it goes on."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.conversion.series import Conversions
from node.errors import OutOfResources
from node.index.look.study_search import StudyFilter
from node.index.rows.records import Outcome
from node.lifecycle.scrub import Scrub, scrub_state
from node.runtime.metrics import Metrics
from tests import make
from tests.converting import convert_with_all
from tests.integration.conftest import QUICK, Root, flip
from tests.preloaded import run
from tests.waiting import running, until

DAY = 86400
DAYS = 30


def scrub(root: Root) -> Scrub:
    return Scrub(root.archive, root.index, Metrics(), DAYS, root.clock)


def full_pass(root: Root, service: Scrub) -> None:
    """Make the pass that is due, to its end."""
    before = state(root).last
    service.step()
    root.clock.move(DAYS * DAY)
    for _ in range(100):
        if state(root).last != before:
            return
        assert service.step() < 600, "it rests for a share of its time"
    pytest.fail("the pass does not end")


def state(root: Root) -> Any:
    return scrub_state(root.index.about.get("scrub"))


def path_of(root: Root, ds: FileDataset) -> Path:
    [row] = root.rows("SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=ds.SOPInstanceUID)
    return Path(row["path"])


def events(root: Root) -> list[tuple[str, str]]:
    rows = root.rows("SELECT kind, sop_instance_uid FROM v_events WHERE kind LIKE 'file-%' ORDER BY id")
    return [(row["kind"], row["sop_instance_uid"]) for row in rows]


def test_a_pass_finds_damaged_and_missing_files_once_and_they_are_taken_when_they_come_again(root: Root) -> None:
    sent = make.ct_series(5)
    root.take_all(sent)
    flip(path_of(root, sent[1]))
    path_of(root, sent[3]).unlink()
    service = scrub(root)
    for _ in range(2):
        full_pass(root, service)
        last = state(root).last
        assert (last.files, last.damaged, last.unreadable) == (5, 2, 0)
        assert sorted(events(root)) == sorted(
            [("file-damaged", sent[1].SOPInstanceUID), ("file-missing", sent[3].SOPInstanceUID)]
        )
    for number in (1, 3):
        assert root.take(sent[number]) is Outcome.STORED
    full_pass(root, service)
    assert state(root).last.damaged == 0


@pytest.mark.slow
def test_the_first_instances_wake_it_on_an_empty_archive(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.lifecycle.scrub.MIN_SLEEP_SECONDS", 1.0)
    with running(scrub(root)) as service:
        until(lambda: service.steps, 60, "the first step, which finds nothing")
        root.take(make.ct_series(1)[0])
        until(lambda: state(root).current is not None, 60, "the pass has begun")


def test_a_file_that_is_whole_again_is_found(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    path, content = path_of(root, ds), path_of(root, ds).read_bytes()
    flip(path)
    service = scrub(root)
    full_pass(root, service)
    path.write_bytes(content)
    full_pass(root, service)
    assert [kind for kind, _ in events(root)] == ["file-damaged", "file-found"]


def test_a_file_that_is_found_whole_while_its_series_is_set_aside_has_it_converted_again(root: Root) -> None:
    """The scrub comes between the report of a conversion and its end."""
    [ds] = sent = make.ct_series(1)
    for one in sent:
        root.take(one)
    claimed = root.claim()
    key = claimed.instances[0].key
    root.index.instances.mark_files([key], missing=True, now=root.clock(), damage="the file is other")
    root.index.instances.mark_files([key], missing=False, now=root.clock())
    root.index.series.record_damaged(claimed, "1 file", [], root.clock())
    assert root.index.series.claim_due(root.clock()).series_instance_uid == ds.SeriesInstanceUID


def test_a_conversion_sets_a_series_aside_whose_file_is_damaged_still(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    path, conversions = path_of(root, ds), Conversions(root.archive, root.index, QUICK, root.clock)
    for times, state in ((2, "receiving"), (1, "failed")):
        claimed = root.claim(3600)
        flip(path)
        end = conversions.convert(claimed, convert_with_all)
        for _ in range(times - 1):
            flip(path)
        conversions.record(claimed, end)
        [row] = root.rows("SELECT state, error FROM v_series")
        assert row["state"] == state
    assert row["error"].startswith("damaged: 1 of 1 files are not as they were received")
    assert [kind for kind, _ in events(root)] == ["file-damaged"]


def test_a_version_that_lost_is_compared_too(root: Root) -> None:
    root.ingest.overwrite_policy = "keep_both"
    [ds] = make.ct_series(1)
    other = make.corrected(ds)
    for one in (ds, other):
        root.take(one)
    [loser] = root.rows("SELECT path FROM v_conflicts")
    flip(Path(loser["path"]))
    full_pass(root, scrub(root))
    assert state(root).last.damaged == 1
    assert events(root) == [("file-damaged", ds.SOPInstanceUID)]
    assert root.take(other) is Outcome.OTHER_BYTES  # not "already there"


@pytest.mark.parametrize("number", [5, 13])
def test_a_file_that_cannot_be_read_is_counted_and_nothing_is_said_of_its_bytes(
    root: Root, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sent = make.ct_series(3)
    root.take_all(sent)
    path, real = path_of(root, sent[1]), os.open

    def open_(name: Any, *arguments: Any, **options: Any) -> int:
        if str(name) == str(path):
            raise OSError(number, os.strerror(number))
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", open_)
    full_pass(root, scrub(root))
    last = state(root).last
    assert (last.files, last.damaged, last.unreadable) == (3, 0, 1)
    assert events(root) == []


def test_an_archive_that_is_not_mounted_is_not_missing(root: Root) -> None:
    [ds] = make.ct_series(1)
    root.take(ds)
    (root.folder / "objects").rename(root.folder / "elsewhere")
    with pytest.raises(OutOfResources, match="objects was removed"):
        full_pass(root, scrub(root))
    assert events(root) == []
    (root.folder / "elsewhere").rename(root.folder / "objects")
    full_pass(root, scrub(root))
    assert (state(root).last.files, state(root).last.damaged) == (1, 0)


def test_a_pass_takes_its_days_and_goes_on_after_a_restart(open_root: Callable[[], Root]) -> None:
    root = open_root()
    root.take_all(make.ct_series(10))
    service = scrub(root)
    service.step()
    root.clock.move(DAYS * DAY / 2)
    while service.step() < 10:
        pass
    half = state(root).current
    assert 4 <= half.files <= 6
    root = open_root()
    service = scrub(root)
    assert service.step() >= 10
    assert state(root).current == half
    root.clock.move(DAYS * DAY)
    while state(root).last is None:
        service.step()
    assert state(root).last.files == 10
    assert state(root).last.began_at == half.began_at


@pytest.mark.sqlite("starts commands that look for the index in the root")
@pytest.mark.slow
def test_a_series_with_a_damaged_file_is_incomplete_and_named_until_it_comes_again(root: Root) -> None:
    sent = make.ct_series(5, PatientID="ID-9", PatientName="Damaged^Dora", AccessionNumber="ACC-9")
    root.take_all(sent)
    root.convert_due()
    uids = [str(sent[1].StudyInstanceUID), str(sent[1].SeriesInstanceUID), str(sent[1].SOPInstanceUID)]

    def said(*command: str) -> str:
        return " ".join(run(*command, "--root", root.folder).stdout.split())

    def certainties() -> tuple[str, ...]:
        with root.index.reading() as index:
            [study] = index.studies.listed(StudyFilter())
        return *study.certainties, *(row["certainty"] for row in json.loads(said("series", "--json"))["items"])

    assert certainties() == ("no gap seen", "no gap seen")
    flip(path_of(root, sent[1]))
    full_pass(root, scrub(root))
    assert certainties() == ("incomplete", "incomplete")
    fact = "the file of 1 instance is missing or damaged"
    for sought in ("ID-9", "Dora", "ACC-9", *uids[:2]):
        told = said("info", sought)
        assert fact in told, sought
        assert "no gap seen" not in told
    assert "file missing or damaged: have the instance sent again, or take it from a backup" in said("info", uids[2])
    assert "file_missing" not in said("info", uids[2])
    assert f"Damaged Dora (ID-9), study {uids[0]}, series {uids[1]}, instance {uids[2]}" in said("lost", "list")
    [row] = json.loads(said("lost", "list", "--json"))
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "patient_id", "patient_name")
    assert [row[name] for name in names] == [*uids, "ID-9", "Damaged^Dora"]
    assert root.take(sent[1]) is Outcome.STORED
    root.convert_due()
    assert certainties() == ("no gap seen", "no gap seen")
    assert json.loads(said("lost", "list", "--json")) == []


@pytest.mark.parametrize("finder", ["scrub", "sender"])
def test_a_series_whose_file_is_whole_again_is_incomplete_no_more(root: Root, finder: str) -> None:
    sent = make.ct_series(5)
    root.take_all(sent)
    root.convert_due()
    path = path_of(root, sent[1])
    content = path.read_bytes()
    flip(path)
    full_pass(root, service := scrub(root))
    [row] = root.rows("SELECT verdict, verdict_rule, missing_instances, revision FROM v_series")
    assert tuple(row.values()) == ("incomplete", "acknowledged", 1, 1)
    path.write_bytes(content)
    if finder == "scrub":
        full_pass(root, service)
    else:
        assert root.take(sent[1]) is Outcome.ALREADY_THERE
    [row] = root.rows("SELECT verdict, verdict_rule, missing_instances, revision FROM v_series")
    assert (row["verdict"], row["missing_instances"], row["revision"]) == ("complete", 0, 1)


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_series_whose_volume_is_missing_or_altered_is_converted_again(
    root: Root, harm: Callable[[Path], None]
) -> None:
    root.take_all(make.ct_series(3))
    root.convert_due()
    [volume] = root.rows("SELECT path FROM v_volumes")
    content = Path(volume["path"]).read_bytes()
    harm(Path(volume["path"]))
    service = scrub(root)
    full_pass(root, service)
    assert (state(root).last.files, state(root).last.damaged) == (4, 1)
    root.convert_due()
    [volume] = root.rows("SELECT path FROM v_volumes WHERE NOT superseded")
    assert Path(volume["path"]).read_bytes() == content
    full_pass(root, service)
    assert state(root).last.damaged == 0
