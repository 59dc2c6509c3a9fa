"""Room on the disk with two marks that do not flap, and a stop that only a new start ends."""

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from node.archive import filesystem, space
from node.archive.filesystem import Archive
from node.archive.intake import Intake
from node.archive.space import MIN_FREE_BYTES, MIN_FREE_INODES, reason_of
from node.errors import OutOfResources

MB = 1 << 20


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say how many bytes the disk has left."""

    def set_free(count: float) -> None:
        monkeypatch.setattr(space, "free_bytes", lambda disk: int(count))

    return set_free


def test_associations_are_refused_before_instances(tmp_path: Path, free: Callable[[float], None]) -> None:
    intake = Intake(tmp_path, reserve_bytes=10 * MB, low_bytes=20 * MB)
    free(20 * MB)
    assert intake.refusal() is None
    free(199 * MB // 10)
    assert "twice [storage] reserve_bytes" in (intake.refusal() or "")
    intake.require()
    free(99 * MB // 10)
    with pytest.raises(OutOfResources, match="reserve_bytes"):
        intake.require()
    assert not intake.has_room()


def test_the_trash_is_named_only_if_emptying_it_makes_room(tmp_path: Path, free: Callable[[float], None]) -> None:
    intake, trash = Intake(tmp_path, reserve_bytes=10 * MB, low_bytes=20 * MB), [False]
    intake.watch([], has_trash=lambda: trash[0])
    free(9 * MB)
    for told in (intake.refusal, intake.waits_for):
        trash[0] = False
        assert (told() or "").endswith("; remove files from its disk")
        trash[0] = True
        assert (told() or "").endswith("or run `voxelnode trash empty --all`")


def test_what_was_refused_comes_back_a_tenth_above_the_mark(tmp_path: Path, free: Callable[[float], None]) -> None:
    intake = Intake(tmp_path, reserve_bytes=10 * MB, low_bytes=20 * MB)
    free(9 * MB)
    assert intake.refusal()
    with pytest.raises(OutOfResources):
        intake.require()
    free(105 * MB // 10)
    with pytest.raises(OutOfResources):
        intake.require()
    free(11 * MB)
    intake.require()
    free(21 * MB)
    assert intake.refusal()
    free(22 * MB)
    assert intake.refusal() is None
    free(20 * MB)
    assert intake.refusal() is None


def test_the_mark_of_associations_is_never_below_the_reserve(tmp_path: Path, free: Callable[[float], None]) -> None:
    intake = Intake(tmp_path, reserve_bytes=10 * MB, low_bytes=0)
    free(99 * MB // 10)
    assert intake.refusal()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_want_of_room_stops_nothing(tmp_path: Path, error: int) -> None:
    intake = Intake(tmp_path)
    assert errno.errorcode[error] in str(intake.failed(OSError(error, "full")))
    assert intake.stopped is None
    intake.require()


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(errno.ENOTCONN, "mount it again"), (errno.ESTALE, "mount it again"), (errno.EOPNOTSUPP, "like ext4 or XFS")],
)
def test_errors_of_network_file_systems_have_a_remedy(tmp_path: Path, error: int, remedy: str) -> None:
    intake = Intake(tmp_path)
    refused = intake.failed(OSError(error, os.strerror(error)))
    assert remedy in (intake.stopped or "")
    assert remedy not in str(refused), "peers get the error only"


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("door", ["refusal", "waits_for", "has_room", "free_bytes", "is_short", "require"])
def test_a_disk_that_does_not_tell_its_room_stops_intake_and_nobody_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, door: str
) -> None:
    intake = Intake(tmp_path)
    monkeypatch.setattr(space.os, "statvfs", Mock(side_effect=OSError(error, os.strerror(error))))
    with suppress(OutOfResources):
        found = getattr(intake, door)
        found = found() if callable(found) else found
        assert found in (0, False) or "check the disk and the folder, then restart the node" in found
    assert (intake.stopped or "").startswith(f"disk: {errno.errorcode[error]}: ")


@pytest.mark.parametrize(("error", "remedy"), [(errno.EMFILE, "LimitNOFILE="), (errno.EFBIG, "LimitFSIZE=")])
def test_errors_of_limits_have_a_remedy(tmp_path: Path, error: int, remedy: str) -> None:
    assert remedy in reason_of(OSError(error, os.strerror(error)), tmp_path)


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS])
def test_any_other_error_stops_until_the_next_start_and_the_first_reason_stays(tmp_path: Path, error: int) -> None:
    intake = Intake(tmp_path)
    intake.failed(OSError(error, "broken"))
    intake.stop("later")
    name = errno.errorcode[error]
    assert intake.stopped == f"disk: {name}: broken"
    for ask in (intake.require, intake.require_sound):
        with pytest.raises(OutOfResources, match=name):
            ask()
    assert name in (intake.refusal() or "")
    assert not intake.has_room()
    assert Intake(tmp_path).stopped is None


def test_without_a_reserve_the_last_bytes_refuse_all_the_same(tmp_path: Path, free: Callable[[float], None]) -> None:
    intake = Intake(tmp_path)
    free(MIN_FREE_BYTES - 1)
    assert intake.refusal()
    assert not intake.has_room()
    with pytest.raises(OutOfResources, match=r"^[0-9.]+ MB free, [0-9.]+ MB are kept in reserve"):
        intake.require()


@pytest.mark.parametrize(("inodes", "is_enough"), [(0, False), (MIN_FREE_INODES, True), (None, True)])
def test_without_inodes_nothing_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inodes: int | None, is_enough: bool
) -> None:
    intake = Intake(tmp_path)
    monkeypatch.setattr(space, "free_inodes", lambda disk: inodes)
    assert intake.has_room() is is_enough
    if is_enough:
        assert intake.refusal() is None
        intake.require()
    else:
        assert "0 inodes free" in (intake.refusal() or "")
        with pytest.raises(OutOfResources, match="0 inodes free"):
            intake.require()


def test_a_shortage_is_reported_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = Intake(tmp_path)
    assert intake.shortage is None
    intake.failed(OSError(errno.EDQUOT, "quota"))
    assert re.fullmatch(
        rf"EDQUOT: quota; {tmp_path} has [0-9.]+ [kMGT]B( and \d+ inodes)? free: .+", intake.shortage or ""
    )
    monkeypatch.setattr("node.archive.intake.monotonic", lambda: float("inf"))
    assert intake.shortage is None


@pytest.mark.parametrize("how", ["removed", "replaced"])
@pytest.mark.parametrize("name", ["index.sqlite", "lock", "journal", "."])
def test_a_file_that_is_gone_under_a_running_node_stops_intake(tmp_path: Path, name: str, how: str) -> None:
    root = tmp_path / "root"
    (root / "journal").mkdir(parents=True)
    for file in ("index.sqlite", "lock"):
        (root / file).touch()
    intake = Intake(root)
    intake.watch([root, root / "lock", root / "index.sqlite", root / "journal"])
    intake.require()
    path = root / name
    path.rename(tmp_path / "gone")
    if how == "replaced":
        path.mkdir() if name in ("journal", ".") else path.touch()
    assert f"{path} was {how} while the node was running" in (intake.refusal() or "")
    assert not intake.has_room()
    with pytest.raises(OutOfResources, match=how):
        intake.require_sound()


# Bytes at rest: durable, under names that the node makes, never overwritten.


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
