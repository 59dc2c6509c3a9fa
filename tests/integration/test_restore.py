"""An older index over a newer archive: nothing that was acknowledged is lost, and `fsck` reports what it did."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.files.acknowledged import FOLDER, entries
from node.lifecycle.fsck import Finding
from node.lifecycle.retention import Retention
from node.receive.apply import Applier
from node.receive.record import JOURNAL_FOLDER
from node.settings.core import OverwritePolicy, RetentionSettings
from node.settings.model import Settings
from tests import make
from tests.crash.journal import Sent, new_series
from tests.ingest import received, served, take
from tests.integration.conftest import data_set_bytes
from tests.integration.test_backup import POLICIES
from tests.made_once import empty_folder, lose_index, put_index_back, save_index
from tests.rows import view_rows
from tests.trash import delete


@pytest.fixture(params=["start", "repair"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_policy(settings: Settings, policy: OverwritePolicy) -> Settings:
    return Settings(storage=settings.storage.model_copy(update={"overwrite_policy": policy}))


def file_of(root: Path, one: Sent) -> Path:
    [row] = view_rows(root, "SELECT path FROM v_images WHERE sop_instance_uid = :uid", uid=one.sop_instance_uid)
    return Path(row["path"])


def repeated(settings: Settings) -> tuple[Path, Sent, Path, Path]:
    """A root with one instance: its file, and another one with the same bytes that no row knows."""
    root, [one] = settings.storage.root, new_series(1)
    received(settings, [one])
    kept = file_of(root, one)
    stray = kept.with_name(f"{'a' * 32}.dcm")
    shutil.copy(kept, stray)
    return root, one, kept, stray


def opened_or_repaired(settings: Settings, how: str) -> list[Finding]:
    if how == "repair":
        return check_repository(settings, digests=False, repair=True)
    with Repository(settings):
        return []


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("journal", ["freed", "kept"])
def test_the_file_that_came_for_a_lost_one_is_not_taken_for_a_repetition_of_it(
    settings: Settings, tmp_path: Path, how: str, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, sent = settings.storage.root, new_series(3)
    received(settings, sent)
    received(settings, new_series(1))
    received(settings, [])  # the folder of the first series will not be compared again by a start
    save_index(root, tmp_path / "copy")
    lost = file_of(root, sent[0])
    lost.unlink()
    check_repository(settings, digests=False, repair=True)
    with monkeypatch.context() as patch:
        if journal == "kept":
            patch.setattr(Applier, "checkpoint", lambda self: None)
        received(settings, sent[:1])
    came = file_of(root, sent[0])
    assert came != lost
    put_index_back(root, tmp_path / "copy")
    findings = opened_or_repaired(settings, how)
    assert {uid: served(root)[uid] for uid in [one.sop_instance_uid for one in sent]} == {
        one.sop_instance_uid: one.sha256 for one in sent
    }
    assert came.is_file()
    reported = {root / finding.path: finding.repair for finding in findings}
    if how == "repair" and journal == "freed":
        assert reported[lost] == f"replaced by {came.relative_to(root)}"
        assert reported[came] == "adopted in place of a missing file"
    assert check_repository(settings, digests=True, repair=False) == []


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("journal", ["freed", "kept"])
def test_the_version_that_replaced_another_is_served_and_the_other_stays_recorded(
    settings: Settings, tmp_path: Path, how: str, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_policy(settings, "replace")
    root, [first] = settings.storage.root, new_series(1)
    second = first.altered()
    received(settings, [first])
    received(settings, new_series(1))
    received(settings, [])
    save_index(root, tmp_path / "copy")
    with monkeypatch.context() as patch:
        if journal == "kept":
            patch.setattr(Applier, "checkpoint", lambda self: None)
        received(settings, [second])
    put_index_back(root, tmp_path / "copy")
    opened_or_repaired(settings, how)
    assert served(root)[first.sop_instance_uid] == second.sha256
    [conflict] = view_rows(root, "SELECT kind, path, sha256 FROM v_conflicts WHERE path IS NOT NULL")
    assert (conflict["kind"], conflict["sha256"]) == ("instance-replaced", first.sha256)
    assert Path(conflict["path"]).read_bytes().endswith(first.data)
    assert check_repository(settings, digests=True, repair=False) == []


@pytest.mark.parametrize("keeps", [True, False])
def test_retention_by_labels_waits_after_an_older_index(settings: Settings, tmp_path: Path, keeps: bool) -> None:
    rules = RetentionSettings(days=90, keep_where='labels == "research"' if keeps else None)
    settings = settings.model_copy(update={"retention": rules})
    received(settings, new_series(1))
    save_index(settings.storage.root, tmp_path / "copy")
    received(settings, new_series(1))
    put_index_back(settings.storage.root, tmp_path / "copy")
    for start in range(2):
        with Repository(settings) as repository:
            with repository.index.reading() as index:
                assert ("may lack labels" in (index.retention.waits_for or "")) == (keeps and start == 0)
            node = Retention(repository.archive, repository.index, repository.audit, repository.metrics, settings)
            repository.actions.by_name["confirm-retention"](who="test")
            node.step()


@pytest.mark.slow
def test_a_version_that_only_quarantine_has_is_served_again(settings: Settings) -> None:
    root, [one] = settings.storage.root, new_series(1)
    received(settings, [one])
    file = file_of(root, one)
    os.rename(file, root / "quarantine" / file.name)
    received(settings, [])
    assert served(root) == {one.sop_instance_uid: one.sha256}
    assert file.is_file()
    assert check_repository(settings, digests=True, repair=False) == []


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("harm", ["none", "flipped"])
def test_a_file_goes_only_when_the_bytes_it_repeats_were_read(settings: Settings, how: str, harm: str) -> None:
    root, one, kept, stray = repeated(settings)
    if harm == "flipped":
        kept.write_bytes(kept.read_bytes()[:-1] + bytes([one.data[-1] ^ 1]))
    findings = opened_or_repaired(settings, how)
    assert served(root) == {one.sop_instance_uid: one.sha256}
    assert stray.exists() == (harm == "flipped")
    if how == "repair":
        name = kept.relative_to(root)
        expected = "adopted in place of a missing file" if harm == "flipped" else f"removed: {name} has the same bytes"
        assert [finding.repair for finding in findings] == [expected]
    assert check_repository(settings, digests=True, repair=False) == []


@pytest.mark.parametrize("policy", ["never", "keep_both"])
@pytest.mark.parametrize("harm", ["lost", "flipped"])
def test_a_second_version_without_its_file_is_found(settings: Settings, policy: OverwritePolicy, harm: str) -> None:
    settings = with_policy(settings, policy)
    root, [first] = settings.storage.root, new_series(1)
    received(settings, [first, first.altered()])
    [row] = view_rows(root, "SELECT path FROM v_conflicts WHERE path IS NOT NULL")
    loser, stray = Path(row["path"]), file_of(root, first).with_name(f"{'a' * 32}.dcm")
    whole = loser.read_bytes()
    stray.write_bytes(whole)
    loser.unlink() if harm == "lost" else loser.write_bytes(whole[:-1])
    received(settings, [])
    rows = view_rows(root, "SELECT path FROM v_conflicts WHERE path IS NOT NULL AND damage IS NULL")
    assert [Path(row["path"]).read_bytes() == whole for row in rows] == [True]


@pytest.mark.slow
def test_a_file_that_cannot_be_compared_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _, kept, stray = repeated(settings)
    real = os.open

    def failing(path: Any, *arguments: Any) -> int:
        if path == kept:
            raise OSError(5, "Input/output error")
        return real(path, *arguments)

    monkeypatch.setattr("node.archive.intact.os.open", failing)
    found = {root / finding.path: finding.kind for finding in check_repository(settings, digests=False, repair=True)}
    assert found == {kept: "file-unreadable", stray: "file-unknown"}
    assert stray.exists()
    assert kept.exists()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["study", "instance"])
def test_a_deletion_finds_in_quarantine_what_came_after_the_index_that_was_put_back(
    settings: Settings, tmp_path: Path, level: str
) -> None:
    root, [one] = settings.storage.root, new_series(1)
    received(settings, [one])
    save_index(root, tmp_path / "older.sqlite")
    received(settings, [one.altered()])
    put_index_back(root, tmp_path / "older.sqlite")
    with Repository(settings) as repository:
        [conflict] = view_rows(root, "SELECT * FROM v_conflicts WHERE path IS NOT NULL")
        assert conflict["kind"] == "instance-quarantined"
        uid = conflict["study_instance_uid"] if level == "study" else one.sop_instance_uid
        delete(repository, uid, level, erases=True)
    assert [path for folder in ("objects", "quarantine") for path in root.glob(f"{folder}/**/*.dcm")] == []


@pytest.mark.slow
def test_a_copied_row_gets_its_bytes_back_from_a_version_in_quarantine(settings: Settings, tmp_path: Path) -> None:
    settings = with_policy(settings, "replace")
    root, [one] = settings.storage.root, new_series(1)
    for version in (one, one.altered(), one):
        received(settings, [version])
    save_index(root, tmp_path / "copy")
    current = file_of(root, one)
    received(settings, [one.altered()])
    assert not current.exists(), "its bytes were in quarantine already: it was removed"
    file_of(root, one).unlink()  # the copy of the folder was made before it came
    put_index_back(root, tmp_path / "copy")
    Repository(settings).close()
    assert served(root) == {one.sop_instance_uid: one.sha256}
    assert [finding.kind for finding in check_repository(settings, digests=True, repair=False)] == []


# Each version that was acknowledged is owed by itself: the same UID with other bytes does not stand for it.


Versions = set[tuple[str, str]]


def lost(root: Path) -> Versions:
    return {(row["sop_instance_uid"], row["sha256"]) for row in view_rows(root, "SELECT * FROM v_lost_instances")}


def named(root: Path) -> Versions:
    return {(one.sop_instance_uid, one.sha256) for _, some in entries(root) for one in some}


def versions(instances: list[Sent]) -> Versions:
    return {(one.sop_instance_uid, one.sha256) for one in instances}


def restored(root: Path, backup: Path) -> None:
    """Put a backup in the place of a root, with the newer ledger: docs/backup.md."""
    shutil.move(root / FOLDER, backup.parent / "newer")
    shutil.rmtree(root)
    shutil.copytree(backup, root)
    shutil.rmtree(root / FOLDER)
    shutil.move(backup.parent / "newer", root / FOLDER)


def drop_quarantine(root: Path) -> None:
    for path in (root / "quarantine").glob("*.dcm"):
        path.unlink()


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("how", ["start", "repair", "rebuild"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_restored_backup_names_the_versions_that_came_since(
    settings: Settings, tmp_path: Path, policy: OverwritePolicy, how: str
) -> None:
    settings = with_policy(settings, policy)
    root, first, new = settings.storage.root, new_series(3), new_series(1)
    second = [one.altered() for one in first]
    received(settings, first)
    shutil.copytree(root, tmp_path / "backup")
    received(settings, [*second, *new])
    restored(root, tmp_path / "backup")
    if how == "repair":
        check_repository(settings, digests=True, repair=True)
    elif how == "rebuild":
        lose_index(root)
        assert rebuild_index(settings).lost == 4
    received(settings, first)
    assert lost(root) == versions([*second, *new]), "the versions of before stand for none of them"
    kinds = {finding.kind for finding in check_repository(settings, digests=True, repair=False)}
    assert kinds == {"instance-lost"}
    received(settings, [*second, *new])
    assert lost(root) == set()
    assert check_repository(settings, digests=True, repair=False) == []
    current = second if policy == "replace" else first
    assert served(root) == {one.sop_instance_uid: one.sha256 for one in [*current, *new]}
    lose_index(root)
    assert rebuild_index(settings).lost == 0


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_of_two_versions_those_that_nothing_replaced_are_owed(settings: Settings, policy: OverwritePolicy) -> None:
    settings = with_policy(settings, policy)
    root, first = settings.storage.root, new_series(2)
    second = [one.altered() for one in first]
    received(settings, first)
    received(settings, second)
    drop_quarantine(root)
    lose_index(root)
    assert rebuild_index(settings).lost == (2 if policy == "never" else 0)
    assert lost(root) == (versions(second) if policy == "never" else set())
    drop_quarantine(root)
    for path in root.glob("objects/*/*.dcm"):
        path.unlink()
    lose_index(root)
    rebuild_index(settings)
    assert lost(root) == versions(second if policy == "replace" else [*first, *second])


def test_versions_that_take_turns_are_owed_as_the_last_one(settings: Settings) -> None:
    settings = with_policy(settings, "replace")
    root, [first] = settings.storage.root, new_series(1)
    received(settings, [first, first.altered(), first])
    drop_quarantine(root)
    for path in root.glob("objects/*/*.dcm"):
        path.unlink()
    lose_index(root)
    rebuild_index(settings)
    assert lost(root) == versions([first])


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_crash_before_the_ledger_leaves_no_version_out(
    settings: Settings, tmp_path: Path, policy: OverwritePolicy
) -> None:
    settings = with_policy(settings, policy)
    root, first = settings.storage.root, new_series(2)
    second = [one.altered() for one in first]
    received(settings, first)
    shutil.copytree(root / FOLDER, tmp_path / FOLDER)
    with Repository(settings) as repository:
        take(repository.ingest, second)
        shutil.copytree(root / JOURNAL_FOLDER, tmp_path / JOURNAL_FOLDER)
    for folder in (FOLDER, JOURNAL_FOLDER):
        shutil.rmtree(root / folder)
        shutil.copytree(tmp_path / folder, root / folder)
    received(settings, [])
    assert named(root) == versions([*first, *second])
    assert check_repository(settings, digests=True, repair=False) == []
    drop_quarantine(root)
    lose_index(root)
    assert rebuild_index(settings).lost == (2 if policy == "never" else 0)


@pytest.mark.slow
def test_a_version_that_lies_aside_is_owed_until_it_is_purged(settings: Settings) -> None:
    root, [first] = settings.storage.root, new_series(1)
    received(settings, [first, first.altered()])
    [path] = (root / "quarantine").glob("*.dcm")
    content = path.read_bytes()
    path.unlink()
    check_repository(settings, digests=False, repair=True)
    assert lost(root) == versions([first.altered()])
    path.write_bytes(content)
    received(settings, [first.altered()])
    assert lost(root) == set()
    path.unlink()
    with Repository(settings) as repository:
        [name] = [path.name for path in (root / "quarantine").glob("*.dcm")]
        repository.actions.by_name["purge-quarantined"](name=name, who="test")
    assert check_repository(settings, digests=False, repair=False) == []
    lose_index(root)
    assert rebuild_index(settings).lost == 0


@pytest.mark.slow
@pytest.mark.parametrize("trash", [False, True])
def test_a_deletion_takes_the_versions_of_other_series_along_and_the_trash_gives_them_back(
    settings: Settings, trash: bool
) -> None:
    rules = settings.retention.model_copy(update={"trash_days": 7.0 if trash else 0.0})
    settings = settings.model_copy(update={"retention": rules})
    root, [first], [ds] = settings.storage.root, new_series(1), make.ct_series(1)
    ds.SOPInstanceUID = first.sop_instance_uid
    second = Sent(str(ds.SeriesInstanceUID), first.sop_instance_uid, data_set_bytes(ds))
    received(settings, [first, second])
    with Repository(settings) as repository:
        delete(repository, first.study_instance_uid)
    assert check_repository(settings, digests=False, repair=False) == []
    if trash:
        with Repository(settings) as repository:
            number = repository.index.trash.oldest()
            repository.actions.by_name["restore-trash"](number=number, who="test")
        drop_quarantine(root)
    lose_index(root)
    rebuild_index(settings)
    assert lost(root) == (versions([second]) if trash else set())


def test_a_ledger_that_is_written_again_has_the_versions_aside(settings: Settings) -> None:
    root, [first] = settings.storage.root, new_series(1)
    received(settings, [first, first.altered()])
    empty_folder(root / FOLDER)
    received(settings, [])
    assert named(root) == versions([first, first.altered()])
