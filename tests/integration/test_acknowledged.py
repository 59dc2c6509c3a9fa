"""What was acknowledged and is not here stands as a row until it comes again, is deleted or is written off."""

import shutil
from pathlib import Path

import pytest

from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.conversion.scheduler import Worker
from node.files.acknowledged import FOLDER, entries, segments
from node.receive.record import JOURNAL_FOLDER
from node.settings.model import Settings
from tests.crash.journal import Sent, new_series
from tests.ingest import received, take
from tests.made_once import empty_folder, lose_index, put_index_back, save_index
from tests.preloaded import run
from tests.rows import view_rows
from tests.trash import delete
from tests.waiting import running, within


def convert_all(settings: Settings) -> None:
    """Let the worker of a node convert what is due."""
    with Repository(settings) as repository:
        index = repository.index
        with running(Worker(repository.archive, index, settings.convert, index.now)):
            assert within(60.0, lambda: not index.series.count_open()), "not converted in time"


def remove_files(root: Path, lost: list[Sent]) -> None:
    uids = {one.sop_instance_uid for one in lost}
    for row in view_rows(root, "SELECT sop_instance_uid, path FROM v_images"):
        if row["sop_instance_uid"] in uids:
            Path(row["path"]).unlink()


def lost_uids(root: Path) -> set[str]:
    return {row["sop_instance_uid"] for row in view_rows(root, "SELECT * FROM v_lost_instances")}


def uids_of(instances: list[Sent]) -> set[str]:
    return {one.sop_instance_uid for one in instances}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["index", "rows"])
def test_a_rebuild_after_a_loss_calls_no_part_of_a_series_complete(settings: Settings, loss: str) -> None:
    root, sent = settings.storage.root, new_series(8)
    quick = settings.model_copy(update={"series": settings.series.model_copy(update={"quiet_seconds": 0.0})})
    received(quick, sent)
    convert_all(quick)
    [before] = view_rows(root, "SELECT revision, verdict FROM v_series")
    assert before["verdict"] == "complete"
    remove_files(root, sent[:3])
    [volume] = root.glob("volumes/*/*/*/*.nii.gz")
    whole = volume.read_bytes()
    if loss == "index":
        lose_index(root)
    assert rebuild_index(quick).lost == 3
    assert lost_uids(root) == uids_of(sent[:3])
    convert_all(quick)
    assert volume.read_bytes() == whole, "nothing of the instances that are left is better"
    kept = [str(volume.parent.relative_to(root))] if loss == "index" else []
    findings = check_repository(quick, digests=False, repair=True)
    assert [finding.path for finding in findings if finding.kind == "volume-kept"] == kept
    assert volume.exists()
    [series] = view_rows(root, "SELECT revision, state, error, verdict, verdict_reason FROM v_series")
    assert (series["verdict"], series["verdict_reason"]) == (
        "incomplete",
        "3 instances were acknowledged and are not here",
    )
    assert series["state"] == "failed"
    if loss == "rows":
        assert series["revision"] == before["revision"], "the volume of all 8 stays current"
    else:
        assert kept[0] in series["error"]
    received(quick, sent[:3])
    assert lost_uids(root) == set()
    convert_all(quick)
    [series] = view_rows(root, "SELECT state, verdict, instances FROM v_series")
    assert (series["state"], series["verdict"], series["instances"]) == ("converted", "complete", 8)
    convert_all(quick)
    assert volume.exists() == (loss == "rows"), "what no row names goes once nothing of its series is lost"


@pytest.mark.slow
def test_what_was_deleted_is_not_missed_by_a_new_index(settings: Settings) -> None:
    root, study, series, one = settings.storage.root, new_series(2), new_series(2), new_series(3)
    received(settings, [*study, *series, *one])
    [row] = view_rows(
        root, f"SELECT study_instance_uid AS uid FROM v_images WHERE sop_instance_uid = '{study[0].sop_instance_uid}'"
    )
    with Repository(settings) as repository:
        delete(repository, row["uid"])
        delete(repository, series[0].series_instance_uid, "series")
        delete(repository, one[0].sop_instance_uid, "instance")
    assert check_repository(settings, digests=False, repair=False) == []
    lose_index(root)
    assert rebuild_index(settings).lost == 0
    received(settings, study)
    remove_files(root, study)
    lose_index(root)
    assert rebuild_index(settings).lost == 2, "they were acknowledged again after the deletion"


@pytest.mark.slow
def test_lost_instances_are_reported_until_they_are_written_off(settings: Settings) -> None:
    root, sent = settings.storage.root, new_series(3)
    received(settings, sent)
    remove_files(root, sent[:2])
    lose_index(root)
    done = run("db", "rebuild", "--root", root)
    assert (done.returncode, "acknowledged, not here: 2" in done.stdout) == (1, True), done.stdout
    findings = check_repository(settings, digests=False, repair=False)
    assert {(finding.kind, finding.sop_instance_uid) for finding in findings} == {
        ("instance-lost", one.sop_instance_uid) for one in sent[:2]
    }
    listed = run("lost", "list", "--root", root)
    assert listed.returncode == 1
    assert "MODALITY" in listed.stdout
    assert "2 instances: voxelnode lost list" in run("status", "--root", root).stdout
    off = run("lost", "write-off", sent[0].sop_instance_uid, "--reason", "gone for good", "--yes", "--root", root)
    assert (off.returncode, off.stdout) == (0, "written off: 1 instance\n"), off.stderr
    assert lost_uids(root) == uids_of(sent[1:2])
    assert "gone for good" in run("audit", "--root", root).stdout
    assert run("lost", "write-off", "--all", "--reason", "as well", "--yes", "--root", root).returncode == 0
    assert check_repository(settings, digests=False, repair=False) == []
    lose_index(root)
    assert rebuild_index(settings).lost == 0, "the ledger knows what was written off"


def test_an_older_index_tells_what_was_acknowledged_since(settings: Settings, tmp_path: Path) -> None:
    root, early, late = settings.storage.root, new_series(2), new_series(2)
    received(settings, early)
    save_index(root, tmp_path / "copy")
    received(settings, late)
    remove_files(root, late[:1])
    put_index_back(root, tmp_path / "copy")
    received(settings, [])
    assert lost_uids(root) == uids_of(late[:1])


def test_an_older_index_blames_nobody_for_associations_that_were_open_then(settings: Settings, tmp_path: Path) -> None:
    root, sent = settings.storage.root, new_series(2)
    with Repository(settings) as repository:
        take(repository.ingest, sent, "a1")
        save_index(root, tmp_path / "copy")
        repository.ingest.association_ended("a1", "released")
    put_index_back(root, tmp_path / "copy")
    received(settings, [])
    assert view_rows(root, "SELECT * FROM v_events WHERE kind = 'node-ended'") == []
    assert view_rows(root, "SELECT * FROM open_associations") == []


def test_a_lost_ledger_is_written_again_from_the_index(settings: Settings) -> None:
    root, sent = settings.storage.root, new_series(3)
    received(settings, sent)
    empty_folder(root / FOLDER)
    Repository(settings).close()
    assert {one.sop_instance_uid for _, some in entries(root) for one in some} == uids_of(sent)
    empty_folder(root / FOLDER)
    remove_files(root, sent[:1])
    assert rebuild_index(settings).lost == 1, "the index before knew it"
    lose_index(root)
    assert rebuild_index(settings).lost == 1, "the ledger that was written again has what was lost then"


@pytest.mark.slow
def test_a_damaged_segment_is_found_and_the_rest_is_read(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.files.acknowledged.SEGMENT_ENTRIES", 2)
    root, sent = settings.storage.root, [new_series(1)[0] for _ in range(6)]
    for one in sent:
        received(settings, [one])
    paths = segments(root / FOLDER)
    assert len(paths) == 3
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    paths[1].unlink()
    kinds = [finding.kind for finding in check_repository(settings, digests=False, repair=False)]
    assert kinds == ["ledger-damaged"], "the segment that is gone is known by nothing but its entries"
    left = {one.sop_instance_uid for _, some in entries(root) for one in some}
    assert uids_of(sent[4:]) < left < uids_of(sent[:2] + sent[4:]), "one entry is damaged, and the one beside it is not"
    check_repository(settings, digests=False, repair=True)
    assert check_repository(settings, digests=False, repair=False) == []
    assert {one.sop_instance_uid for _, some in entries(root) for one in some} == uids_of(sent)


def journal_kept(settings: Settings, sent: list[Sent], copy: Path) -> None:
    """Receive instances, and put back the journal that still had them: as if a kill came while the ledger got them."""
    with Repository(settings) as repository:
        take(repository.ingest, sent)
        shutil.copytree(settings.storage.root / JOURNAL_FOLDER, copy)
    shutil.rmtree(settings.storage.root / JOURNAL_FOLDER)
    shutil.copytree(copy, settings.storage.root / JOURNAL_FOLDER)


@pytest.mark.sample(1)
@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_end_is_cut_off_if_the_journal_has_what_it_named(settings: Settings, cut: int, tmp_path: Path) -> None:
    root, sent = settings.storage.root, new_series(2)
    journal_kept(settings, sent[:1], tmp_path / "copy")
    [path] = segments(root / FOLDER)
    path.write_bytes(path.read_bytes() + b"VA\0\0\1\0"[:cut] + bytes(max(0, cut - 6)))
    received(settings, sent[1:])
    assert {one.sop_instance_uid for _, some in entries(root) for one in some} == uids_of(sent)
    assert check_repository(settings, digests=False, repair=False) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "damage"),
    [
        ("nothing", "last frame"),
        ("index", "first frames"),
        pytest.param("nothing", "first frames", marks=pytest.mark.long),
        pytest.param("index", "last frame", marks=pytest.mark.long),
    ],
)
def test_an_end_that_no_crash_tore_is_reported_and_kept(settings: Settings, loss: str, damage: str) -> None:
    root, sent, later = settings.storage.root, new_series(2), new_series(2)
    received(settings, sent)
    before = len(segments(root / FOLDER)[0].read_bytes())
    received(settings, later)
    with Repository(settings) as repository:
        delete(repository, sent[0].sop_instance_uid, "instance")
    received(settings, sent[:1])
    [path] = segments(root / FOLDER)
    content = path.read_bytes()
    keeps = before if damage == "last frame" else 0
    path.write_bytes(content[:keeps] + bytes(600 + len(content) - keeps))
    remove_files(root, later[:1])
    if loss == "index":
        lose_index(root)
        done = run("db", "rebuild", "--root", root)
        assert (done.returncode, f"acknowledged/{path.name}" in done.stdout) == (1, True), done.stdout
    received(settings, [])
    kinds = {finding.kind for finding in check_repository(settings, digests=False, repair=False)}
    assert "ledger-damaged" in kinds
    assert path.read_bytes()[keeps:] == bytes(600 + len(content) - keeps), "for whoever can read it"
    there = {row["sop_instance_uid"] for row in view_rows(root, "SELECT sop_instance_uid FROM v_images")}
    assert there <= {one.sop_instance_uid for _, some in entries(root) for one in some}
    more = new_series(1)
    received(settings, more)
    remove_files(root, more)
    check_repository(settings, digests=False, repair=True)
    lose_index(root)
    rebuild_index(settings)
    assert uids_of(more) <= lost_uids(root), "its number is not one that was settled before"
    assert "ledger-damaged" not in {one.kind for one in check_repository(settings, digests=False, repair=False)}
