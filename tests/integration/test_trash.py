"""The trash: what was deleted comes back whole, or goes at its time, whatever happens in between."""

from __future__ import annotations

import datetime as dt
import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydicom import FileDataset

from node.archive.intake import RESUME_FACTOR
from node.audit.audit_log import Audit
from node.index.nouns.trash import NotInTrash
from node.lifecycle.trash import Restored, empty, empty_due, restore, resume_restores
from node.receive import recovery
from node.receive.accounting import unaccounted
from node.receive.aside import quarantined
from node.receive.ingest import Origin
from node.receive.recovery import recover
from tests import make
from tests.integration.conftest import Root
from tests.rows import write_rows

DAY = 86400


def take(root: Root, instances: list[FileDataset]) -> None:
    root.take_all(instances, Origin("dicom", "CT1", "VOXELNODE", "127.0.0.1:1"))


def trash(root: Root, level: Any, uid: str, days: float = 7) -> int:
    """Delete something into the trash; its number."""
    root.delete(level, uid, trash_until=root.clock() + dt.timedelta(days=days))
    with root.index.reading() as index:
        return int(index.trash.all()[0]["number"])


def bring_back(root: Root, audit: Audit, number: int) -> Restored:
    return restore(root.archive, root.index, audit, number, "someone", lambda title: 60.0, root.clock())


def files(root: Root) -> set[str]:
    return {str(path.relative_to(root.folder)) for path in (root.folder / "objects").rglob("*.dcm")}


def images(root: Root) -> dict[str, tuple[str, str]]:
    query = "SELECT sop_instance_uid, sha256, calling_ae_title FROM v_images"
    return {row["sop_instance_uid"]: (row["sha256"], row["calling_ae_title"]) for row in root.rows(query)}


def in_trash(root: Root) -> list[dict[str, Any]]:
    with root.index.reading() as index:
        return index.trash.all()


@pytest.mark.parametrize("level", ["study", "series", "instance"])
def test_what_was_deleted_comes_back_as_it_was_and_is_converted_again(root: Root, audit: Audit, level: str) -> None:
    series = make.ct_series(4)
    take(root, series)
    root.convert_due()
    before, there = images(root), files(root)
    uid = str({"study": series[0].StudyInstanceUID, "series": series[0].SeriesInstanceUID}.get(
        level, series[1].SOPInstanceUID))  # fmt: skip
    number = trash(root, level, uid)
    assert len(images(root)) == (3 if level == "instance" else 0)
    assert files(root) == there, "files in the trash stay where they are"
    [entry] = in_trash(root)
    assert (entry["level"], entry["uid"], entry["files"]) == (level, uid, 1 if level == "instance" else 4)
    assert entry["patient_id"] == series[0].PatientID
    assert bring_back(root, audit, number) == Restored(instances=entry["files"])
    assert (images(root), files(root), in_trash(root)) == (before, there, [])
    root.convert_due()
    [row] = root.rows("SELECT state, instances FROM v_series")
    assert row == {"state": "converted", "instances": 4}
    with pytest.raises(NotInTrash):
        bring_back(root, audit, number)


def test_nobody_finds_what_is_in_the_trash_but_the_trash(root: Root, audit: Audit) -> None:
    series = make.ct_series(3)
    take(root, series)
    trash(root, "study", series[0].StudyInstanceUID)
    done = recover(root.archive, root.index, lambda title: 60.0, root.clock())
    assert (done.adopted, done.quarantined, images(root)) == (0, 0, {})
    for view in ("v_studies", "v_series", "v_images", "v_patients"):
        assert root.rows(f"SELECT 1 FROM {view}") == []


def test_the_trash_is_emptied_at_its_time_and_not_by_a_clock_in_doubt(root: Root, audit: Audit) -> None:
    first, second = make.ct_series(2), make.ct_series(2)
    take(root, [*first, *second])
    trash(root, "study", first[0].StudyInstanceUID, days=7)
    trash(root, "study", second[0].StudyInstanceUID, days=9)
    root.clock.move(8 * DAY)
    empty_due(root.archive, root.index, audit, root.clock(), is_clock_right=False)
    assert len(in_trash(root)) == 2
    empty_due(root.archive, root.index, audit, root.clock(), is_clock_right=True)
    assert [entry["uid"] for entry in in_trash(root)] == [second[0].StudyInstanceUID]
    assert len(files(root)) == 2
    [gone] = root.rows("SELECT * FROM v_deletions WHERE trash_until IS NULL")
    assert (gone["uid"], gone["finished_at"] is None) == (first[0].StudyInstanceUID, False)
    [said] = root.rows("SELECT count(content) AS n FROM tombstones")
    assert said["n"] == 1, "nothing that names the patient is left of what is gone"


def test_losers_in_and_out_of_the_trash_are_named_unless_only_another_host_has_them(root: Root) -> None:
    for _ in range(2):
        [first] = make.ct_series(1)
        take(root, [first, make.corrected(first)])
    trash(root, "study", first.StudyInstanceUID)
    write_rows(root.folder, "UPDATE conflicts SET host = 'there'")
    write_rows(root.folder, "UPDATE trash SET holder = 'there'")
    losers = root.index.instances.loser_keys()
    assert len(losers) == 2
    with root.index.reading() as index:
        assert [index.instances.loser_keys(host) for host in (None, "there", "here")] == [losers, losers, set()]


DISK_BYTES = 10_000_000


@pytest.mark.parametrize(
    ("lacking", "left"),
    [(0.5, [2, 1]), (1.5, [2]), (3.5, [2, 1, 0])],
    ids=["one is enough", "two are enough", "all are too little"],
)
def test_a_short_disk_empties_the_oldest_first_and_no_more_than_helps(
    root: Root, audit: Audit, monkeypatch: pytest.MonkeyPatch, lacking: float, left: list[int]
) -> None:
    studies = [make.ct_series(1) for _ in range(3)]
    for study in studies:
        take(root, study)
        trash(root, "study", study[0].StudyInstanceUID)

    def used() -> int:
        return sum(path.stat().st_size for path in (root.folder / "objects").rglob("*.dcm"))

    monkeypatch.setattr("node.archive.space.free_bytes", lambda disk: DISK_BYTES - used())
    enough = DISK_BYTES - used() + lacking * used() / 3
    monkeypatch.setattr(root.archive.intake, "_low_bytes", enough / RESUME_FACTOR)
    parts = root.archive, root.index, audit, root.clock()
    assert empty_due(*parts, is_clock_right=True) is not None
    assert len(in_trash(root)) == 3, "nothing goes before its time unless the configuration says so"
    why = [empty_due(*parts, is_clock_right=False, gives_way=True) for _ in range(4)]
    assert [entry["uid"] for entry in in_trash(root)] == [studies[number][0].StudyInstanceUID for number in left]
    is_emptied = "the disk is short of room" in (root.folder / "audit.jsonl").read_text()
    assert is_emptied == (len(left) < 3)
    assert [reason is None for reason in why] == [is_emptied] * 4


def test_a_study_that_was_sent_again_is_a_new_one_and_bringing_back_the_first_changes_nothing(
    root: Root, audit: Audit
) -> None:
    series = make.ct_series(3)
    take(root, series)
    number = trash(root, "study", series[0].StudyInstanceUID)
    take(root, series[:2])
    current, kept = images(root), files(root)
    assert len(kept) == 5
    assert bring_back(root, audit, number) == Restored(instances=1, repeated=2)
    assert images(root) == current | {series[2].SOPInstanceUID: images(root)[series[2].SOPInstanceUID]}
    assert len(files(root)) == 3


def test_other_bytes_that_came_meanwhile_stay_current_and_both_are_kept(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1)
    take(root, [first])
    number = trash(root, "study", first.StudyInstanceUID)
    take(root, [make.corrected(first)])
    current = images(root)
    assert bring_back(root, audit, number) == Restored(conflicts=1)
    assert images(root) == current
    [conflict] = root.rows("SELECT path FROM v_conflicts WHERE kind = 'instance-bytes'")
    assert Path(conflict["path"]).is_file()


def test_conflicts_go_to_the_trash_with_their_files_and_come_back_as_they_were(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1)
    take(root, [first, make.corrected(first)])
    query = "SELECT kind, path, sha256, detail, found_at FROM v_conflicts"
    before, aside = root.rows(query), sorted((root.folder / "quarantine").glob("*.*"))
    number = trash(root, "study", first.StudyInstanceUID)
    assert root.rows(query) == []
    with root.index.reading() as index:
        assert quarantined(root.folder, index) == []
    assert sorted((root.folder / "quarantine").glob("*.*")) == aside
    assert bring_back(root, audit, number) == Restored(instances=1)
    assert root.rows(query) == before


def test_emptying_takes_the_files_of_conflicts_along(root: Root, audit: Audit) -> None:
    [first] = make.ct_series(1)
    take(root, [first, make.corrected(first)])
    number = trash(root, "study", first.StudyInstanceUID)
    empty(root.archive, root.index, audit, number, "someone", "by hand", root.clock())
    assert (files(root), list((root.folder / "quarantine").glob("*.*"))) == (set(), [])
    with pytest.raises(NotInTrash):
        empty(root.archive, root.index, audit, number, "someone", "by hand", root.clock())


def test_a_file_that_is_gone_is_reported_and_keeps_nothing_else_from_coming_back(root: Root, audit: Audit) -> None:
    series = make.ct_series(3)
    take(root, series)
    number = trash(root, "study", series[0].StudyInstanceUID)
    (root.folder / sorted(files(root))[0]).unlink()
    assert bring_back(root, audit, number) == Restored(instances=2, lost=1)
    assert len(images(root)) == 2


def test_a_file_that_cannot_be_read_now_stays_in_the_trash_until_it_can(
    root: Root, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = make.ct_series(3)
    take(root, series)
    number = trash(root, "study", series[0].StudyInstanceUID)
    broken, real = sorted(files(root))[0], recovery.stored_instance

    def failing(folder: Path, key: str, now: dt.datetime) -> Any:
        if key == broken:
            raise OSError(errno.EIO, "Input/output error")
        return real(folder, key, now)

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "stored_instance", failing)
        assert bring_back(root, audit, number) == Restored(instances=2, unread=1)
    assert root.index.instances.unknown_keys([broken]) == [], "a row of the trash names it"
    resume_restores(root.archive, root.index, root.ingest.quiet_seconds, root.clock())
    assert len(images(root)) == 3
    assert root.rows("SELECT source FROM v_images WHERE source = 'recovered'") == []
    assert root.index.trash.restoring() == []


def owed(root: Root) -> set[str]:
    """What the ledger says that should be here and is not."""
    root.index.ahead.checkpoint()
    found = unaccounted(root.folder, root.index.lost.absent)
    return {one.sop_instance_uid for some in found for one in some}


def test_the_ledger_owes_what_came_back_and_what_was_sent_again_and_nothing_of_the_trash(
    root: Root, audit: Audit
) -> None:
    back, gone = make.ct_series(2), make.ct_series(2)
    take(root, [*back, *gone])
    root.index.ahead = root.ingest.applier
    numbers = [trash(root, "study", series[0].StudyInstanceUID) for series in (back, gone)]
    assert owed(root) == set()
    assert bring_back(root, audit, numbers[0]).instances == 2
    root.clock.move(1)
    take(root, gone)
    empty(root.archive, root.index, audit, numbers[1], "someone", "by hand", root.clock())
    assert (owed(root), len(images(root))) == (set(), 4)
    with closing(sqlite3.connect(root.folder / "index.sqlite")) as connection, connection:
        connection.execute("DELETE FROM images")  # an accident, of which the ledger knows
    assert owed(root) == {ds.SOPInstanceUID for ds in (*back, *gone)}


@pytest.mark.parametrize("step", ["begun", "indexed"])
def test_a_restore_that_dies_is_finished_by_the_next_start(
    root: Root, audit: Audit, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    series = make.ct_series(3)
    take(root, [*series, make.corrected(series[0])])
    number = trash(root, "study", series[0].StudyInstanceUID)

    class Died(BaseException):
        pass

    def reached(point: str) -> None:
        if point == f"restore-{step}":
            raise Died

    with monkeypatch.context() as dying:
        dying.setattr("node.lifecycle.trash.reached", reached)
        with pytest.raises(Died):
            bring_back(root, audit, number)
    resume_restores(root.archive, root.index, lambda title: 60.0, root.clock())
    assert len(images(root)) == 3
    assert len(root.rows("SELECT 1 FROM v_conflicts")) == 1
    assert root.rows("SELECT 1 FROM trash") == []
    assert len(files(root)) == 3
