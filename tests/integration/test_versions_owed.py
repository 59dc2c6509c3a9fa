"""Each version that was acknowledged is owed by itself: the same UID with other bytes does not stand for it."""

import shutil
from pathlib import Path

import pytest

from node.control.care import check_repository, rebuild_index
from node.control.repository import Repository
from node.files.acknowledged import FOLDER, entries
from node.lifecycle.journal import JOURNAL_FOLDER
from node.settings.core import OverwritePolicy
from node.settings.model import Settings
from tests import make
from tests.crash.journal import Sent, new_series
from tests.ingest import received, served, take
from tests.integration.conftest import data_set_bytes
from tests.made_once import empty_folder, lose_index
from tests.pace import few_in_the_gate
from tests.rows import view_rows
from tests.trash import delete

Versions = set[tuple[str, str]]

POLICIES: tuple[OverwritePolicy, ...] = ("never", "keep_both", "replace")


def with_policy(settings: Settings, policy: OverwritePolicy) -> Settings:
    return Settings(storage=settings.storage.model_copy(update={"overwrite_policy": policy}))


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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["start", "repair", "rebuild"])
@pytest.mark.parametrize("policy", few_in_the_gate(POLICIES, "never"))
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
def test_of_two_versions_those_are_owed_that_no_other_took_the_place_of(
    settings: Settings, policy: OverwritePolicy
) -> None:
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
