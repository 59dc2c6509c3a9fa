"""Bytes at rest: durable, under names that the node makes, never overwritten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from node.archive import filesystem
from node.archive.filesystem import Archive
from node.errors import OutOfResources


def test_a_kept_file_has_all_its_bytes_and_no_part_is_left(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    part = archive.open_part()
    part.write(b"first ")
    part.write(memoryview(b"second"))
    key, folder = part.keep()
    assert archive.path(key).read_bytes() == b"first second"
    assert archive.path(key).parent == folder
    assert not list((tmp_path / "root" / "incoming").iterdir())


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    key, _ = archive.open_part().keep()
    assert archive.path(key).stat().st_mode & 0o077 == 0
    assert (tmp_path / "root").stat().st_mode & 0o077 == 0


def test_folders_fill_up_and_a_restart_begins_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MAX_FILES_PER_FOLDER", 2)
    archive = Archive(tmp_path / "root")
    folders = [Path(archive.open_part().keep()[0]).parent.name for _ in range(3)]
    assert folders == ["00000000", "00000000", "00000001"]
    again = Archive(tmp_path / "root")
    assert Path(again.open_part().keep()[0]).parent.name == "00000002"
    assert again.folders() == ["00000000", "00000001", "00000002"]


def failing_once(monkeypatch: pytest.MonkeyPatch, target: object, name: str, suffix: str) -> None:
    """Let a function fail with ENOSPC the first time that it is called for a path that ends so."""
    real, failed = getattr(target, name), []

    def fail(path: Path, **arguments: int) -> None:
        if str(path).endswith(suffix) and not failed:
            failed.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, **arguments)

    monkeypatch.setattr(target, name, fail)


def fail_to_keep(archive: Archive) -> None:
    """Find the disk full on keeping a part, and abandon it."""
    part = archive.open_part()
    with pytest.raises(OutOfResources, match="ENOSPC"):
        part.keep()
    part.abandon()


def test_a_folder_that_the_full_disk_did_not_make_is_made_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path / "root")
    failing_once(monkeypatch, Path, "mkdir", "objects/00000000")
    fail_to_keep(archive)
    key, _ = archive.open_part().keep()
    assert archive.path(key).exists()
    assert archive.intake.stopped is None


def test_nothing_is_kept_in_a_folder_whose_name_was_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path / "root")
    failing_once(monkeypatch, filesystem, "sync_folder", "/objects")
    fail_to_keep(archive)
    _, folder = archive.open_part().keep()
    assert folder.name == "00000001"
    assert not list((archive.root / "objects" / "00000000").iterdir())


def test_an_abandoned_part_is_gone_and_may_be_abandoned_again(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    part = archive.open_part()
    part.write(b"x")
    part.abandon()
    part.abandon()
    assert not list((tmp_path / "root" / "incoming").iterdir())


def test_a_full_disk_is_out_of_resources_with_the_error_and_no_path(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    part = archive.open_part()
    part._close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        part._file = full.fileno()
        with pytest.raises(OutOfResources, match="ENOSPC") as refusal:
            part.write(b"x")
    assert str(tmp_path) not in str(refusal.value)
    part.abandon()


def test_quarantine_moves_a_file_out_of_the_objects(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    key, _ = archive.open_part().keep()
    archive.quarantine(key)
    assert not archive.path(key).exists()
    assert archive.path(archive.quarantine_key(key)).exists()
    archive.remove(key)
