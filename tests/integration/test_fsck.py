"""`fsck` finds and mends differences between index, archive and volumes; `db rebuild` and a backup restore them."""

import datetime as dt
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from node.api import Index, Settings, VoxelnodeError, reading
from node.archive.filesystem import Archive
from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.control.root import RootInUse
from node.conversion.pipeline import convert
from node.files.acknowledged import FOLDER, entries, segments
from node.lifecycle.deletion import Order, delete
from node.lifecycle.fsck import Finding, examine
from node.receive.recovery import COPIED, RETURNED, record_quarantined
from node.runtime.metrics import Metrics
from node.writers.options import WriteOptions
from tests import make
from tests.converting import convert_series
from tests.crash.journal import Sent, new_series
from tests.ingest import received, settings_of, take
from tests.integration.conftest import flip
from tests.made_once import copy_root, empty_folder, lose_index, put_index_back, save_index
from tests.rows import view_rows, write_rows

FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def filled_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a series of five instances, converted."""
    root = tmp_path_factory.mktemp("filled") / "root"
    with Repository(settings_of(root)) as store:
        take(store.ingest, new_series(5))
        convert_all(store)
    return root


@pytest.fixture
def filled(settings: Settings, filled_once: Path) -> Path:
    """A copy of that root."""
    copy_root(filled_once, settings.storage.root)
    return settings.storage.root


def convert_all(store: Repository) -> None:
    while claimed := store.index.series.claim_due(FAR):
        convert_series(claimed, store.archive, store.index, WriteOptions(), convert, lambda: FAR)


def found(settings: Settings, *, digests: bool = False, repair: bool = False) -> list[Finding]:
    return check_repository(settings, digests=digests, repair=repair)


def kinds(findings: list[Finding]) -> list[str]:
    return sorted(finding.kind for finding in findings)


def objects(root: Path) -> list[Path]:
    return sorted(root.glob("objects/*/*.dcm"))


def test_a_lost_file_is_marked_and_the_next_arrival_brings_it_back(settings: Settings, filled: Path) -> None:
    lost = objects(filled)[0]
    content = lost.read_bytes()
    lost.unlink()
    [finding] = found(settings, repair=True)
    assert (finding.kind, finding.path, finding.repair) == ("file-missing", str(lost.relative_to(filled)), "marked")
    assert found(settings) == []
    [row] = view_rows(filled, "SELECT * FROM v_images WHERE file_missing")
    assert row["sop_instance_uid"] == finding.sop_instance_uid
    assert view_rows(filled, "SELECT 1 FROM v_events WHERE kind = 'file-missing'")
    data = content[row["data_set_offset"] :]
    received(settings, [Sent(row["series_instance_uid"], row["sop_instance_uid"], data)])
    assert view_rows(filled, "SELECT count(*) AS n FROM v_images WHERE NOT file_missing") == [{"n": 5}]
    assert found(settings, digests=True) == []


@pytest.mark.slow
def test_repair_asks_whether_the_archive_is_mounted_if_many_files_are_missing(settings: Settings, filled: Path) -> None:
    shutil.copytree(filled / "objects", filled / "elsewhere")
    empty_folder(filled / "objects")
    with pytest.raises(VoxelnodeError, match=r"5 of 5 files are missing: is the archive mounted.*--force"):
        found(settings, repair=True)
    assert view_rows(filled, "SELECT 1 FROM v_images WHERE file_missing") == []
    check_repository(settings, digests=False, repair=True, force=True)
    assert len(view_rows(filled, "SELECT 1 FROM v_images WHERE file_missing")) == 5
    shutil.rmtree(filled / "objects")
    (filled / "elsewhere").rename(filled / "objects")
    found(settings, repair=True)
    assert view_rows(filled, "SELECT 1 FROM v_images WHERE file_missing") == []


def test_a_flipped_bit_is_seen_by_its_digest_and_goes_to_quarantine(settings: Settings, filled: Path) -> None:
    flip(objects(filled)[2])
    flip(next(filled.glob("volumes/*/*/1-*/*.nii.gz")))
    assert found(settings) == []
    assert {one.kind: one.repair for one in found(settings, digests=True)} == {
        "file-altered": None,
        "volume-altered": None,
    }
    repaired = {one.kind: one.repair for one in found(settings, digests=True, repair=True)}
    assert repaired["file-altered"] == "to quarantine, marked as missing"
    assert repaired["volume-altered"] == "to be converted again"
    assert len(list((filled / "quarantine").glob("*.dcm"))) == 1
    assert kinds(found(settings, digests=True)) == ["volume-missing"], "until it is converted again"
    assert view_rows(filled, "SELECT verdict, state FROM v_series") == [{"verdict": "incomplete", "state": "receiving"}]


@pytest.mark.diagonal
@pytest.mark.parametrize("is_noted", [False, True], ids=["unknown", "noted"])
@pytest.mark.parametrize("is_marked", [False, True], ids=["of a row with a wrong digest", "of a marked row"])
def test_a_file_comes_back_from_quarantine(settings: Settings, filled: Path, is_marked: bool, is_noted: bool) -> None:
    Repository(settings).close()  # a copy is compared as a whole
    lost, *others = objects(filled)
    content = lost.read_bytes()
    if is_marked:
        lost.unlink()
        found(settings, repair=True)
    else:
        mislead(filled, lost)
        lost.unlink()
    (filled / "quarantine" / lost.name).write_bytes(content)
    if is_noted:  # as after a copy that was made while versions came
        with closing(Index(filled, Metrics())) as index:
            record_quarantined(Archive(filled), index, FAR)
    repairs = [finding.repair for finding in found(settings, digests=not is_marked, repair=True)]
    if is_marked:
        assert (COPIED if is_noted else RETURNED) in repairs
    else:
        assert f"{'copied' if is_noted else 'moved'} back: the digest of its row was corrected" in repairs
        conflict = view_rows(filled, "SELECT kind, sha256 FROM v_conflicts")[-1]
        assert conflict == {"kind": "digest-corrected", "sha256": "0" * 64}
        told = [row["kind"] for row in view_rows(filled, "SELECT kind FROM v_events ORDER BY id")]
        assert told[-2:] == ["digest-corrected", "verdict-changed"]
    assert (lost.read_bytes(), objects(filled)) == (content, [lost, *others])
    assert found(settings, digests=True) == []


@pytest.mark.slow
def test_a_damaged_file_does_not_come_back_from_quarantine(settings: Settings, filled: Path) -> None:
    Repository(settings).close()  # a copy is compared as a whole
    lost = objects(filled)[0]
    flip(lost)
    lost.rename(filled / "quarantine" / lost.name)
    repairs = [finding.repair for finding in found(settings, digests=True, repair=True)]
    assert sorted(map(str, repairs)) == ["marked", "noted as a version that is not current"]
    assert view_rows(filled, "SELECT kind FROM v_conflicts") == [{"kind": "instance-quarantined"}]


@pytest.mark.slow
def test_an_instance_in_quarantine_without_a_row_goes_with_its_study(settings: Settings, filled: Path) -> None:
    first = view_rows(filled, "SELECT * FROM v_images")[0]
    other = filled / "quarantine" / f"{'c' * 32}.dcm"
    make.instance(
        SOPInstanceUID=first["sop_instance_uid"],
        SeriesInstanceUID=first["series_instance_uid"],
        StudyInstanceUID=first["study_instance_uid"],
    ).save_as(other, enforce_file_format=True)
    (filled / "quarantine" / "notes.dcm").write_bytes(b"no DICOM")
    assert kinds(found(settings)) == ["loser-unknown"]
    assert kinds(found(settings, repair=True)) == ["loser-unknown"]
    assert found(settings, digests=True) == []
    with Repository(settings) as store:
        plan = store.index.deletions.plan("study", first["study_instance_uid"])
        delete(store.archive, store.index, store.audit, plan, Order("tester", "test"), FAR)
    assert not other.exists()


def mislead(root: Path, path: Path) -> None:
    """Give the row of a file the digest of other bytes, as a damaged page of the index does."""
    write_rows(root, "UPDATE images SET sha256 = :wrong WHERE key LIKE :key", wrong="0" * 64, key=f"%{path.name}")


@pytest.mark.slow
def test_a_truncated_file_is_seen_without_reading_it(settings: Settings, filled: Path) -> None:
    os.truncate(objects(filled)[0], 500)
    assert kinds(found(settings)) == ["file-altered"]


def test_a_file_without_row_is_adopted_or_goes_to_quarantine(settings: Settings, filled: Path) -> None:
    folder = objects(filled)[0].parent
    stray = folder / f"{'a' * 32}.dcm"
    make.instance(SOPInstanceUID="1.2.3").save_as(stray, enforce_file_format=True)
    (folder / f"{'b' * 32}.dcm").write_bytes(b"no DICOM")
    assert kinds(found(settings)) == ["file-unknown", "file-unknown"]
    assert all(finding.repair for finding in found(settings, repair=True))
    assert found(settings, digests=True) == []
    assert len(view_rows(filled, "SELECT 1 FROM v_images")) == 6


@pytest.mark.slow
def test_beside_a_serving_node_a_young_file_without_row_is_on_its_way_in(settings: Settings, filled: Path) -> None:
    young, old = (objects(filled)[0].parent / f"{letter * 32}.dcm" for letter in "ab")
    young.write_bytes(b"")
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    with Repository(settings) as store:
        store.archive.path(str(young.relative_to(filled))).write_bytes(b"")
        old.write_bytes(b"")
        os.utime(old, (0, 0))
        assert [finding.path for finding in found(settings)] == [str(old.relative_to(filled))]


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["lost", "flipped"])
def test_a_volume_that_is_not_as_it_was_written_is_made_again(settings: Settings, filled: Path, harm: str) -> None:
    volume = next(filled.glob("volumes/*/*/1-*/*.nii.gz"))
    volume.unlink() if harm == "lost" else flip(volume)
    assert kinds(found(settings, digests=True)) == [f"volume-{'missing' if harm == 'lost' else 'altered'}"]
    [repaired] = found(settings, digests=True, repair=True)
    assert repaired.repair == "to be converted again"
    with Repository(settings) as store:
        convert_all(store)
    rows = view_rows(filled, "SELECT path, revision FROM v_volumes WHERE NOT superseded AND format = 'nifti'")
    assert [row["revision"] for row in rows] == [2]
    assert Path(rows[0]["path"]).is_file()
    assert found(settings, digests=True) == []  # also while the rows of the first revision are kept


def test_a_damaged_segment_of_the_ledger_is_made_up_for_by_what_the_index_has(
    settings: Settings, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.files.acknowledged.SEGMENT_ENTRIES", 1)
    for _ in range(2):
        received(settings, new_series(1))
    flip(segments(filled / FOLDER)[0], 300)  # among the names
    [finding] = found(settings, repair=True)
    assert (finding.kind, finding.repair) == ("ledger-damaged", "what the index has was added to the ledger")
    assert found(settings) == []
    named = {(one.sop_instance_uid,) for _, some in entries(filled) for one in some}
    assert named == {tuple(row.values()) for row in view_rows(filled, "SELECT sop_instance_uid FROM v_images")}


@pytest.mark.slow
def test_volumes_without_rows_are_removed(settings: Settings, filled: Path) -> None:
    stray = filled / "volumes" / "1.2" / "3.4" / "1"
    stray.mkdir(parents=True)
    assert kinds(found(settings)) == ["volume-unknown"]
    found(settings, repair=True)
    assert not stray.exists()
    assert found(settings) == []


def test_a_file_that_came_after_the_first_look_is_not_unknown(settings: Settings, filled: Path) -> None:
    with Repository(settings) as store, reading(filled) as index:
        before = set(objects(filled))
        assert index.instances.totals()["instances"] == 5  # the moment that this view sees
        take(store.ingest, new_series(2))
        for path in set(objects(filled)) - before:
            os.utime(path, (0, 0))  # long ago, as at the end of a long comparison
        assert list(examine(filled, index, digests=False, serving=True)) == []


def test_repair_needs_the_root_for_itself(settings: Settings, filled: Path) -> None:
    with Repository(settings), pytest.raises(RootInUse):
        found(settings, repair=True)


def images(root: Path) -> list[dict[str, object]]:
    columns = "sop_instance_uid, series_instance_uid, sha256, bytes, data_set_offset, path, calling_ae_title"
    return view_rows(root, f"SELECT {columns} FROM v_images ORDER BY sop_instance_uid")


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm", ["deleted", pytest.param("damaged", marks=pytest.mark.sqlite("writes over the file")), "sound"]
)
def test_the_index_is_rebuilt_from_the_files_alone(settings: Settings, filled: Path, harm: str) -> None:
    before = images(filled)
    made = list(filled.glob("volumes/*/*/*"))
    [reported] = view_rows(filled, "SELECT min(received_at) AS first FROM v_images")
    if harm == "deleted":
        lose_index(filled)
    elif harm == "damaged":
        (filled / "index.sqlite").write_bytes(b"no database" * 1000)
    rebuilt = rebuild_index(settings)
    assert (rebuilt.taken_back, rebuilt.unread) == ([], [])
    assert (rebuilt.replayed.applied, rebuilt.recovered.adopted) == (0, len(before))
    assert (rebuilt.previous_index is None) == (harm == "deleted")
    assert images(filled) == before
    with Repository(settings) as store:
        assert list(filled.glob("volumes/*/*/*")) == (made if harm == "sound" else [])
        convert_all(store)
    assert [row["state"] for row in view_rows(filled, "SELECT state FROM v_series")] == ["converted"]
    [received] = view_rows(filled, "SELECT min(received_at) AS first FROM v_images")
    first = dt.datetime.fromtimestamp(min(path.stat().st_mtime for path in objects(filled)), dt.UTC)
    assert received == reported if harm == "sound" else str(received["first"])[:19] == f"{first:%Y-%m-%d %H:%M:%S}"
    assert found(settings, digests=True, repair=True) == []


@pytest.mark.sqlite("an index of a server is not opened for another folder without the newest of its files")
def test_files_copied_before_the_index_leave_rows_without_files(settings: Settings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with Repository(settings) as store:
        take(store.ingest, new_series(40))
        for name in ("objects", "journal"):
            shutil.copytree(settings.storage.root / name, copy / name)
        take(store.ingest, new_series(3))
        save_index(settings.storage.root, tmp_path / "index")
    put_index_back(copy, tmp_path / "index")
    with Repository(settings_of(copy)) as store:
        assert store.recovered.missing == 3
