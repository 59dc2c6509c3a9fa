"""Bytes at rest: durable, under names that the node makes, never overwritten."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from node.archive import filesystem
from node.archive.filesystem import Archive
from node.errors import OutOfResources


def kept(archive: Archive, content: bytes = b"") -> str:
    """The key of a file that was written and synced."""
    key = archive.new_key()
    archive.write(key, content)
    archive.sync([key])
    return key


def test_the_part_of_a_large_instance_becomes_its_file(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    key = archive.new_key()
    part = archive.open_part(key)
    part.write(b"first ")
    part.write(memoryview(b"second"))
    part.finish()
    assert archive.keep_part(key)
    assert archive.path(key).read_bytes() == b"first second"
    assert not list((tmp_path / "root" / "incoming").iterdir())
    assert not archive.keep_part(key)  # a record that is applied again


def test_a_part_that_the_disk_does_not_move_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path / "root")
    key = archive.new_key()
    archive.open_part(key).finish()
    monkeypatch.setattr(filesystem, "move_file", Mock(side_effect=OSError(errno.EIO, "no")))
    with pytest.raises(OutOfResources):
        archive.keep_part(key)


def test_what_an_interrupted_application_left_is_written_over(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    key = kept(archive, b"torn, and longer than what it was torn from")
    archive.write(key, b"whole")
    assert archive.path(key).read_bytes() == b"whole"


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    assert archive.path(kept(archive)).stat().st_mode & 0o077 == 0
    assert (tmp_path / "root").stat().st_mode & 0o077 == 0


def test_folders_fill_up_and_a_restart_begins_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MAX_FILES_PER_FOLDER", 2)
    archive = Archive(tmp_path / "root")
    assert [Path(archive.new_key()).parent.name for _ in range(3)] == ["00000000", "00000000", "00000001"]
    again = Archive(tmp_path / "root")
    assert Path(again.new_key()).parent.name == "00000002"
    assert again.folders() == ["00000000", "00000001", "00000002"]


@pytest.mark.parametrize("count", [3, filesystem.MAX_SINGLE_SYNCS + 1])
def test_a_sync_reaches_every_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    archive = Archive(tmp_path / "root")
    keys = [kept(archive, b"x") for _ in range(2)] + ["objects/00000000/gone.dcm"] * (count - 2)
    synced: list[str] = []
    for name in ("sync_file", "sync_folder", "sync_file_system"):
        real = getattr(filesystem, name)

        def sync(path: Path, name: str = name, real: Callable[[Path], None] = real) -> None:
            real(path)
            synced.append(f"{name} {path.resolve().relative_to(archive.root)}")

        monkeypatch.setattr(filesystem, name, sync)
    archive.sync(keys)
    if count > filesystem.MAX_SINGLE_SYNCS:
        assert synced == ["sync_file_system objects/00000000"]
    else:
        assert synced == [f"sync_file {keys[0]}", f"sync_file {keys[1]}", "sync_folder objects/00000000"]


def failing_once(monkeypatch: pytest.MonkeyPatch, target: object, name: str, suffix: str) -> None:
    """Let a function fail with ENOSPC the first time that it is called for a path that ends so."""
    real, failed = getattr(target, name), []

    def fail(path: Path, **arguments: int) -> None:
        if str(path.resolve()).endswith(suffix) and not failed:
            failed.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, **arguments)

    monkeypatch.setattr(target, name, fail)


def test_a_folder_that_the_full_disk_did_not_make_is_made_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path / "root")
    failing_once(monkeypatch, Path, "mkdir", "objects/00000000")
    with pytest.raises(OutOfResources, match="ENOSPC"):
        archive.new_key()
    assert archive.path(kept(archive)).exists()
    assert archive.intake.stopped is None


def test_nothing_is_kept_in_a_folder_whose_name_was_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path / "root")
    failing_once(monkeypatch, filesystem, "sync_folder", "/objects")
    with pytest.raises(OutOfResources, match="ENOSPC"):
        archive.new_key()
    assert archive.folders() == [], "each attempt on a full disk would leave another one"
    assert archive.path(kept(archive)).exists()
    assert archive.folders() == ["00000000"]


def test_an_abandoned_part_is_gone_and_may_be_abandoned_again(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    part = archive.open_part(archive.new_key())
    part.write(b"x")
    part.abandon()
    part.abandon()
    assert not list((tmp_path / "root" / "incoming").iterdir())


def test_a_full_disk_is_out_of_resources_with_the_error_and_no_path(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    part = archive.open_part(archive.new_key())
    part._close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        part._file = full.fileno()
        with pytest.raises(OutOfResources, match="ENOSPC") as refusal:
            part.write(b"x")
    assert str(tmp_path) not in str(refusal.value)
    part.abandon()


def test_quarantine_moves_a_file_out_of_the_objects(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "root")
    key = kept(archive)
    archive.quarantine(key)
    assert not archive.path(key).exists()
    assert archive.path(archive.quarantine_key(key)).exists()
    archive.remove(key)


def test_a_new_name_of_a_part_is_synced_before_the_old_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path / "root")
    key = archive.new_key()
    parts = [archive.open_part(key), archive.open_part(archive.new_key()), archive.open_part(archive.new_key())]
    parts[0].finish()
    archive.keep_part(key)
    synced: list[str] = []
    monkeypatch.setattr(filesystem, "sync_folder", lambda folder: synced.append(folder.resolve().name))
    for part in parts[1:]:
        part.finish()
    assert synced == ["00000000", "incoming", "incoming"]
