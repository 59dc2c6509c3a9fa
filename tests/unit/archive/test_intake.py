"""Room on the disk with two marks that do not flap, and a stop that only a new start ends."""

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from node.archive import space
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
