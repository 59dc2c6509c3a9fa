"""Room on the disk with two marks that do not flap, and a stop that only a new start ends."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from node.archive.intake import STOPPED_FILE, Intake
from node.errors import OutOfResources


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how many bytes the disk has left."""

    def set_free(count: int) -> None:
        monkeypatch.setattr(Intake, "free_bytes", lambda self: count)

    return set_free


def test_associations_are_refused_before_instances(tmp_path: Path, free: Callable[[int], None]) -> None:
    intake = Intake(tmp_path, reserve_bytes=1000, low_bytes=2000)
    free(2000)
    assert intake.refusal() is None
    free(1999)
    assert "twice [storage] reserve_bytes" in (intake.refusal() or "")
    intake.require()
    free(999)
    with pytest.raises(OutOfResources, match="reserve_bytes"):
        intake.require()
    assert not intake.has_room()


def test_what_was_refused_comes_back_with_a_tenth_more_than_the_mark(
    tmp_path: Path, free: Callable[[int], None]
) -> None:
    intake = Intake(tmp_path, reserve_bytes=1000, low_bytes=2000)
    free(900)
    assert intake.refusal()
    with pytest.raises(OutOfResources):
        intake.require()
    free(1050)
    with pytest.raises(OutOfResources):
        intake.require()
    free(1100)
    intake.require()
    free(2100)
    assert intake.refusal()
    free(2200)
    assert intake.refusal() is None
    free(2000)
    assert intake.refusal() is None


def test_the_mark_of_associations_is_never_below_the_reserve(tmp_path: Path, free: Callable[[int], None]) -> None:
    intake = Intake(tmp_path, reserve_bytes=1000, low_bytes=0)
    free(999)
    assert intake.refusal()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_want_of_room_stops_nothing(tmp_path: Path, error: int) -> None:
    intake = Intake(tmp_path)
    assert errno.errorcode[error] in str(intake.failed(OSError(error, "full")))
    assert intake.stopped is None
    intake.require()


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
    assert json.loads((tmp_path / STOPPED_FILE).read_text())["reason"] == intake.stopped
    assert Intake(tmp_path).stopped is None
    assert not (tmp_path / STOPPED_FILE).exists()


def test_a_stop_that_cannot_be_noted_is_one_nevertheless(tmp_path: Path) -> None:
    intake = Intake(tmp_path)
    (tmp_path / STOPPED_FILE).mkdir()
    intake.stop("broken")
    assert intake.stopped == "broken"
